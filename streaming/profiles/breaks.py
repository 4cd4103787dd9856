"""Breaks in a column that no world makes: another unit from one day to the next, and a value that stands for none. Pure.

A level moves with the seasons, and a storm makes one that never was. So a level alone proves little. Four things say more:

* Degrees Fahrenheit become Celsius: between two days lies a leap that never was, and converted back there is none.
* Seconds become hours: all is as before, and 60 or 3,600 times as wide, or as narrow.
* Something fails and sends -9999: the rows that are beyond all that was are one single value.
* Something is stuck: a flag that was 1 in every tenth row is 0 for a day.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.profiles.facts import DAY_US, Floats, Moments, Rows, records, weekday_of
from streaming.profiles.violation import Violation

LEAP, EXPLAINED = 1.25, 0.35
"""So many times the greatest leap of the usual days is one; converted back, less than so much of it may be left."""
NEAR_US = 3 * DAY_US
"""Days that lie so close are held against each other: a change at noon has a day between them that is of both kinds."""
WIDER, RECORD = 5.0, 1.6
"""Another width is so many times wider or narrower, and so clear a record."""
STRANGER, FEWEST = 0.02, 5
"""Share of a day's rows, and rows, from which one value that never was is a sentinel."""
FAR = 0.5
"""It lies so many times the width of all that was beyond it: a default that moves on, such as this year, is just beyond."""
FEWEST_LEAPS = 10
SPIKE, SELDOM, NEW = 0.1, 0.01, 4.0
"""One value is a spike where it has so much more of the rows than the values beside it, and a new one where it had hardly more before, and
where no value had a part of that: a default may move on.
"""
BESIDE, SMOOTH, MANY = 3, 0.3, 64
"""Values on either side that say what a value's share would be; how much the shares of values that lie side by side must go together, so
that these are amounts and no codes; and of so many values nobody asks."""
NEVER = 14.0
"""So many other values have to be expected of a day that has none (by chance it would be one day of a million)."""
_SCALES = {
    "60": 60.0,
    "1000": 1000.0,
    "100": 100.0,
    "10": 10.0,
    "3600": 3600.0,
    "24": 24.0,
    "2.54": 2.54,
    "3.28": 1 / 0.3048,
    "1.61": 1.609344,
}
CONVERSIONS: dict[str, tuple[float, float]] = {
    "x 1.8 + 32": (1.8, 32.0),
    "(x - 32) / 1.8": (1 / 1.8, -32 / 1.8),
    "x - 273.15": (1.0, -273.15),
    "x + 273.15": (1.0, 273.15),
    **{f"x {name}": (scale, 0.0) for name, scale in _SCALES.items()},
    **{f"x / {name}": (1 / scale, 0.0) for name, scale in _SCALES.items()},
    "x -1": (-1.0, 0.0),
}
"""What a unit does to a number: factor and offset."""
LEVELS = ("low", "middle", "high")


@dataclass(frozen=True)
class Leap:
    """
    Attributes:
        before, place: the days between which it lies.
        name: of the conversion.
    """

    before: int
    place: int
    name: str


def find_conversion(levels: Floats, days: Moments, usual: Floats, then: Moments) -> Leap | None:
    """Since when a column is in another unit, and which; None: it is not.

    Args:
        levels: where 10 %, 50 % and 90 % of the values lie by day, float64 [3, d]; usual: the same of the usual days, [3, u].
        days, then: ends of the days, int64 [d] and [u].
    """
    greatest = _leaps(usual, then)
    if greatest is None or np.isnan(levels[:, -1]).any():
        return None
    for place in range(1, len(days)):
        explained = []
        for first in range(place):
            leap = np.abs(levels[:, place] - levels[:, first])
            # a day that is not known compares with none
            if days[place] - days[first] <= NEAR_US and leap[1] >= LEAP * greatest[1] and (leap >= greatest / 2).all():
                explained += [(*_left(levels[:, place], levels[:, first], greatest), first)]
        if explained:
            left, name, first = min(explained)
            if left <= EXPLAINED and _lasts(levels[:, -1], levels[:, first], CONVERSIONS[name]):
                middle = levels[1]
                over = np.abs(middle - middle[place]) < np.abs(middle - middle[first])
                return Leap(first, first + 1 + int(np.argmax(over[first + 1 : place + 1])), name)
    return None


def _left(now: Floats, before: Floats, greatest: Floats) -> tuple[float, str]:
    """What is left of a leap, in those that there were, by the conversion that leaves the least."""
    return min((float((np.abs((now - offset) / factor - before) / greatest).max()), name) for name, (factor, offset) in CONVERSIONS.items())


def _leaps(usual: Floats, then: Moments) -> Floats | None:
    """By level, the farthest that two usual days lie apart which are near each other; None: there are too few."""
    found = []
    for lag in (1, 2, 3):
        near = then[lag:] - then[:-lag] <= NEAR_US
        found += [np.abs(usual[:, lag:] - usual[:, :-lag])[:, near]]
    leaps = np.concatenate(found, axis=1)
    leaps = leaps[:, ~np.isnan(leaps).any(axis=0)]
    if leaps.shape[1] < FEWEST_LEAPS:
        return None
    greatest = np.asarray(leaps.max(axis=1), dtype=np.float64)
    return greatest if (greatest > 0).all() else None


def _lasts(last: Floats, before: Floats, conversion: tuple[float, float]) -> bool:
    """Whether the last day is nearer to what was when it is converted back."""
    factor, offset = conversion
    return bool(abs((last[1] - offset) / factor - before[1]) < abs(last[1] - before[1]))


def find_width(levels: Floats, days: Moments, usual: Floats, then: Moments) -> int | None:
    """The day since which all values lie much wider or narrower than they ever did; None: they do not.

    Both sides of the middle have to: a value that always stood for none, and gains share, moves one of them.

    Args:
        levels, days, usual, then: see `find_conversion`.
    """
    sides = []
    for side in (0, 1):
        with np.errstate(divide="ignore", invalid="ignore"):
            now, before = (np.log(one[side + 1] - one[side]) for one in (levels, usual))
        now[~np.isfinite(now)], before[~np.isfinite(before)] = np.nan, np.nan
        if np.isnan(before).mean() > 0.1:
            return None
        middles, record = records(before, weekday_of(then), 0.15)
        away = now - middles[weekday_of(days)]
        sides.append(np.sign(away) * (np.abs(away) > max(RECORD * record, float(np.log(WIDER)))))
    hit = (sides[0] == sides[1]) & (sides[0] != 0) & ~np.isnan(sides[0])
    if not hit[-1]:
        return None
    return len(hit) - int(np.argmin(hit[::-1])) if not hit.all() else 0


def find_stranger(values: Floats, usual: Floats) -> tuple[float, float] | None:
    """A value beyond all that was, and its share of a day's rows; None: what is beyond is no single value, or is seldom.

    Args:
        values: of the last day, float64 [n]; usual: of the usual time, [u].
    """
    known = values[~np.isnan(values)]
    was = usual[np.isfinite(usual)]  # one infinite row of the past would have all values within what was
    if not len(known) or not len(was):
        return None
    beyond = known[((known < was.min()) | (known > was.max())) & ~np.isin(known, usual[np.isinf(usual)])]
    if len(beyond) < max(FEWEST, STRANGER * len(known)):
        return None
    each, counts = np.unique(beyond, return_counts=True)
    value, count = float(each[counts.argmax()]), int(counts.max())
    far = max(was.min() - value, value - was.max()) >= FAR * (was.max() - was.min())
    return (value, len(beyond) / len(known)) if far and count >= 0.9 * len(beyond) else None


def is_new_spike(values: Floats, usual: Floats) -> bool:
    """Whether one value has far more of the rows than those beside it, and had not before: a zero for what is unknown, or a cut at a bound.

    A default that always was there and gains share is none, nor is the end of a scale that gains share with all that lies near it.
    Of codes nobody can say it: no code lies beside another.

    Args:
        values: of the last day, float64 [n]; usual: of the usual time, [u].
    """
    now, then = values[~np.isnan(values)], usual[~np.isnan(usual)]
    if not len(now) or not len(then):
        return False
    each, place = np.unique(np.concatenate([now, then]), return_inverse=True)
    if len(each) < 2 * BESIDE + 2:
        return False
    shares, were = (np.bincount(part, minlength=len(each)) / len(part) for part in (place[: len(now)], place[len(now) :]))
    if len(each) <= MANY and not np.corrcoef(were[:-1], were[1:])[0, 1] >= SMOOTH:
        return False
    spike = int(shares.argmax())
    more = _above_beside(shares, spike)
    return more >= SPIKE and _above_beside(were, spike) <= SELDOM and _above_beside(were, int(were.argmax())) <= more / NEW


def _above_beside(shares: Floats, place: int) -> float:
    """How much more of the rows a value has than any of those beside it."""
    beside = np.arange(max(place - BESIDE, 0), min(place + BESIDE + 1, len(shares)))
    return float(shares[place] - shares[beside[beside != place]].max())


def is_constant(values: Floats, usual: Floats) -> bool:
    """Whether a day has one value only, and by chance never would: also of a flag that is mostly 0.

    Args:
        values: of the day, float64 [n]; usual: share of the commonest value on the usual days, [u].
    """
    known = values[~np.isnan(values)]
    if len(known) < FEWEST or np.isnan(usual).all():
        return False
    return bool((known == known[0]).all() and (1 - float(np.nanmax(usual))) * len(known) >= NEVER)


def find_breaks(
    source: str,
    column: str,
    rows: Rows,
    before: Rows,
    profiles: tuple[dict[tuple[str, str], Floats], dict[tuple[str, str], Floats]],
    ends: tuple[Moments, Moments],
) -> list[Violation]:
    """What breaks in a column of a source, each with rows that show it.

    Args:
        profiles: of the days that are looked at, and of the usual ones; ends: of both.
    """
    (facts, usual), (days, then) = profiles, ends
    begin = int(np.searchsorted(rows.at_us, days[-1] - DAY_US))
    day = rows.columns[column][begin:]
    if is_constant(day, usual["one value", column]):
        value = float(day[~np.isnan(day)][0])
        others = np.flatnonzero(~np.isnan(rows.columns[column]) & (rows.columns[column] != value))
        first = int(others[-1]) + 1 if len(others) else 0
        text = (
            f"{column} is {value:g} in all rows of a day, where {float(np.nanmedian(usual['one value', column])):.0%} of one value is usual"
        )
        shown = [rows.shown(i, column) for i in range(max(first - 1, 0), min(first + 3, len(rows)))]
        return [Violation(source, "one value", column, int(rows.at_us[min(first, len(rows) - 1)]), text, shown)]
    stranger = find_stranger(day, before.columns[column])
    if stranger is not None:  # levels and widths say what it makes of them, and nothing else
        value, share = stranger
        places = np.flatnonzero(rows.columns[column] == value)
        text = f"{column} is {value:g} in {share:.0%} of the rows, and never was before"
        return [Violation(source, "one value", column, int(rows.at_us[places[0]]), text, [rows.shown(int(i), column) for i in places[-3:]])]
    levels, were = (np.stack([one[level, column] for level in LEVELS]) for one in (facts, usual))
    conversion = find_conversion(levels, days, were, then)
    if conversion is not None:
        at_us, (was, now) = int(days[conversion.place]), (float(levels[1, place]) for place in (conversion.before, conversion.place))
        text = f"{column} leaps from {was:g} to {now:g} in the middle, as {conversion.name} would"
        return [Violation(source, "unit", column, at_us - DAY_US, text, _around(rows, column, at_us))]
    place = find_width(levels, days, were, then)
    if place is not None:
        at_us, usual_width = int(days[place]), float(np.nanmedian(were[2] - were[0]))
        text = f"{column} is {levels[2, -1] - levels[0, -1]:g} wide (10 % to 90 %), where {usual_width:g} is usual"
        return [Violation(source, "unit", column, at_us - DAY_US, text, _around(rows, column, at_us))]
    return []


def _around(rows: Rows, column: str, end_us: int) -> list[str]:
    """Rows of before a break and of after it."""
    first, last = np.searchsorted(rows.at_us, [end_us - NEAR_US, end_us])
    return [
        rows.shown(int(i), column)
        for i in (*range(int(first), min(int(first) + 2, int(last))), *range(max(int(last) - 2, int(first)), int(last)))
    ]
