"""From arrays of events to what lies in the online store: the one place that backfill and stream share.

Written per view and entity, in one step: the tile field (header with high-water mark; for windowed views the tiles too), every feature in
Feast's own encoding (windows finished at the newest event), and Feast's timestamp field.

Every event counts once, whoever writes, and however often. For that an entity's header says which events are in its state: every
offline event known by `seam_us`, and every live event up to the stream id `position`. `overwrite` (the backfill) sets both. `apply` (the
stream) adds only what lies beyond both. Neither replaces a header that it has not read. See docs/semantics/exactly-once.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.records.redis_keys import keys_key
from streaming.aggregation import tiles
from streaming.aggregation.windows import Floats, Ints, declared
from streaming.online import feast_layout, packed_row
from streaming.online.entities import MS, SEQ, Grouped, encoded, group, view_fields
from streaming.online.resp import bulk
from streaming.online.store import BusyError, OnlineStore, Rows
from streaming.schema.columns import canonical, inputs
from streaming.schema.feature_view import View

Position = tuple[int, int]
ATTEMPTS = 50

__all__ = ["apply", "overwrite", "view_fields"]


@dataclass(frozen=True)
class _State:
    """What entities look like: per entity its tiles per level and packed row, its timestamp field, and the features' columns of bulks."""

    levels: list[list[tiles.Part]]
    packed: list[bytes]
    times: list[bytes]
    columns: list[list[bytes]]

    def blob(self, i: int, header: tiles.Header) -> bytes:
        """The tile field of entity `i`."""
        return tiles.seal(tiles.encode(header, self.levels[i]) + self.packed[i])


def _windows(view: View, entities: Grouped, newest: Ints, stored: Sequence[Any] | None = None) -> _State:
    """Tiles of the events, merged into the stored ones, and the windows finished at `newest`."""
    assert view.layout is not None
    n = len(entities.keys)
    columns = inputs(view, entities.table)
    by_entity: list[list[tiles.Part]] = [[] for _ in range(n)]
    finished: dict[str, Floats] = {}
    for k, level in enumerate(tiles.levels_of(view.layout)):
        made = tiles.build(level, entities.owner, entities.event_us, entities.known_us, columns)
        if stored is not None:
            made = tiles.merge(level, tiles.stack(level, [None if s is None else s[k] for s in stored]), made)
        made = tiles.prune(level, made, newest)
        finished |= tiles.finish(level, made, n, newest)
        for i, part in enumerate(made.slices(n)):
            by_entity[i].append(part)
    values = [encoded(pa.array(declared(finished[f.name], f.dtype), from_pandas=True), f.dtype) for f in view.features]
    return _State(by_entity, [b""] * n, feast_layout.encode_timestamps(newest), values)


def _latest(view: View, entities: Grouped, rows: Ints, newest: Ints) -> _State:
    picked = entities.table.take(pa.array(np.maximum(rows, 0)))
    columns = [encoded(picked[f.name], f.dtype) for f in view.features]
    times = feast_layout.encode_timestamps(newest)
    return _State([[] for _ in entities.keys], packed_row.pack(view, picked, times), times, columns)


def _rows(view: View, keys: Sequence[bytes], headers: Sequence[tiles.Header], state: _State) -> Rows:
    blobs = [bulk(state.blob(i, header)) for i, header in enumerate(headers)]
    return Rows(keys, view_fields(view), [blobs, [bulk(t) for t in state.times], *state.columns])


def overwrite(
    view: View,
    store: OnlineStore,
    events: pa.Table,
    indexes: Sequence[str],
    seam_us: int,
    position: Position = (0, 0),
    later: Callable[[Position], tuple[pa.Table, Position]] | None = None,
) -> int:
    """Write the state of every entity in `events` as the whole truth up to `seam_us` and `position`.

    Args:
        events: all events of each entity, in canonical order: the offline ones known by `seam_us`, and the live ones known after it, up
            to `position`.
        indexes: the Redis sets that take the keys written; the view's own first.
        later: for a view that a stream keeps live: the live events after a position, known after the seam, with the position they reach
            to. Where the stream has moved an entity on in the meantime, they are added before it is written.

    Returns:
        Entities written.
    """
    entities = group(view, events)
    if not entities.keys:
        return 0
    if later is None:
        store.put(indexes, snapshot(view, entities, seam_us, position))
        return len(entities.keys)
    total, fields = len(entities.keys), view_fields(view)
    for _ in range(ATTEMPTS):
        blobs = store.read(entities.keys, fields[0])
        before = [_ours(view, blob) for blob in blobs]
        if any(h is not None and h.position > position for h in before):
            more, position = later(position)
            events = pa.concat_tables([entities.table, more.select(entities.table.column_names).cast(entities.table.schema, safe=False)])
            wanted = set(entities.keys)
            merged = group(view, canonical(events))
            if len(merged.keys) > len(wanted):  # entities of other partitions, or new ones, which the stream looks after
                mine = np.array([k in wanted for k in merged.keys])
                merged = group(view, merged.table.filter(pa.array(mine[merged.owner])))
            place = {k: i for i, k in enumerate(entities.keys)}
            order = [place[k] for k in merged.keys]
            entities, blobs, before = merged, [blobs[i] for i in order], [before[i] for i in order]
        headers, state = _truth(view, entities, seam_us, position)
        headers = [_revised(h, b, state, i, blob) for i, (h, b, blob) in enumerate(zip(headers, before, blobs, strict=True))]
        won = store.swap(indexes, _rows(view, entities.keys, headers, state), [(b or b"")[: tiles.HEADER_SIZE] for b in blobs])
        if all(won):
            return total
        entities = group(view, entities.table.filter(pa.array(~np.array(won)[entities.owner])))
    raise BusyError(f"feature view {view.name!r}: other writers kept changing {len(entities.keys)} entities; is a second backfill running?")


def snapshot(view: View, entities: Grouped, seam_us: int, position: Position = (0, 0)) -> Rows:
    """What `overwrite` would write of entities that nobody else writes."""
    if view.layout:
        headers, state = _truth(view, entities, seam_us, position)
        return _rows(view, entities.keys, headers, state)
    mark, ties, newest = entities.marks()
    rows = entities.newest_rows()
    state = _latest(view, entities, rows, newest)
    first = tiles.pack_headers(view.fingerprint, mark, ties, newest, entities.known_us[rows], seam_us, position)
    blobs = [bulk(tiles.seal(h + packed)) for h, packed in zip(first, state.packed, strict=True)]
    return Rows(entities.keys, view_fields(view), [blobs, [bulk(t) for t in state.times], *state.columns])


def _truth(view: View, entities: Grouped, seam_us: int, position: Position) -> tuple[list[tiles.Header], _State]:
    mark, ties, newest = entities.marks()
    rows = entities.newest_rows()
    state = _windows(view, entities, newest) if view.layout else _latest(view, entities, rows, newest)
    known = entities.known_us[rows]
    headers = [
        tiles.Header(view.fingerprint, m, t, position, 1, e, k, seam_us)
        for m, t, e, k in zip(mark.tolist(), ties.tolist(), newest.tolist(), known.tolist(), strict=True)
    ]
    return headers, state


def _ours(view: View, blob: bytes | None) -> tiles.Header | None:
    """The stored header; None where there is none, or where another definition's state lies, which a backfill replaces."""
    if not blob:
        return None
    try:
        header = tiles.read_header(tiles.unseal(blob))
    except tiles.TileError:
        return None
    return header if view.holds(header.fingerprint) else None


def _revised(new: tiles.Header, old: tiles.Header | None, state: _State, i: int, blob: bytes | None) -> tiles.Header:
    """The header to write: with the stored revision if nothing changes (so a second run writes the same bytes), else with the next one."""
    if old is None:
        return new
    same = replace(new, revision=old.revision)
    return same if state.blob(i, same) == blob else replace(new, revision=old.revision + 1)


def apply(view: View, store: OnlineStore, events: pa.Table, positions: Sequence[Position]) -> int:
    """Merge live events into the store, each exactly once whatever is repeated.

    An event counts for an entity when its stream position lies beyond the one stored with the entity and it was known after the entity's
    seam. Entities that another writer changed in between are read and merged again.

    Args:
        events: columns of the view, `__event`, `__known`; in stream order.
        positions: the stream id of each row, ascending.

    Returns:
        Entities written.

    Raises:
        tiles.OtherDefinitionError: the store holds state of another definition of the view.
        tiles.TileError: an entity's tile field is broken.
        BusyError: other writers kept changing the entities.
        OnlineStoreError: Redis is lost, or refuses writes; ForeignKeyError: of one entity only.
    """
    ids = np.array(positions, dtype=np.int64).reshape(-1, 2)
    events = events.append_column(MS, pa.array(ids[:, 0])).append_column(SEQ, pa.array(ids[:, 1]))
    written = 0
    for _ in range(ATTEMPTS):
        if not len(events):
            return written
        entities = group(view, events)
        won, changed = _apply_once(view, store, entities)
        written += changed
        if won.all():
            return written
        events = entities.table.filter(pa.array(~won[entities.owner]))
    raise BusyError(f"feature view {view.name!r}: other writers kept changing {len(events)} events' entities; is a second stream running?")


def _apply_once(view: View, store: OnlineStore, entities: Grouped) -> tuple[Any, int]:
    """Whether each entity is done, and how many were written."""
    fields = view_fields(view)
    blobs = store.read(entities.keys, fields[0])
    headers = [tiles.read_header(tiles.unseal(b)) if b else tiles.Header(view.fingerprint) for b in blobs]
    if not all(view.holds(h.fingerprint) for h in headers):
        raise tiles.OtherDefinitionError(
            f"feature view {view.name!r} holds tiles of another definition: run `headrace backfill --view {view.name}`"
        )
    n = len(entities.keys)
    won = np.ones(n, dtype=bool)
    ms, seq = entities.table[MS].to_numpy(), entities.table[SEQ].to_numpy()
    at = np.array([(*h.position, h.seam_us) for h in headers], dtype=np.int64).reshape(-1, 3)[entities.owner]
    fresh = ((ms > at[:, 0]) | ((ms == at[:, 0]) & (seq > at[:, 1]))) & (entities.known_us > at[:, 2])
    if not fresh.any():
        return won, 0
    if not fresh.all():
        touched = np.unique(entities.owner[fresh])
        rank = np.full(n, -1)
        rank[touched] = np.arange(len(touched))
        some = entities.take(fresh)
        part = Grouped([entities.keys[i] for i in touched], rank[some.owner], some.event_us, some.known_us, some.table)
        done, written = _merge(view, store, part, [headers[i] for i in touched], [blobs[i] for i in touched])
        won[touched] = done
        return won, written
    return _merge(view, store, entities, headers, blobs)


def _merge(view: View, store: OnlineStore, new: Grouped, headers: Sequence[tiles.Header], blobs: Sequence[bytes | None]) -> tuple[Any, int]:
    """Merge events that are all new to their entities."""
    mark, ties, newest = new.marks()
    newest = np.maximum(newest, [h.event_us for h in headers])
    rows = new.newest_rows()
    ids = np.zeros((len(new.keys), 2), dtype=np.int64)
    ids[new.owner] = np.stack([new.table[MS].to_numpy(), new.table[SEQ].to_numpy()], axis=1)  # ascending, so the last one stays
    event, known = new.event_us[rows], new.known_us[rows]
    current = np.array([(e, k) >= (h.event_us, h.row_known_us) for e, k, h in zip(event.tolist(), known.tolist(), headers, strict=True)])
    after = [
        replace(
            h.advanced(m, t),
            fingerprint=view.fingerprint,
            position=(p[0], p[1]),
            revision=h.revision + 1,
            event_us=e if c else h.event_us,
            row_known_us=k if c else h.row_known_us,
        )
        for h, m, t, p, e, k, c in zip(
            headers, mark.tolist(), ties.tolist(), ids.tolist(), event.tolist(), known.tolist(), current.tolist(), strict=True
        )
    ]
    expected = [(b or b"")[: tiles.HEADER_SIZE] for b in blobs]
    indexes, fields = [keys_key(view.project, view.name)], view_fields(view)
    if view.layout:
        levels = tiles.levels_of(view.layout)
        stored = [tiles.decode(b, levels, view.fingerprint, view.former)[1] if b else None for b in blobs]
        state = _windows(view, new, newest, stored)
        swapped = store.swap(indexes, _rows(view, new.keys, after, state), expected)
        return np.array(swapped), sum(swapped)
    state = _latest(view, new, rows, newest)
    full = _rows(view, new.keys, after, state)
    moved = [bulk(tiles.seal(h.pack(0) + (tiles.unseal(b) if b else b"")[tiles.HEADER_SIZE :])) for h, b in zip(after, blobs, strict=True)]
    won = np.zeros(len(new.keys), dtype=bool)
    for chosen, rows_ in ((current, full), (~current, Rows(full.keys, fields[:1], [moved]))):
        # an older row than the one stored: only the header moves
        some = np.flatnonzero(chosen).tolist()
        if some:
            won[some] = store.swap(indexes, rows_.take(some), [expected[i] for i in some])
    return won, int(won.sum())
