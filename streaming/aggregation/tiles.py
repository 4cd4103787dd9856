"""Tiles: the partial states of a windowed view, one per hop, as they lie in the online store.

Example: with a hop of five minutes, one tile holds what an entity's events from 12:00 to 12:05 add up to. A window of one hour, asked
at 13:07, merges the tiles from 12:05 on. So a window gets shorter at its old end as time passes, without any new event.

A view keeps one *level* per distinct hop of its aggregations. A level's tile holds the merged state of one entity's events of one hop.

Stored form (one hash field per view and entity, little-endian):

* a header (`Header`). Latest-value views have only this;
* per level: `uint32 n`, and float64 `[1 + C, n]`: the tiles' start times (microseconds) and their states, ascending by start;
* per sketch of the level: `uint32 m`, how many pairs each tile has, the items, the weights.

Whoever writes gives the header that was read (compare-and-set). If it is no longer there, nothing is written: so no writer overwrites
another one unseen.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import xxhash

from streaming.aggregation import sketches
from streaming.aggregation.sketches import Ragged
from streaming.aggregation.windows import NEVER, Aggregation, Floats, Ints, Layout, RangeTree, tail

HEADER = struct.Struct("<2sHIqIQIIqqq")
HEADER_SIZE = HEADER.size
MAGIC = b"H2"
SEALED = b"HC"
"""The first bytes of a field that ends in a checksum. A field that begins with `MAGIC` was written before there were checksums."""
_CHECKSUM = struct.Struct("<Q")
COUNT = struct.Struct("<I")


class TileError(ValueError):
    """Stored tiles were written for another definition of the view, or are not tiles. Backfill the view again."""


class OtherDefinitionError(TileError):
    """The tiles are whole, but of another definition of the view."""


@dataclass(frozen=True)
class Header:
    """
    Attributes:
        fingerprint: of the view's aggregations; tiles of another definition are never merged with these.
        mark_us, ties: high-water mark: the latest known-time applied, and how many events of exactly that time.
        position: id `(milliseconds, sequence)` of the last stream entry applied; (0, 0) before any.
        revision: counts the writes.
        event_us, row_known_us: of the newest event applied (a latest-value view's current row).
        seam_us: every event of the offline store known by then is in: the stream brings what became known later. NEVER: no backfill yet.
    """

    fingerprint: int
    mark_us: int = NEVER
    ties: int = 0
    position: tuple[int, int] = (0, 0)
    revision: int = 0
    event_us: int = NEVER
    row_known_us: int = NEVER
    seam_us: int = NEVER

    def pack(self, levels: int) -> bytes:
        times = (self.event_us, self.row_known_us, self.seam_us)
        return HEADER.pack(MAGIC, levels, self.fingerprint, self.mark_us, self.ties, *self.position, self.revision, *times)

    def advanced(self, mark_us: int, ties: int) -> Header:
        """The header after events with newest known-time `mark_us` (`ties` of them exactly then) have been applied too."""
        if mark_us < self.mark_us:
            return self
        return replace(self, mark_us=mark_us, ties=ties + (self.ties if mark_us == self.mark_us else 0))


_HEADERS = np.dtype(
    [
        ("magic", "S2"), ("levels", "<u2"), ("fingerprint", "<u4"), ("mark", "<i8"), ("ties", "<u4"), ("ms", "<u8"), ("seq", "<u4"),
        ("revision", "<u4"), ("event", "<i8"), ("known", "<i8"), ("seam", "<i8"),
    ]
)  # fmt: skip


def pack_headers(
    fingerprint: int, mark: Ints, ties: Ints, event: Ints, known: Ints, seam_us: int, position: tuple[int, int]
) -> list[bytes]:
    """`Header.pack` of many entities that are written for the first time and have no tiles."""
    table = np.zeros(len(mark), dtype=_HEADERS)
    table["magic"], table["fingerprint"], table["revision"], table["seam"] = MAGIC, fingerprint, 1, seam_us
    table["mark"], table["ties"], table["event"], table["known"] = mark, ties, event, known
    table["ms"], table["seq"] = position
    raw = table.tobytes()
    return [raw[i : i + HEADER_SIZE] for i in range(0, len(raw), HEADER_SIZE)]


def seal(blob: bytes) -> bytes:
    """A tile field with its checksum: XXH3 (64 bits) of all of it, at its end."""
    whole = SEALED + blob[2:]
    return whole + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(whole))


def unseal(blob: bytes) -> bytes:
    """The tile field without its checksum, which is verified. A field that never had one is returned as it is.

    Raises:
        TileError: it is not what was written.
    """
    if blob[:2] != SEALED:
        if len(blob) < HEADER_SIZE or blob[:2] != MAGIC:
            raise TileError("not a Headrace tile field: it was written by something else, or cut short")
        return blob
    whole = blob[:-8]
    if len(whole) < HEADER_SIZE or _CHECKSUM.pack(xxhash.xxh3_64_intdigest(whole)) != blob[-8:]:
        raise TileError("its checksum is not that of its bytes: backfill the view again")
    return MAGIC + whole[2:]


def read_header(blob: bytes) -> Header:
    if len(blob) < HEADER_SIZE or blob[:2] not in (MAGIC, SEALED):
        raise TileError("not a Headrace tile field: it was written by something else, or cut short")
    _, _, fingerprint, mark, ties, ms, seq, revision, event, known, seam = HEADER.unpack_from(blob)
    return Header(fingerprint, mark, ties, (ms, seq), revision, event, known, seam)


def fingerprint(layout: Layout | None) -> int:
    """A number that says what stored state means: what is aggregated and how, in the layout's order. Names are no part of it, so a renamed
    feature keeps its tiles.
    """
    meanings = dict.fromkeys(a.meaning for a in layout.aggregations) if layout else {}
    return zlib.crc32(repr(tuple(meanings)).encode())


def former_fingerprint(layout: Layout) -> int:
    """The fingerprint as older versions of Headrace computed it, when names and the registry's order were still part of it."""
    told = [
        f"Aggregation(name={a.name!r}, column={a.column!r}, function={a.function!r}, window_us={a.window_us}, hop_us={a.hop_us})"
        for a in layout.aggregations
    ]
    return zlib.crc32(f"({', '.join(told)}{',' * (len(told) == 1)})".encode())


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


class Part(NamedTuple):
    """One entity's tiles at one level, ascending by start: starts `[n]`, states `[C, n]`, sketches of `[n]` each."""

    start: Any
    state: Floats
    sketches: tuple[Ragged, ...]


@dataclass(frozen=True)
class Tiles:
    """Tiles of many entities at one level, sorted by owner, then start.

    Attributes:
        owner: int64 `[m]` index of the entity.
        start: int64 `[m]` microseconds.
        state: float64 `[C, m]`.
        sketches: of `[m]` each, in the order of `Layout.sketches`.
    """

    owner: Ints
    start: Ints
    state: Floats
    sketches: tuple[Ragged, ...]

    def slices(self, owners: int) -> Iterator[Part]:
        """The tiles of owners `0..owners-1`."""
        edges = np.searchsorted(self.owner, np.arange(owners + 1)).tolist()
        offsets = [s.offsets for s in self.sketches]
        for lo, hi in pairwise(edges):
            sketches = tuple(
                Ragged(s.counts[lo:hi], s.items[at[lo] : at[hi]], s.weights[at[lo] : at[hi]])
                for s, at in zip(self.sketches, offsets, strict=True)
            )
            yield Part(self.start[lo:hi], self.state[:, lo:hi], sketches)

    def take(self, rows: Any) -> Tiles:
        return Tiles(self.owner[rows], self.start[rows], self.state[:, rows], tuple(s.take(rows) for s in self.sketches))


def build(level: Level, owner: Ints, event_us: Ints, known_us: Ints, columns: Mapping[str, Any]) -> Tiles:
    """Tiles of raw events (any order). `columns` as for `point_in_time.aggregate`."""
    layout = level.layout
    made = tuple(sketches.leaves(kind, columns[name]) for name, kind in layout.sketches)
    return combine(layout, Tiles(owner, event_us - event_us % level.hop_us, layout.prepare(columns, event_us, known_us), made))


def combine(layout: Layout, tiles: Tiles) -> Tiles:
    """Merge tiles of the same owner and start into one each, sorted."""
    tiles = tiles.take(np.lexsort((tiles.start, tiles.owner)))
    owner, start = tiles.owner, tiles.start
    first = np.ones(len(owner), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (start[1:] != start[:-1])
    if first.all():
        return tiles
    begin = np.flatnonzero(first)
    merged = RangeTree(layout, tiles.state).query(begin, np.append(begin[1:], len(owner)))
    group = np.cumsum(first) - 1
    made = tuple(
        sketches.combine(kind, np.repeat(group, s.counts), s.items, s.weights, len(begin))
        for (_, kind), s in zip(layout.sketches, tiles.sketches, strict=True)
    )
    return Tiles(owner[begin], start[begin], merged, made)


def merge(level: Level, a: Tiles, b: Tiles) -> Tiles:
    return combine(
        level.layout,
        Tiles(
            np.concatenate([a.owner, b.owner]),
            np.concatenate([a.start, b.start]),
            np.concatenate([a.state, b.state], axis=1),
            tuple(sketches.concatenate(pair) for pair in zip(a.sketches, b.sketches, strict=True)),
        ),
    )


def stack(level: Level, parts: Sequence[Part | None]) -> Tiles:
    """Stored tiles of owners `0..len(parts)-1` (None: no tiles) as one."""
    have = [(i, part) for i, part in enumerate(parts) if part is not None and len(part.start)]
    if not have:
        none = np.zeros(0, np.int64)
        return Tiles(none, none, level.layout.identity(0), tuple(Ragged.empty(0) for _ in level.layout.sketches))
    return Tiles(
        np.repeat([i for i, _ in have], [len(p.start) for _, p in have]).astype(np.int64),
        np.concatenate([p.start for _, p in have]).astype(np.int64),
        np.concatenate([p.state for _, p in have], axis=1),
        tuple(sketches.concatenate([p.sketches[k] for _, p in have]) for k in range(len(level.layout.sketches))),
    )


def prune(level: Level, tiles: Tiles, newest_us: Ints) -> Tiles:
    """Drop the tiles that no window ending at or after `newest_us[owner]` can reach."""
    keep = tiles.start >= tail(newest_us - level.retention_us, 0, level.hop_us)[tiles.owner]
    return tiles if keep.all() else tiles.take(np.flatnonzero(keep))


def finish(level: Level, tiles: Tiles, owners: int, t_us: Ints) -> dict[str, Floats]:
    """Values of the level's features for owners `0..owners-1`, each at its own `t_us`; NaN for null."""
    tree = RangeTree(level.layout, tiles.state)
    times = np.unique(np.concatenate([tiles.start, [0]]))
    stride = len(times) + 1
    composite = tiles.owner * stride + np.searchsorted(times, tiles.start)
    who = np.arange(owners)
    stop = np.searchsorted(composite, who * stride + np.searchsorted(times, t_us, "right"))
    found: dict[str, Floats] = {}
    places: dict[int, tuple[Ints, Floats]] = {}
    for aggregation in level.layout.aggregations:
        if aggregation.window_us not in places:
            rank = np.searchsorted(times, tail(t_us, aggregation.window_us, level.hop_us), "left")
            begin = np.searchsorted(composite, who * stride + rank)
            places[aggregation.window_us] = begin, tree.query(begin, stop)
        begin, state = places[aggregation.window_us]
        if aggregation.kind is None:
            found[aggregation.name] = level.layout.finish(aggregation, state)
        else:
            found[aggregation.name] = _finish_sketch(level.layout, aggregation, tiles, begin, stop)
    return found


def _finish_sketch(layout: Layout, aggregation: Aggregation, tiles: Tiles, begin: Ints, stop: Ints) -> Floats:
    assert aggregation.kind is not None
    ragged = tiles.sketches[layout.sketches.index((aggregation.input, aggregation.kind))]
    first = ragged.offsets[begin]
    count = np.maximum(ragged.offsets[stop] - first, 0)
    place, owner = sketches.spread(first, count), np.repeat(np.arange(len(begin)), count)
    merged = sketches.combine(aggregation.kind, owner, ragged.items[place], ragged.weights[place], len(begin))
    return sketches.finish(aggregation.function, merged)


def encode(header: Header, levels: Sequence[Part]) -> bytes:
    """The stored form of one entity's tiles."""
    parts = [header.pack(len(levels))]
    for start, state, sketched in levels:
        parts.append(COUNT.pack(len(start)))
        parts.append(start.astype("<f8").tobytes())
        parts.append(np.ascontiguousarray(state, dtype="<f8").tobytes())
        for ragged in sketched:
            parts.append(COUNT.pack(len(ragged.items)))
            parts += (a.astype(kind).tobytes() for a, kind in ((ragged.counts, "<u4"), (ragged.items, "<i8"), (ragged.weights, "<f8")))
    return b"".join(parts)


def relaid(layout: Layout, before: Layout, part: Part) -> Part:
    """A part whose rows were in the order of `before`, in the order of `layout`: the same statistics, in other rows."""
    rows = [before.slots[slot] + k for slot, width in layout.widths for k in range(width)]
    return Part(part.start, part.state[rows], tuple(part.sketches[before.sketches.index(one)] for one in layout.sketches))


def decode(
    blob: bytes, levels: Sequence[Level], expected: int, former: Mapping[int, Layout] = MappingProxyType({})
) -> tuple[Header, list[Part]]:
    """Header, and the tiles per level: float64 views into `blob`.

    Args:
        former: other layouts of the same aggregations that tiles may lie in, by fingerprint.

    Raises:
        TileError: another definition's tiles, or no tiles.
    """
    blob = unseal(blob)
    header = read_header(blob)
    if header.fingerprint in former and header.fingerprint != expected:
        before = levels_of(former[header.fingerprint])
        _, parts = decode(blob, before, header.fingerprint)
        return header, [relaid(now.layout, then.layout, part) for now, then, part in zip(levels, before, parts, strict=True)]
    if header.fingerprint != expected:
        raise OtherDefinitionError("the stored tiles belong to another definition of this view: run `headrace backfill` for it")
    at, found = HEADER_SIZE, []
    try:
        for level in levels:
            (n,) = COUNT.unpack_from(blob, at)
            rows = 1 + level.layout.size
            matrix = np.frombuffer(blob, dtype="<f8", count=rows * n, offset=at + 4).reshape(rows, n)
            at += 4 + 8 * rows * n
            sketches: tuple[Ragged, ...] = ()
            for _ in level.layout.sketches:
                (m,) = COUNT.unpack_from(blob, at)
                counts = np.frombuffer(blob, dtype="<u4", count=n, offset=at + 4).astype(np.int64)
                at += 4 + 4 * n
                items, weights = np.frombuffer(blob, "<i8", m, at), np.frombuffer(blob, "<f8", m, at + 8 * m)
                sketches = (*sketches, Ragged(counts, items, weights))
                at += 16 * m
            found.append(Part(matrix[0], matrix[1:], sketches))
    except (struct.error, ValueError) as error:  # of before there were checksums
        raise TileError(f"the tiles are cut short ({error}): backfill the view again") from None
    return header, found
