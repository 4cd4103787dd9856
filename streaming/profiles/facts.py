"""What the rows of a source look like, day by day: a profile. Pure.

A day here ends at any time of day: the profile of a window's last 24 hours is held against stretches of 24 hours that end at the same
hour, so that a day that is not over yet is no small day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Moments = NDArray[np.int64]
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Rows:
    """Rows of a source, in order of their event time.

    Attributes:
        at_us: event times, int64 [n].
        known_us: when each became known, int64 [n]; the event time where the source does not say.
        key: a number per entity, int64 [n].
        columns: float64 [n] by name; NaN is null.
        named: the entity of a row by its place, as text; None: nobody knows it.
    """

    at_us: Moments
    known_us: Moments
    key: Moments
    columns: Mapping[str, Floats]
    named: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.at_us)

    def between(self, from_us: int, upto_us: int) -> Rows:
        """Those that happened from one moment on and before another."""
        begin, end = np.searchsorted(self.at_us, [from_us, upto_us]).tolist()
        part, named = slice(begin, end), self.named
        columns = {name: values[part] for name, values in self.columns.items()}
        own = None if named is None else lambda place: named(place + begin)
        return Rows(self.at_us[part], self.known_us[part], self.key[part], columns, own)

    def shown(self, place: int, column: str = "") -> str:
        """A row as text: its moment, its entity, and its value of a column."""
        moment = np.datetime64(int(self.at_us[place]), "us")
        value = f", {column} = {self.columns[column][place]:g}" if column else ""
        named = self.named(place) if self.named is not None else f"key {self.key[place]}"
        return f"{moment}Z, {named}{value}"


def without_strays(rows: Rows) -> Rows:
    """Rows without the few that lie far before all others: a clock that was not set dates what it sees 1970.

    Such a row is one of a hundred at most, and is farther from the others than these reach. With it, no silence would be long, and a past
    of three days would be one of years.
    """
    few = min(len(rows) // 100 + 1, len(rows) - 1)
    first = rows.at_us[: few + 1]
    strays = np.flatnonzero(np.diff(first) > int(rows.at_us[-1]) - first[1:]) if few > 0 else np.zeros(0, dtype=np.int64)
    if not len(strays) or len(rows) < 10:
        return rows
    kept = int(strays[-1]) + 1
    named = rows.named
    columns = {name: values[kept:] for name, values in rows.columns.items()}
    return Rows(
        rows.at_us[kept:], rows.known_us[kept:], rows.key[kept:], columns, None if named is None else lambda place: named(place + kept)
    )


def joined(first: Rows, second: Rows) -> Rows:
    """Rows of both, with the columns that both have."""
    at_us = np.concatenate([first.at_us, second.at_us])
    order = np.argsort(at_us, kind="stable")
    columns = {n: np.concatenate([first.columns[n], second.columns[n]])[order] for n in first.columns if n in second.columns}

    def named(place: int) -> str:
        own = int(order[place])
        rows, at = (first, own) if own < len(first) else (second, own - len(first))
        return rows.named(at) if rows.named is not None else f"key {rows.key[at]}"

    known_us, key = (np.concatenate(parts)[order] for parts in ((first.known_us, second.known_us), (first.key, second.key)))
    return Rows(at_us[order], known_us, key, columns, named)


FACTS = ("rows", "late", "keys", "twice")
OF_COLUMN = ("nulls", "one value", "low", "middle", "high")
FLOOR = {"rows": 0.15, "late": 0.7, "keys": 0.15, "twice": 0.01, "nulls": 0.03, "one value": 0.05}
"""No record is taken for less than this: in natural logarithms for rows, lateness and keys, in shares for the others."""


def profile(rows: Rows, ends_us: Moments) -> dict[tuple[str, str], Floats]:
    """Facts of the 24 hours before each of some moments.

    Args:
        ends_us: int64 [d].

    Returns:
        By fact and column (empty: of the rows as a whole), float64 [d]; NaN where there are no rows to say it of.
    """
    found = {(fact, ""): np.full(len(ends_us), np.nan) for fact in FACTS}
    found |= {(fact, name): np.full(len(ends_us), np.nan) for name in rows.columns for fact in OF_COLUMN}
    bounds = np.searchsorted(rows.at_us, np.stack([ends_us - DAY_US, ends_us]))
    for day, (begin, end) in enumerate(bounds.T.tolist()):
        count = end - begin
        found["rows", ""][day] = np.log1p(count)
        if not count:
            continue
        part = slice(begin, end)
        found["late", ""][day] = np.log1p(max(float(np.median(rows.known_us[part] - rows.at_us[part])) / 1e6, 0.0))
        found["keys", ""][day] = np.log1p(len(np.unique(rows.key[part])))
        pairs = np.unique(np.stack([rows.key[part], rows.at_us[part]]), axis=1).shape[1]
        found["twice", ""][day] = 1 - pairs / count
        for name, values in rows.columns.items():
            known = values[part][~np.isnan(values[part])]
            found["nulls", name][day] = 1 - len(known) / count
            if len(known):
                found["one value", name][day] = np.unique(known, return_counts=True)[1].max() / len(known)
            known = known[np.isfinite(known)]  # nothing lies anywhere near an infinite level, and no record is ever broken again
            if len(known):
                for fact, share in zip(OF_COLUMN[2:], (0.1, 0.5, 0.9), strict=True):
                    found[fact, name][day] = np.quantile(known, share)
    return found


def records(usual: Floats, weekday: Moments, floor: float) -> tuple[Floats, float]:
    """The middle of the days of each weekday, float64 [7], and how far the furthest day lies from that of its own, at least `floor`.

    Args:
        usual: float64 [d], some of them not NaN.
        weekday: of each day, 0..6, int64 [d]. One with fewer than three known days has the middle of all.
    """
    known = ~np.isnan(usual)
    middle = np.full(7, float(np.median(usual[known])))
    for day in range(7):
        own = usual[known & (weekday == day)]
        if len(own) >= 3:
            middle[day] = np.median(own)
    return middle, max(float(np.abs(usual[known] - middle[weekday[known]]).max()), floor)


def weekday_of(ends_us: Moments) -> Moments:
    """Of the day that ends at each moment, 0..6 (0: a Thursday, in UTC)."""
    return np.asarray((ends_us - DAY_US // 2) // DAY_US % 7, dtype=np.int64)
