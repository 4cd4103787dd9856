"""A moment and its number are each other, over all years that a moment can name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.timestamps import microseconds, moment_at, whole_seconds

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
