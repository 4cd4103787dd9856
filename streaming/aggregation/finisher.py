"""Finish one entity's windows at a moment, straight from its stored tiles: this runs for every request.

The values are those of `tiles.finish`, to the bit, but there is no NumPy, no tree and no copy: for a handful of numbers plain
Python is several times cheaper than an array. A window is the newest tiles of a row, so a sum is the sum of the end of that row,
added by `math.fsum`, which rounds once and exactly.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streaming.aggregation import sketches
from streaming.aggregation.functions.base import NAN, Function
from streaming.aggregation.functions.table import function_of
from streaming.aggregation.sketches import Ragged
from streaming.aggregation.tiles import COUNT, HEADER_SIZE, levels_of
from streaming.aggregation.windows import Aggregation, Layout

FOREVER = 2**63 - 1


_Op = tuple[int, Function, tuple[int, ...]]
"""Place among the view's features, what to do, and the first rows of the state's statistics; of a sketch: its number."""


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
        self._names = [a.function for a in wanted]
        self._levels = []
        for level in levels_of(layout):
            windows: dict[int, list[_Op]] = {}
            for aggregation in level.layout.aggregations:
                windows.setdefault(aggregation.window_us, []).append(_compiled(level.layout, aggregation, place[aggregation.name]))
            longest_first = sorted(windows.items(), reverse=True)
            self._levels.append(_Level(level.hop_us, 1 + level.layout.size, len(level.layout.sketches), longest_first))
        self.hop_us = self._levels[0].hop_us
        self.empty = [_of_nothing(layout, a) for a in wanted]

    def __call__(self, blob: bytes, t_us: int) -> list[float]:
        """The view's features at `t_us`, NaN for null.

        Args:
            blob: a tile field whose header has been read and is of this layout (`tiles.encode`).
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
                window_tiles = _Window(tiles, first)
                for place, function, rows in wanted:
                    if function.sketch is None:
                        out[place] = function.finish_tiles(window_tiles, rows)
                    else:
                        out[place] = _sketched(function.sketch, self._names[place], blob, *sketches[rows[0]], n, first, stop)
        return out, until


def _compiled(layout: Layout, aggregation: Aggregation, place: int) -> _Op:
    function = function_of(aggregation.function)
    if function.sketch is not None:
        return place, function, (layout.sketches.index((aggregation.input, function.sketch)),)
    return place, function, tuple(layout.slots[aggregation.column, one.name] for one in function.needs(aggregation.hop_us))


def _of_nothing(layout: Layout, aggregation: Aggregation) -> float:
    if aggregation.kind is not None:
        return float(sketches.finish(aggregation.function, Ragged.empty(1))[0])
    return float(layout.finish(aggregation, layout.identity(1))[0])


class _Tiles:
    """The tiles `[first, stop)` that a level's longest window covers, ascending by start. Its shorter windows are the ends of it.

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


class _Window:
    """The tiles from `first` on, as `functions.base.Tiles`."""

    __slots__ = ("_counts", "_first", "_skip", "_sums", "_tiles")

    def __init__(self, tiles: _Tiles, first: int) -> None:
        self._tiles, self._first, self._skip = tiles, first, first - tiles.first
        self._counts: dict[int, float] = {}
        self._sums: dict[int, float] = {}

    def row(self, row: int) -> list[float]:
        return self._tiles.row(row)[self._skip :]

    def count(self, row: int) -> float:
        found = self._counts.get(row)
        if found is None:
            found = self._counts[row] = sum(self._tiles.row(row)[self._skip :])
        return found

    def total(self, row: int) -> float:
        found = self._sums.get(row)
        if found is None:
            try:
                found = math.fsum(self._terms(row))
            except (OverflowError, ValueError):  # beyond float64, or inf - inf
                with np.errstate(invalid="ignore", over="ignore"):
                    found = float(np.array(self.row(row)).sum())
            self._sums[row] = found
        return found

    def pair(self, row: int) -> tuple[float, float]:
        total = self.total(row)
        if not math.isfinite(total):
            return total, 0.0
        terms = self._terms(row)
        terms.append(-total)
        return total, math.fsum(terms)

    def edge(self, row: int, last: bool) -> float:
        # tiles are ascending in time, so the newest value is in the last tile that has one, the oldest in the first
        tiles = self._tiles
        base, grid, n = (1 + row) * tiles.n, tiles.grid, tiles.n
        places = range(tiles.stop - 1, self._first - 1, -1) if last else range(self._first, tiles.stop)
        for i in places:
            if math.isfinite(grid[base + i]):
                return float(grid[base + 2 * n + i])
        return NAN

    def _terms(self, row: int) -> list[float]:
        low, skip = self._tiles.low(row), self._skip
        return self._tiles.row(row)[skip:] + low[skip:] if low else self._tiles.row(row)[skip:]


# wide: the hot path of a request: an object to carry these would cost more than the sketch
def _sketched(kind: str, function: str, blob: bytes, at: int, m: int, n: int, first: int, stop: int) -> float:
    counts = np.frombuffer(blob, dtype="<u4", count=n, offset=at)
    lo, hi = int(counts[:first].sum()), int(counts[:stop].sum())
    at += 4 * n
    items = np.frombuffer(blob, np.dtype("<i8"), m, at)[lo:hi].astype(np.int64, copy=False)
    weights = np.frombuffer(blob, "<f8", m, at + 8 * m)[lo:hi]
    merged = sketches.combine(kind, np.zeros(len(items), np.int64), items, weights, 1)
    return float(sketches.finish(function, merged)[0])
