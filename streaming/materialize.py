"""From arrays of events to what lies in the online store: the one place that backfill and stream share.

Written per view and entity, in one step: the tile field (header with high-water mark; for windowed views the tiles too), every feature in
Feast's own encoding (windows finished at the newest event), and Feast's timestamp field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from streaming import layout, tile
from streaming.join import EVENT, KNOWN, floats, microseconds
from streaming.point_in_time import NEVER, encode_keys
from streaming.store import OnlineStore, keys_key
from streaming.view import View
from streaming.window import Floats, Ints

Position = tuple[int, int]


@dataclass(frozen=True)
class _Grouped:
    """Events of one view grouped by entity: `owner` int64 `[n]` indexes `keys`."""

    keys: list[bytes]
    owner: Ints
    event_us: Ints
    known_us: Ints
    table: pa.Table


def key_function(view: View) -> Callable[[Sequence[Any]], bytes]:
    return layout.key_encoder(view.project, [(k.name, k.dtype) for k in view.keys])


def _group(view: View, events: pa.Table) -> _Grouped:
    names = view.key_names
    objects = [np.array(events[n].to_pylist(), dtype=object) for n in names]
    (code,) = encode_keys(objects)
    if (code < 0).any():
        keep = code >= 0
        events, objects, code = events.filter(pa.array(keep)), [o[keep] for o in objects], code[keep]
    _, first, owner = np.unique(code, return_index=True, return_inverse=True)
    encode = key_function(view)
    keys = [encode([o[i] for o in objects]) for i in first.tolist()]
    return _Grouped(keys, owner.astype(np.int64), microseconds(events[EVENT]), microseconds(events[KNOWN]), events)


def _marks(group: _Grouped) -> tuple[Ints, Ints, Ints]:
    """Newest known-time, how many events of it, and newest event time, per owner."""
    n = len(group.keys)
    mark = np.full(n, NEVER)
    np.maximum.at(mark, group.owner, group.known_us)
    ties = np.bincount(group.owner[group.known_us == mark[group.owner]], minlength=n)
    newest = np.full(n, NEVER)
    np.maximum.at(newest, group.owner, group.event_us)
    return mark, ties, newest


def _newest_rows(group: _Grouped) -> Ints:
    """Row of each owner's latest event: by event time, known time, row."""
    row = np.arange(len(group.owner))
    order = np.lexsort((row, group.known_us, group.event_us, group.owner))
    ends = np.searchsorted(group.owner[order], np.arange(len(group.keys)), "right") - 1
    return order[ends]


def view_fields(view: View) -> list[bytes]:
    """Every hash field a view has on an entity."""
    return [layout.tile_field(view.name), layout.timestamp_field(view.name), *(field for field, _, _ in _encoders(view))]


def _encoders(view: View) -> list[tuple[bytes, str, str]]:
    return [(layout.field(view.name, f.name), f.name, f.dtype) for f in view.features]


def _fields(
    view: View, header: tile.Header, levels: Sequence[tuple[Ints, Floats]], values: Sequence[Any], event_us: int
) -> dict[bytes, bytes]:
    fields = {
        layout.tile_field(view.name): tile.encode(header, levels),
        layout.timestamp_field(view.name): layout.encode_timestamp(event_us),
    }
    for (field, _, dtype), value in zip(_encoders(view), values, strict=True):
        fields[field] = layout.encode_value(value, dtype)
    return fields


def overwrite(view: View, store: OnlineStore, events: pa.Table, index: str) -> int:
    """Write the state of every entity in `events` (all of an entity's events, canonical order) as the whole truth.

    Args:
        index: the Redis set that takes the keys written.

    Returns:
        Entities written.
    """
    group = _group(view, events)
    if not group.keys:
        return 0
    mark, ties, newest = _marks(group)
    fingerprint = tile.fingerprint(view.layout)
    n = len(group.keys)
    rows = _newest_rows(group)
    per_owner: list[list[tuple[Ints, Floats]]] = [[] for _ in range(n)]
    if view.layout:
        columns = {c: floats(group.table[c]) for c in view.columns}
        finished: dict[str, Floats] = {}
        for level in tile.levels_of(view.layout):
            tiles = tile.prune(level, tile.build(level, group.owner, group.event_us, group.known_us, columns), newest)
            finished |= tile.finish(level, tiles, n, newest)
            for i, part in enumerate(tiles.slices(n)):
                per_owner[i].append(part)
        values = list(zip(*(finished[f.name].tolist() for f in view.features), strict=True))
    else:
        picked = group.table.take(pa.array(rows))
        values = list(zip(*(picked[f.name].to_pylist() for f in view.features), strict=True))
    writes = []
    for i, key in enumerate(group.keys):
        row = rows[i]
        header = tile.Header(fingerprint, int(mark[i]), int(ties[i]), (0, 0), 1, int(group.event_us[row]), int(group.known_us[row]))
        writes.append((key, _fields(view, header, per_owner[i], values[i], int(newest[i]))))
    store.put(index, writes)
    return n


def apply(view: View, store: OnlineStore, events: pa.Table, positions: Sequence[Position], seam_us: int) -> int:
    """Merge live events into the store, each exactly once whatever is repeated.

    An event counts for an entity when its stream position lies beyond the one stored with the entity and it was known after the
    backfill's end (`seam_us`). Entities that another writer changed in between are read and merged again.

    Args:
        events: columns of the view, `__event`, `__known`; in stream order.
        positions: the stream id of each row, ascending.

    Returns:
        Entities written.
    """
    ids = np.array(positions, dtype=np.int64).reshape(-1, 2)
    events = events.append_column("__ms", pa.array(ids[:, 0])).append_column("__seq", pa.array(ids[:, 1]))
    events = events.filter(pa.array(microseconds(events[KNOWN]) > seam_us))
    written = 0
    for _ in range(50):
        if not len(events):
            return written
        group = _group(view, events)
        won = _apply_once(view, store, group)
        written += int(won.sum())
        if won.all():
            return written
        events = group.table.filter(pa.array(~won[group.owner]))
    raise RuntimeError(
        f"feature view {view.name!r}: other writers kept changing {len(events)} events' entities; is a second stream running?"
    )


def _apply_once(view: View, store: OnlineStore, group: _Grouped) -> Any:
    field = layout.tile_field(view.name)
    blobs = store.read(group.keys, field)
    fingerprint = tile.fingerprint(view.layout)
    levels = tile.levels_of(view.layout) if view.layout else []
    headers = [tile.read_header(b) if b else tile.Header(fingerprint) for b in blobs]
    stale = [h.fingerprint != fingerprint for h in headers]
    if any(stale):
        raise tile.TileError(f"feature view {view.name!r} holds tiles of another definition: run `headrace backfill --view {view.name}`")
    ms, seq = group.table["__ms"].to_numpy(), group.table["__seq"].to_numpy()
    at = np.array([h.position for h in headers], dtype=np.int64).reshape(-1, 2)[group.owner]
    fresh = (ms > at[:, 0]) | ((ms == at[:, 0]) & (seq > at[:, 1]))
    if not fresh.any():
        return np.ones(len(group.keys), dtype=bool)
    touched = np.zeros(len(group.keys), dtype=bool)
    touched[group.owner[fresh]] = True
    new = _Grouped(group.keys, group.owner[fresh], group.event_us[fresh], group.known_us[fresh], group.table.filter(pa.array(fresh)))
    mark, ties, newest = _marks(new)
    newest = np.maximum(newest, [h.event_us for h in headers])
    n = len(group.keys)
    last = np.zeros((n, 2), dtype=np.int64)
    last[new.owner] = np.stack([ms[fresh], seq[fresh]], axis=1)  # ascending, so the last one stays
    per_owner: list[list[tuple[Ints, Floats]]] = [[] for _ in range(n)]
    values: list[Sequence[Any]] = []
    rows = np.full(n, -1)
    who, found = np.unique(new.owner, return_index=False), None
    rows[who] = _newest_rows(_Grouped([b""] * n, new.owner, new.event_us, new.known_us, new.table))[who]
    if view.layout:
        stored = [tile.decode(b, levels, fingerprint)[1] if b else None for b in blobs]
        columns = {c: floats(new.table[c]) for c in view.columns}
        finished: dict[str, Floats] = {}
        for k, level in enumerate(levels):
            fresh_tiles = tile.build(level, new.owner, new.event_us, new.known_us, columns)
            merged = tile.prune(level, tile.merge(level, _stored_tiles(level, k, stored), fresh_tiles), newest)
            finished |= tile.finish(level, merged, n, newest)
            for i, part in enumerate(merged.slices(n)):
                per_owner[i].append(part)
        values = list(zip(*(finished[f.name].tolist() for f in view.features), strict=True))
    else:
        found = new.table.take(pa.array(np.maximum(rows, 0)))
        values = list(zip(*(found[f.name].to_pylist() for f in view.features), strict=True))
    writes, index = [], []
    for i in np.flatnonzero(touched).tolist():
        old, row = headers[i], int(rows[i])
        header = replace(old.advanced(int(mark[i]), int(ties[i])), position=(int(last[i, 0]), int(last[i, 1])), revision=old.revision + 1)
        event, known = int(new.event_us[row]), int(new.known_us[row])
        current = (event, known) >= (old.event_us, old.row_known_us)
        if current:
            header = replace(header, event_us=event, row_known_us=known)
        blob = blobs[i]
        if view.layout or current:
            fields = _fields(view, header, per_owner[i], values[i], int(newest[i]))
        else:  # an older row than the one stored: only the mark moves
            fields = {field: tile.encode(header, [])}
        writes.append((group.keys[i], blob[: tile.HEADER_SIZE] if blob else b"", fields))
        index.append(i)
    won = np.ones(n, dtype=bool)
    won[index] = store.swap(keys_key(view.project, view.name), field, writes)
    return won


def _stored_tiles(level: tile.Level, k: int, stored: Sequence[Any]) -> tile.Tiles:
    have = [(i, s[k]) for i, s in enumerate(stored) if s is not None and len(s[k][0])]
    if not have:
        return tile.Tiles(np.zeros(0, np.int64), np.zeros(0, np.int64), level.layout.identity(0))
    owner = np.repeat([i for i, _ in have], [len(s[0]) for _, s in have])
    return tile.Tiles(
        owner.astype(np.int64),
        np.concatenate([s[0] for _, s in have]).astype(np.int64),
        np.concatenate([s[1] for _, s in have], axis=1),
    )
