"""A moment and its number are each other, over all years that a moment can name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.timestamps import FIRST_US, LAST_US, day_text, microseconds, minute_text, moment_at, second_text, whole_seconds, within_years

LAST = datetime(3059, 1, 1, 0, 0, 0, 999_997, tzinfo=UTC)
"""As a float its seconds are the next whole number."""


@given(
    st.datetimes(
        datetime(1, 1, 2),
        datetime(9999, 12, 30),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
        allow_imaginary=False,
    )
)
@example(LAST)
@example(datetime.max.replace(tzinfo=UTC))
@example(datetime.min.replace(tzinfo=UTC))
def test_there_and_back(at: datetime) -> None:
    us = microseconds(at)
    assert moment_at(us) - at == timedelta(0)
    assert whole_seconds(at) == us // 1_000_000


def test_a_moment_without_a_zone_is_utc() -> None:
    assert microseconds(LAST.replace(tzinfo=None)) == microseconds(LAST)


def test_a_number_that_no_moment_has_is_refused() -> None:
    with pytest.raises(OverflowError):
        moment_at(2**63)


@given(st.floats(-1e30, 1e30) | st.integers(-(2**63), 2**63 - 1))
@example(-(2**63))
@example(2**63 - 1)
def test_every_number_has_a_text_for_people(us: float) -> None:
    """A client may send any moment, and what tells of it must not end."""
    for text in (day_text, minute_text, second_text):
        assert text(us) == text(min(max(us, FIRST_US), LAST_US))
    assert FIRST_US <= within_years(us) <= LAST_US
    assert (moment_at(FIRST_US).year, moment_at(LAST_US).year) == (1, 9999)
