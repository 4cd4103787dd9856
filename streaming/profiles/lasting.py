"""A unit that changed before the days that are looked at, and lasts: since then it is part of what is taken for usual. Pure.

Example: degrees have been Celsius for eight days. The newest seven are all alike, and the day before them says that they are as usual. So the
days are begun earlier, too, until what is before them is in the old unit.
"""

from __future__ import annotations

from collections.abc import Sequence

from streaming.profiles.facts import DAY_US, Rows, joined
from streaming.profiles.unusual import find_unusual, has_past
from streaming.profiles.violation import Violation

DEPTHS = (7, 14, 28)
"""Days that are looked at besides, as far as they are more than those that are asked for."""


def begins_us(days: float, upto_us: int) -> tuple[int, ...]:
    """Where the days begin that are looked at besides, microseconds, the nearest first."""
    return tuple(upto_us - depth * DAY_US for depth in DEPTHS if depth > days)


def find_lasting(source: str, before: Rows, rows: Rows, span_us: tuple[int, int], begins: Sequence[int]) -> list[Violation]:
    """Units of a source that changed earlier and last.

    Args:
        before: rows of before `span_us`, the days that were looked at; rows: of these, and of a day more before them.
        begins: see `begins_us`.
    """
    if not begins:
        return []
    from_us, upto_us = span_us
    found: dict[str, Violation] = {}
    whole = joined(before, rows.between(from_us, upto_us))
    for begin in begins:
        past = whole.between(0, begin)
        if not has_past(past):
            break
        for one in find_unusual(source, past, whole.between(begin - DAY_US, upto_us), begin, upto_us, begin):
            if one.kind == "unit":
                found.setdefault(one.column, one)
    return list(found.values())
