"""Finish one entity's windows at a moment, straight from its stored tiles: the hot path of the online reader.

The same values as `tile.finish`, to the bit, without NumPy, a tree or a copy: a sum is a suffix of a row of tiles, added by `math.fsum`,
which is exactly rounded. For a handful of numbers plain Python is several times cheaper than an array of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streaming.aggregation import sketches
from streaming.aggregation.sketches import Ragged
from streaming.aggregation.tiles import COUNT, HEADER_SIZE, levels_of
from streaming.aggregation.windows import Aggregation, Layout, two_product, two_sum

_NAN = math.nan
FOREVER = 2**63 - 1


_COUNT, _SUM, _MEAN, _MIN, _MAX, _STD, _LAST, _FIRST, _SKETCH = range(9)
_CODES = {"count": _COUNT, "sum": _SUM, "mean": _MEAN, "min": _MIN, "max": _MAX, "std": _STD, "last": _LAST, "first": _FIRST}
_Op = tuple[int, int, int, int, int]
"""Place among the view's features, what to do, and the rows of the state: count, the statistic (of a sketch: its number), squares."""


@dataclass(frozen=True)
class _Level:
    """A level's windows, longest first, each with what is to be done of it."""

    hop_us: int
    rows: int
    sketches: int
    windows: list[tuple[int, list[_Op]]]


class Finisher:
    """
    Args:
        layout: that the tiles lie in.
        names: the features in the order their values are wanted in; default: the layout's.

    Attributes:
        empty: the values of an entity without events.
        hop_us: the finest hop.
    """

    def __init__(self, layout: Layout, names: Sequence[str] | None = None) -> None:
        by_name = {a.name: a for a in layout.aggregations}
        wanted = [by_name[name] for name in names or by_name]
        place = {a.name: i for i, a in enumerate(wanted)}
        self._functions = [a.function for a in wanted]
        self._kinds = [a.kind or "" for a in wanted]
        self._levels = []
        for level in levels_of(layout):
            windows: dict[int, list[_Op]] = {}
            for aggregation in level.layout.aggregations:
                windows.setdefault(aggregation.window_us, []).append((place[aggregation.name], *_compiled(level.layout, aggregation)))
            longest_first = sorted(windows.items(), reverse=True)
            self._levels.append(_Level(level.hop_us, 1 + level.layout.size, len(level.layout.sketches), longest_first))
        self.hop_us = self._levels[0].hop_us
        self.empty = [_of_nothing(layout, a) for a in wanted]

    def __call__(self, blob: bytes, t_us: int) -> list[float]:
        """The view's features at `t_us`, NaN for null.

        Args:
            blob: a tile field whose header has been read and is of this layout (`tile.encode`).
        """
        return self.finish(blob, t_us)[0]

    def finish(self, blob: bytes, t_us: int) -> tuple[list[float], int]:
        """The same, and the moment until which (exclusive) these tiles give these values."""
        out, whole, at, until = self.empty.copy(), memoryview(blob), HEADER_SIZE, FOREVER
        for level in self._levels:
            (n,) = COUNT.unpack_from(blob, at)
            begin, at = at + 4, at + 4 + 8 * n * level.rows
            sketches = []
            for _ in range(level.sketches):
                (m,) = COUNT.unpack_from(blob, at)
                sketches.append((at + 4, m))
                at += 4 + 4 * n + 16 * m
            if not n:
                continue
            grid = whole[begin : begin + 8 * n * level.rows].cast("d")
            stop = n
            if grid[n - 1] > t_us:
                stop = bisect_right(grid, t_us, 0, n)
                until = min(until, int(grid[stop]))
            first, tiles = 0, None
            for window, wanted in level.windows:
                reach = t_us - window
                first = bisect_left(grid, reach - reach % level.hop_us, first, stop)
                if first >= stop:  # so are the shorter ones
                    break
                until = min(until, int(grid[first]) + level.hop_us + window)  # then its first tile is no longer covered
                if tiles is None:
                    tiles = _Tiles(grid, n, first, stop)
                tiles.finish(wanted, first, out)
                for place, code, _, which, _ in wanted:
                    if code == _SKETCH:
                        kind, function = self._kinds[place], self._functions[place]
                        out[place] = _sketched(kind, function, blob, *sketches[which], n, first, stop)
        return out, until


def _compiled(layout: Layout, aggregation: Aggregation) -> tuple[int, int, int, int]:
    if aggregation.kind is not None:
        return _SKETCH, 0, layout.sketches.index((aggregation.input, aggregation.kind)), 0
    code, slots, column = _CODES[aggregation.function], layout.slots, aggregation.column
    statistic = {_SUM: "sum", _MEAN: "sum", _STD: "sum", _COUNT: "n"}.get(code, aggregation.function)
    count = slots.get((column, "n"), 0)
    return code, count, slots[column, statistic], slots[column, "square"] if code == _STD else 0


def _of_nothing(layout: Layout, aggregation: Aggregation) -> float:
    if aggregation.kind is not None:
        return float(sketches.finish(aggregation.function, Ragged.empty(1))[0])
    return float(layout.finish(aggregation, layout.identity(1))[0])


class _Tiles:
    """The tiles `[first, stop)` that a level's longest window covers, ascending by start; its other windows are ends of it.

    Each row of the state is taken out of the stored bytes once.
    """

    __slots__ = ("first", "grid", "n", "rows", "stop")

    def __init__(self, grid: Any, n: int, first: int, stop: int) -> None:
        self.grid, self.n, self.first, self.stop = grid, n, first, stop
        self.rows: dict[int, list[float]] = {}

    def row(self, row: int) -> list[float]:
        found = self.rows.get(row)
        if found is None:
            base = (1 + row) * self.n
            found = self.rows[row] = self.grid[base + self.first : base + self.stop].tolist()
        return found

    def low(self, row: int) -> list[float]:
        """The second halves of a row of pairs; nothing where all are zero."""
        found = self.rows.get(~row)
        if found is None:
            found = self.row(row + 1)
            found = self.rows[~row] = found if any(found) else []
        return found

    def finish(self, wanted: list[_Op], first: int, out: list[float]) -> None:
        """The features of the window that begins at tile `first`, into their places."""
        skip = first - self.first
        counts: dict[int, float] = {}
        sums: dict[int, float] = {}
        for place, code, count, row, square in wanted:
            if code >= _LAST:
                if code != _SKETCH:
                    out[place] = self._ordered(row, first, code == _LAST)
                continue
            n = counts.get(count)
            if n is None:
                n = counts[count] = sum(self.row(count)[skip:])
            if code == _COUNT:
                out[place] = float(n)
            elif code in (_MIN, _MAX):
                out[place] = (min if code == _MIN else max)(self.row(row)[skip:]) if n else _NAN
            else:
                total = sums.get(row)
                if total is None:
                    total = sums[row] = self._sum(row, skip)
                if code == _SUM:
                    out[place] = total
                elif code == _MEAN:
                    out[place] = total / n if n else _NAN
                elif n > 1:
                    out[place] = _deviation(n, *self._pair(row, skip, total), *self._pair(square, skip, self._sum(square, skip)))
                else:
                    out[place] = _NAN

    def _ordered(self, row: int, first: int, last: bool) -> float:
        # tiles are ascending in time, so the newest value is in the last tile that has one, the oldest in the first
        base, grid, n = (1 + row) * self.n, self.grid, self.n
        places = range(self.stop - 1, first - 1, -1) if last else range(first, self.stop)
        for i in places:
            if math.isfinite(grid[base + i]):
                return float(grid[base + 2 * n + i])
        return _NAN

    def _terms(self, row: int, skip: int) -> list[float]:
        low = self.low(row)
        return self.row(row)[skip:] + low[skip:] if low else self.row(row)[skip:]

    def _sum(self, row: int, skip: int) -> float:
        """The sum of all terms of a row of pairs, rounded once."""
        try:
            return math.fsum(self._terms(row, skip))
        except (OverflowError, ValueError):  # beyond float64, or inf - inf
            with np.errstate(invalid="ignore", over="ignore"):
                return float(np.array(self.row(row)[skip:]).sum())

    def _pair(self, row: int, skip: int, total: float) -> tuple[float, float]:
        """A sum, and what its rounding left."""
        if not math.isfinite(total):
            return total, 0.0
        terms = self._terms(row, skip)
        terms.append(-total)
        return total, math.fsum(terms)


def _deviation(n: float, hi: float, lo: float, square: float, rest: float) -> float:
    """`Layout.finish` of std, for numbers: the same operations in the same order."""
    p, e = two_product(hi, hi)
    e = e + 2.0 * hi * lo
    q, f = two_product(square, n)
    f = f + rest * n
    top, low = _add(q, f, -p, -e)
    variance = max(top + low, 0.0) / (n * (n - 1.0))
    return math.sqrt(variance) if variance == variance else _NAN


def _add(ah: float, al: float, bh: float, bl: float) -> tuple[float, float]:
    s, e = two_sum(ah, bh)
    t, f = two_sum(al, bl)
    e = e + t
    hi = s + e
    e = (e - (hi - s)) + f
    total = hi + e
    lo = e - (total - hi)
    total = total if math.isfinite(s) else s
    return total, lo if math.isfinite(total) and math.isfinite(lo) else 0.0


# wide: the hot path of a request: an object to carry these would cost more than the sketch
def _sketched(kind: str, function: str, blob: bytes, at: int, m: int, n: int, first: int, stop: int) -> float:
    counts = np.frombuffer(blob, dtype="<u4", count=n, offset=at)
    lo, hi = int(counts[:first].sum()), int(counts[:stop].sum())
    at += 4 * n
    items = np.frombuffer(blob, np.dtype("<i8"), m, at)[lo:hi].astype(np.int64, copy=False)
    weights = np.frombuffer(blob, "<f8", m, at + 8 * m)[lo:hi]
    merged = sketches.combine(kind, np.zeros(len(items), np.int64), items, weights, 1)
    return float(sketches.finish(function, merged)[0])
