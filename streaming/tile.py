"""Tiles: the partial states of a windowed view, one per hop, as they lie in the online store.

A view keeps one *level* per distinct hop of its aggregations; a level's tile holds the merged state of one entity's events of one hop. A
window ending now is the merge of the tiles from `floor_H(now - W)` on, so it decays by itself as time passes.

Stored form (one hash field per view and entity, little-endian): a header, then per level `uint32 n` and float64 `[1 + C, n]`: the tiles'
start times (microseconds) and their states, ascending by start. Latest-value views store the header alone. The header is the token of
every compare-and-set: no two writers can overwrite each other unseen.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from streaming.point_in_time import NEVER
from streaming.window import Aggregation, Floats, Ints, Layout, RangeTree, tail

_HEADER = struct.Struct("<2sHIqIQIIqq")
HEADER_SIZE = _HEADER.size
_MAGIC = b"H1"
_COUNT = struct.Struct("<I")


class TileError(ValueError):
    """Stored tiles were written for another definition of the view, or are not tiles. Backfill the view again."""


@dataclass(frozen=True)
class Header:
    """
    Attributes:
        fingerprint: of the view's aggregations; tiles of another definition are never merged with these.
        mark_us, ties: high-water mark: the latest known-time applied, and how many events of exactly that time.
        position: id `(milliseconds, sequence)` of the last stream entry applied; (0, 0) before any.
        revision: counts the writes.
        event_us, row_known_us: of the newest event applied (a latest-value view's current row).
    """

    fingerprint: int
    mark_us: int = NEVER
    ties: int = 0
    position: tuple[int, int] = (0, 0)
    revision: int = 0
    event_us: int = NEVER
    row_known_us: int = NEVER

    def pack(self, levels: int) -> bytes:
        return _HEADER.pack(
            _MAGIC, levels, self.fingerprint, self.mark_us, self.ties, *self.position, self.revision, self.event_us, self.row_known_us
        )

    def advanced(self, mark_us: int, ties: int) -> Header:
        """The header after events with newest known-time `mark_us` (`ties` of them exactly then) have been applied too."""
        if mark_us < self.mark_us:
            return self
        return replace(self, mark_us=mark_us, ties=ties + (self.ties if mark_us == self.mark_us else 0))


def read_header(blob: bytes) -> Header:
    if len(blob) < HEADER_SIZE or blob[:2] != _MAGIC:
        raise TileError("not a Headrace tile field: it was written by something else, or cut short")
    _, _, fingerprint, mark, ties, ms, seq, revision, event, known = _HEADER.unpack_from(blob)
    return Header(fingerprint, mark, ties, (ms, seq), revision, event, known)


def fingerprint(layout: Layout | None) -> int:
    return zlib.crc32(repr(layout.aggregations if layout else ()).encode())


@dataclass(frozen=True)
class Level:
    """The tiles of one hop."""

    hop_us: int
    layout: Layout

    @cached_property
    def retention_us(self) -> int:
        return max(a.window_us for a in self.layout.aggregations) + self.hop_us


def levels_of(layout: Layout) -> list[Level]:
    """One level per distinct hop, finest first."""
    hops = sorted({a.hop_us for a in layout.aggregations})
    return [Level(hop, Layout.of([a for a in layout.aggregations if a.hop_us == hop])) for hop in hops]


@dataclass(frozen=True)
class Tiles:
    """Tiles of many entities at one level, sorted by owner, then start.

    Attributes:
        owner: int64 `[m]` index of the entity.
        start: int64 `[m]` microseconds.
        state: float64 `[C, m]`.
    """

    owner: Ints
    start: Ints
    state: Floats

    def slices(self, owners: int) -> Iterator[tuple[Ints, Floats]]:
        edges = np.searchsorted(self.owner, np.arange(owners + 1)).tolist()
        for lo, hi in pairwise(edges):
            yield self.start[lo:hi], self.state[:, lo:hi]


def build(level: Level, owner: Ints, event_us: Ints, known_us: Ints, columns: Mapping[str, Floats]) -> Tiles:
    """Tiles of raw events (any order)."""
    return combine(level.layout, owner, event_us - event_us % level.hop_us, level.layout.prepare(columns, event_us, known_us))


def combine(layout: Layout, owner: Ints, start: Ints, state: Floats) -> Tiles:
    """Merge states of the same owner and start into one tile each."""
    order = np.lexsort((start, owner))
    owner, start, state = owner[order], start[order], state[:, order]
    first = np.ones(len(owner), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (start[1:] != start[:-1])
    if first.all():
        return Tiles(owner, start, state)
    begin = np.flatnonzero(first)
    merged = RangeTree(layout, state).query(begin, np.append(begin[1:], len(owner)))
    return Tiles(owner[begin], start[begin], merged)


def merge(level: Level, a: Tiles, b: Tiles) -> Tiles:
    return combine(
        level.layout,
        np.concatenate([a.owner, b.owner]),
        np.concatenate([a.start, b.start]),
        np.concatenate([a.state, b.state], axis=1),
    )


def prune(level: Level, tiles: Tiles, newest_us: Ints) -> Tiles:
    """Drop the tiles that no window ending at or after `newest_us[owner]` can reach."""
    keep = tiles.start >= tail(newest_us - level.retention_us, 0, level.hop_us)[tiles.owner]
    return tiles if keep.all() else Tiles(tiles.owner[keep], tiles.start[keep], tiles.state[:, keep])


def finish(level: Level, tiles: Tiles, owners: int, t_us: Ints) -> dict[str, Floats]:
    """Values of the level's features for owners `0..owners-1`, each at its own `t_us`; NaN for null."""
    tree = RangeTree(level.layout, tiles.state)
    times = np.unique(np.concatenate([tiles.start, [0]]))
    stride = len(times) + 1
    composite = tiles.owner * stride + np.searchsorted(times, tiles.start)
    who = np.arange(owners)
    stop = np.searchsorted(composite, who * stride + np.searchsorted(times, t_us, "right"))
    found: dict[str, Floats] = {}
    states: dict[int, Floats] = {}
    for aggregation in level.layout.aggregations:
        if aggregation.window_us not in states:
            rank = np.searchsorted(times, tail(t_us, aggregation.window_us, level.hop_us), "left")
            states[aggregation.window_us] = tree.query(np.searchsorted(composite, who * stride + rank), stop)
        found[aggregation.name] = level.layout.finish(aggregation, states[aggregation.window_us])
    return found


def encode(header: Header, levels: Sequence[tuple[Ints, Floats]]) -> bytes:
    """The stored form of one entity's tiles: per level its starts `[n]` and states `[C, n]`."""
    parts = [header.pack(len(levels))]
    for start, state in levels:
        parts.append(_COUNT.pack(len(start)))
        parts.append(start.astype("<f8").tobytes())
        parts.append(np.ascontiguousarray(state, dtype="<f8").tobytes())
    return b"".join(parts)


def decode(blob: bytes, levels: Sequence[Level], expected: int) -> tuple[Header, list[tuple[Floats, Floats]]]:
    """Header, and per level `(starts [n], states [C, n])`, all float64 views into `blob`.

    Raises:
        TileError: another definition's tiles, or no tiles.
    """
    header = read_header(blob)
    if header.fingerprint != expected:
        raise TileError("the stored tiles belong to another definition of this view: run `headrace backfill` for it")
    at, found = HEADER_SIZE, []
    for level in levels:
        (n,) = _COUNT.unpack_from(blob, at)
        rows = 1 + level.layout.size
        matrix = np.frombuffer(blob, dtype="<f8", count=rows * n, offset=at + 4).reshape(rows, n)
        found.append((matrix[0], matrix[1:]))
        at += 4 + 8 * rows * n
    return header, found


class Finisher:
    """Finish one entity's windows at a moment: the hot path of the online reader.

    The same values as `finish`, to the bit, without building a tree: suffix sums by `math.fsum`, which is exactly rounded.
    """

    def __init__(self, layout: Layout) -> None:
        self.levels = levels_of(layout)
        place = {a.name: i for i, a in enumerate(layout.aggregations)}
        self.plans: list[list[tuple[int, list[tuple[int, Aggregation]]]]] = []
        for level in self.levels:
            windows: dict[int, list[tuple[int, Aggregation]]] = {}
            for aggregation in level.layout.aggregations:
                windows.setdefault(aggregation.window_us, []).append((place[aggregation.name], aggregation))
            self.plans.append(sorted(windows.items()))
        self.size = len(layout.aggregations)
        self.empty = np.array([float(layout.finish(a, layout.identity(1))[0]) for a in layout.aggregations])

    def __call__(self, tiles: Sequence[tuple[Floats, Floats]], t_us: int) -> Floats:
        """Values `[features]` at `t_us`; `tiles` as from `decode`."""
        out = self.empty.copy()
        for level, plan, (start, state) in zip(self.levels, self.plans, tiles, strict=True):
            if not len(start):
                continue
            stop = int(start.searchsorted(t_us, "right"))
            for window, wanted in plan:
                begin = t_us - window
                first = int(start.searchsorted(begin - begin % level.hop_us))
                if first >= stop:
                    continue
                merged = _suffix(level.layout, state[:, first:stop])
                for place, aggregation in wanted:
                    out[place] = level.layout.finish(aggregation, merged)[0]
        return out


def _suffix(layout: Layout, state: Floats) -> Floats:
    """Merge the columns of a state `[C, n]`, n >= 1, into one `[C, 1]`."""
    if state.shape[1] == 1:
        return state
    out = np.empty((layout.size, 1))
    for (_, statistic), row in layout.slots.items():
        if statistic == "n":
            out[row] = state[row].sum()
        elif statistic in ("sum", "square"):
            out[row], out[row + 1] = _exact_sum(state[row], state[row + 1])
        elif statistic == "min":
            out[row] = state[row].min()
        elif statistic == "max":
            out[row] = state[row].max()
        else:
            newest = np.lexsort((state[row + 2], state[row + 1], state[row]))[-1]
            out[row : row + 3, 0] = state[row : row + 3, newest]
    return out


def _exact_sum(hi: Floats, lo: Floats) -> tuple[float, float]:
    terms = hi.tolist()
    if lo.any():
        terms += lo.tolist()
    try:
        total = math.fsum(terms)
        if not math.isfinite(total):
            return total, 0.0
        terms.append(-total)
        return total, math.fsum(terms)
    except (OverflowError, ValueError):  # beyond float64, or inf - inf
        with np.errstate(invalid="ignore", over="ignore"):
            return float(hi.sum()), 0.0
