"""Intervals whose examples a training leaves out: as text and back, and those that matter to a split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.left_out import interval_of, interval_text, overlapping, words

MOMENT = st.integers(0, 4_000_000_000_000_000)
INTERVAL = st.tuples(MOMENT, MOMENT).map(lambda ends: (min(ends), max(ends)))


@given(INTERVAL)
def test_an_interval_survives_being_text_to_the_microsecond(span: tuple[int, int]) -> None:
    assert interval_of(interval_text(span)) == span


def test_a_moment_without_a_zone_is_utc() -> None:
    assert interval_of("1970-01-01/1970-01-02T00:00") == (0, 86_400_000_000)
    assert interval_of("1970-01-01T01:00+01:00/1970-01-01T00:00") == (0, 0)


@pytest.mark.parametrize("end", ["2024-05-02", "20240502", "2024-W18-4", "2024-05-02T23:59:59.999999"])
def test_a_date_as_the_end_means_the_whole_day(end: str) -> None:
    assert interval_of(f"2024-05-01/{end}") == (1_714_521_600_000_000, 1_714_521_600_000_000 + 2 * 86_400_000_000 - 1)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+05:00/2024-05-01", "2024-05-01/9999-12-31T23:59-05:00"])
def test_a_moment_that_no_calendar_has_in_utc_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match="not within the years 1 to 9999"):
        interval_of(text)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_every_interval_has_a_text_and_words(first: int, last: int) -> None:
    assert interval_of(interval_text((min(first, last), max(first, last))))
    assert words([(first, last)], 3)


@pytest.mark.parametrize("text", ["", "2024-05-01", "2024-05-01/", "2024-05-01/soon", "2024-05-01/2024-05-02/2024-05-03"])
def test_what_is_no_interval_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2024-05-01T10:00/2024-05-02T06:30"):
        interval_of(text)


def test_an_interval_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it begins"):
        interval_of("2024-05-02/2024-05-01")


@given(st.lists(INTERVAL), MOMENT, st.integers(1, 10**15))
def test_what_overlaps_is_what_has_a_moment_in_common(spans: list[tuple[int, int]], first: int, length: int) -> None:
    """The naive twin: the latest beginning is a moment of both, or there is none."""
    end = first + length
    assert overlapping(spans, first, end) == [s for s in spans if first <= max(s[0], first) < end and s[0] <= max(s[0], first) <= s[1]]


def test_a_person_reads_how_many_and_when() -> None:
    assert words([(0, 3_600_000_000)], 1234) == "1,234 examples of 1970-01-01 00:00 to 1970-01-01 01:00"
