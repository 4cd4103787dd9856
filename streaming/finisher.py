"""Finish one entity's windows at a moment, straight from its stored tiles: the hot path of the online reader.

The same values as `tile.finish`, to the bit, without NumPy, a tree or a copy: a sum is a suffix of a row of tiles, added by `math.fsum`,
which is exactly rounded. For a handful of numbers plain Python is several times cheaper than an array of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from streaming import sketch
from streaming.sketch import Ragged
from streaming.tile import COUNT, HEADER_SIZE, levels_of
from streaming.window import Aggregation, Layout

_NAN = math.nan


@dataclass(frozen=True)
class _Level:
    """A level's windows, longest first, each with its aggregations and their places among the view's."""

    hop_us: int
    layout: Layout
    windows: list[tuple[int, list[tuple[int, Aggregation]]]]


class Finisher:
    """
    Attributes:
        empty: the values of an entity without events.
        hop_us: the finest hop.
    """

    def __init__(self, layout: Layout) -> None:
        place = {a.name: i for i, a in enumerate(layout.aggregations)}
        self._levels = []
        for level in levels_of(layout):
            windows: dict[int, list[tuple[int, Aggregation]]] = {}
            for aggregation in level.layout.aggregations:
                windows.setdefault(aggregation.window_us, []).append((place[aggregation.name], aggregation))
            self._levels.append(_Level(level.hop_us, level.layout, sorted(windows.items(), reverse=True)))
        self.hop_us = self._levels[0].hop_us
        self.empty = [_of_nothing(layout, a) for a in layout.aggregations]

    def __call__(self, blob: bytes, t_us: int) -> list[float]:
        """The view's features at `t_us`, NaN for null.

        Args:
            blob: a tile field whose header has been read and is of this layout (`tile.encode`).
        """
        out, whole, at = self.empty.copy(), memoryview(blob), HEADER_SIZE
        for level in self._levels:
            (n,) = COUNT.unpack_from(blob, at)
            begin, at = at + 4, at + 4 + 8 * n * (1 + level.layout.size)
            grid = whole[begin:at].cast("d")
            sketches = []
            for _ in level.layout.sketches:
                (m,) = COUNT.unpack_from(blob, at)
                sketches.append((at + 4, m))
                at += 4 + 4 * n + 16 * m
            if not n:
                continue
            stop = n if grid[n - 1] <= t_us else bisect_right(grid, t_us, 0, n)
            first = 0
            for window, wanted in level.windows:
                reach = t_us - window
                first = bisect_left(grid, reach - reach % level.hop_us, first, stop)
                if first >= stop:  # so are the shorter ones
                    break
                covered = _Covered(level.layout, grid, n, first, stop)
                for place, aggregation in wanted:
                    if aggregation.kind is None:
                        out[place] = covered.finish(aggregation)
                    else:
                        where = sketches[level.layout.sketches.index((aggregation.input, aggregation.kind))]
                        out[place] = _sketched(aggregation, blob, *where, n, first, stop)
        return out


def _of_nothing(layout: Layout, aggregation: Aggregation) -> float:
    if aggregation.kind is not None:
        return float(sketch.finish(aggregation.function, Ragged.empty(1))[0])
    return float(layout.finish(aggregation, layout.identity(1))[0])


class _Covered:
    """The tiles `[first, stop)` of one window, at least one, ascending by start. Statistics are shared between features."""

    __slots__ = ("first", "found", "grid", "n", "slots", "stop")

    def __init__(self, layout: Layout, grid: Any, n: int, first: int, stop: int) -> None:
        self.slots, self.grid, self.n, self.first, self.stop = layout.slots, grid, n, first, stop
        self.found: dict[int, Any] = {}

    def row(self, row: int) -> list[float]:
        base = (1 + row) * self.n
        values: list[float] = self.grid[base + self.first : base + self.stop].tolist()
        return values

    def finish(self, aggregation: Aggregation) -> float:
        slots, column, function = self.slots, aggregation.column, aggregation.function
        if function in ("last", "first"):
            return self._ordered(slots[column, function], function == "last")
        row = slots[column, "n"]
        n = self.found.get(row)
        if n is None:
            n = self.found[row] = sum(self.row(row))
        if function == "count":
            return float(n)
        if function in ("min", "max"):
            if not n:
                return _NAN
            return (min if function == "min" else max)(self.row(slots[column, function]))
        row = slots[column, "sum"]
        total: float = self._sum(row)
        if function == "sum":
            return total
        if function == "mean":
            return total / n if n else _NAN
        if n <= 1:
            return _NAN
        square = slots[column, "square"]
        return _deviation(n, *self._pair(row, total), *self._pair(square, self._sum(square)))

    def _ordered(self, row: int, last: bool) -> float:
        # tiles are ascending in time, so the newest value is in the last tile that has one, the oldest in the first
        base, grid, n = (1 + row) * self.n, self.grid, self.n
        places = range(self.stop - 1, self.first - 1, -1) if last else range(self.first, self.stop)
        for i in places:
            if math.isfinite(grid[base + i]):
                return float(grid[base + 2 * n + i])
        return _NAN

    def _terms(self, row: int) -> list[float]:
        low = self.row(row + 1)
        return self.row(row) + low if any(low) else self.row(row)

    def _sum(self, row: int) -> float:
        """The sum of all terms of a row of pairs, rounded once."""
        total: float | None = self.found.get(row)
        if total is None:
            try:
                total = math.fsum(self._terms(row))
            except (OverflowError, ValueError):  # beyond float64, or inf - inf
                with np.errstate(invalid="ignore", over="ignore"):
                    total = float(np.array(self.row(row)).sum())
            self.found[row] = total
        return total

    def _pair(self, row: int, total: float) -> tuple[float, float]:
        """A sum, and what its rounding left."""
        if not math.isfinite(total):
            return total, 0.0
        terms = self._terms(row)
        terms.append(-total)
        return total, math.fsum(terms)


def _deviation(n: float, hi: float, lo: float, square: float, rest: float) -> float:
    """`Layout.finish` of std, for numbers: the same operations in the same order."""
    p, e = _two_product(hi, hi)
    e = e + 2.0 * hi * lo
    q, f = _two_product(square, n)
    f = f + rest * n
    top, low = _add(q, f, -p, -e)
    variance = max(top + low, 0.0) / (n * (n - 1.0))
    return math.sqrt(variance) if variance == variance else _NAN


def _two_product(a: float, b: float) -> tuple[float, float]:
    p = a * b
    ca, cb = 134217729.0 * a, 134217729.0 * b
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def _two_sum(a: float, b: float) -> tuple[float, float]:
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def _add(ah: float, al: float, bh: float, bl: float) -> tuple[float, float]:
    s, e = _two_sum(ah, bh)
    t, f = _two_sum(al, bl)
    e = e + t
    hi = s + e
    e = (e - (hi - s)) + f
    total = hi + e
    lo = e - (total - hi)
    total = total if math.isfinite(s) else s
    return total, lo if math.isfinite(total) and math.isfinite(lo) else 0.0


def _sketched(aggregation: Aggregation, blob: bytes, at: int, m: int, n: int, first: int, stop: int) -> float:
    assert aggregation.kind is not None
    counts = np.frombuffer(blob, dtype="<u4", count=n, offset=at)
    lo, hi = int(counts[:first].sum()), int(counts[:stop].sum())
    at += 4 * n
    items = np.frombuffer(blob, np.dtype("<i8"), m, at)[lo:hi].astype(np.int64, copy=False)
    weights = np.frombuffer(blob, "<f8", m, at + 8 * m)[lo:hi]
    merged = sketch.combine(aggregation.kind, np.zeros(len(items), np.int64), items, weights, 1)
    return float(sketch.finish(aggregation.function, merged)[0])
