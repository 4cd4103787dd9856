"""A moment and its number of microseconds since the epoch, each made of the other in whole numbers.

`datetime.timestamp()` is a float: far from 1970 it rounds a second's end up to the next second.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
FIRST_US, LAST_US = ((at - EPOCH) // _US for at in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)))
"""The moments that a calendar has, microseconds since the epoch: of the years 1 to 9999."""


def microseconds(at: datetime) -> int:
    """Since the epoch; a moment without a zone is UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // _US


def whole_seconds(at: datetime) -> int:
    """Since the epoch, rounded down; a moment without a zone is UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // _SECOND


def within_years(us: float) -> int:
    """Microseconds since the epoch; of what no calendar has, the first or the last moment of the years 1 to 9999."""
    return int(min(max(us, FIRST_US), LAST_US))


def day_text(us: float) -> str:
    """`2013-10-15`, in UTC."""
    return f"{moment_at(within_years(us)):%Y-%m-%d}"


def minute_text(us: float) -> str:
    """`2013-10-15 08:30`, in UTC."""
    return f"{moment_at(within_years(us)):%Y-%m-%d %H:%M}"


def second_text(us: float) -> str:
    """`2013-10-15 08:30:00`, in UTC."""
    return f"{moment_at(within_years(us)):%Y-%m-%d %H:%M:%S}"


def moment_at(us: float) -> datetime:
    """The moment in UTC so many microseconds after the epoch.

    Raises:
        OverflowError: it is outside the years 1 to 9999.
    """
    return EPOCH + timedelta(microseconds=int(us))


def span_text(seconds: float) -> str:
    """A length of time for people: `40 s`, `3 min`, `5 h`, `2 d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
