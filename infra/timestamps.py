"""A moment and its number of microseconds since the epoch, each made of the other in whole numbers.

`datetime.timestamp()` is a float: far from 1970 it rounds a second's end up to the next second.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)


def microseconds(at: datetime) -> int:
    """Since the epoch; a moment without a zone is UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // _US


def whole_seconds(at: datetime) -> int:
    """Since the epoch, rounded down; a moment without a zone is UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // _SECOND


def moment_at(us: float) -> datetime:
    """The moment in UTC so many microseconds after the epoch.

    Raises:
        OverflowError: it is outside the years 1 to 9999.
    """
    return EPOCH + timedelta(microseconds=int(us))
