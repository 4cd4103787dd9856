"""Forget entities that have fallen silent, so that the online store holds who is active and not who ever was.

A windowed view's entity goes when its newest event has left every window: absent or empty, its windows are the same numbers. A
latest-value view's goes a day after its ttl: past the ttl the model gets null either way. Views without a ttl keep everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streaming import tile
from streaming.group import view_fields
from streaming.sink import newest_field
from streaming.store import OnlineStore, applied_key, fields_of, keys_key
from streaming.view import View
from streaming.window import DAY

if TYPE_CHECKING:
    import redis


def retention_us(view: View) -> int | None:
    """How long an entity without events is kept, microseconds; None: for ever."""
    if view.layout:
        return view.reach_us + max(a.hop_us for a in view.layout.aggregations)
    return view.ttl_us + DAY if view.ttl_us else None


def sweep(client: redis.Redis, views: Sequence[View]) -> dict[str, int]:
    """Drop what is past its retention by the newest event time that the stream has seen of each view. Returns entities dropped, by view.

    Safe beside every writer: an entity is dropped only if its header still is what was read.
    """
    dropped: dict[str, int] = {}
    if not views:
        return dropped
    said = fields_of(client.hgetall(applied_key(views[0].project)))  # type: ignore[arg-type]
    store = OnlineStore(client)
    for view in views:
        keep, newest = retention_us(view), said.get(newest_field(view.name))
        if keep is None or newest is None:
            continue
        oldest = int(newest) - keep
        index, fields = keys_key(view.project, view.name), view_fields(view)

        def active(header: bytes, oldest: int = oldest) -> bool:
            try:
                return bool(header) and tile.read_header(header).event_us >= oldest
            except tile.TileError:
                return True  # not ours to judge: a backfill replaces it

        dropped[view.name] = sum(store.drop(index, keys, fields, active) for keys in store.members(index))
    return dropped
