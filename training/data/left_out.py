"""Examples that a training leaves out, by intervals of their moments: a source is proven to have been at fault while they were made.

An interval is `(first, last)`, microseconds since the epoch (UTC), both in it. As text it is that of ISO 8601,
`2013-05-01T10:00:00+00:00/2013-05-02T11:30:00+00:00`. A date as its end means the whole day: `2013-05-01/2013-05-02` is two days.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from infra.timestamps import FIRST_US, LAST_US, microseconds, minute_text, moment_at, within_years

Interval = tuple[int, int]
DAY_US = 86_400_000_000


def interval_text(span: Interval) -> str:
    return "/".join(moment_at(within_years(us)).isoformat() for us in span)


def interval_of(text: str) -> Interval:
    """
    Raises:
        ValueError: the text is no interval, ends before it begins, or lies outside the years 1 to 9999.
    """
    try:
        begin, end = text.split("/")
        first, last = (microseconds(datetime.fromisoformat(one)) for one in (begin, end))
        last += DAY_US - 1 if _is_date(end) else 0
    except ValueError:
        raise ValueError(f"{text!r} is no interval of ISO moments, such as 2024-05-01T10:00/2024-05-02T06:30") from None
    if first < FIRST_US or last > LAST_US:
        raise ValueError(f"the interval {text!r} is not within the years 1 to 9999 of UTC")
    if last < first:
        raise ValueError(f"the interval {text!r} ends before it begins")
    return first, last


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def overlapping(spans: Sequence[Interval], first_us: int, end_us: int) -> list[Interval]:
    """Those that have a moment in `[first, end)`."""
    return [(first, last) for first, last in spans if first < end_us and last >= first_us]


def words(spans: Sequence[Interval], rows: int) -> str:
    """What was left out, for a person."""
    listed = ", ".join(f"{minute_text(first)} to {minute_text(last)}" for first, last in spans)
    return f"{rows:,} examples of {listed}"
