"""Forget entities that have fallen silent, so that the online store holds who is active and not everyone who ever was.

A windowed view's entity goes when its newest event has left every window. That changes no number: the windows of an absent entity and
of one without events are the same. A latest-value view's entity goes a day after its ttl: past the ttl the model gets null anyway. Views
without a ttl keep everything.

How long somebody is silent is counted from a clock (`streaming.clock`), never from the newest event. And never is most of a view
forgotten at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feature_repo.records.redis_keys import keys_key
from streaming import clock
from streaming.aggregation import tiles
from streaming.aggregation.windows import DAY
from streaming.clock import SHARE
from streaming.online import entity_index
from streaming.online.entities import view_fields
from streaming.online.store import OnlineStore
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True)
class Swept:
    """
    Attributes:
        entities: that held the view.
        silent: of them, those past the view's retention.
        dropped: of these, those that were forgotten.
    """

    view: str
    entities: int
    silent: int
    dropped: int

    @property
    def refused(self) -> bool:
        return self.silent > 0 and not self.dropped

    def __str__(self) -> str:
        return f"{self.view}: {self.silent:,} of {self.entities:,} entities are silent"


def retention_us(view: View) -> int | None:
    """How long an entity without events is kept, microseconds; None: for ever."""
    if view.layout:
        return view.reach_us + max(a.hop_us for a in view.layout.aggregations)
    return view.ttl_us + DAY if view.ttl_us else None


def sweep(client: redis.Redis, views: Sequence[View], most: float = SHARE, now_us: int | None = None, dry_run: bool = False) -> list[Swept]:
    """Drop the entities that are past their view's retention by the clock. If that is more than a share of a view, nothing of it is dropped.

    Safe beside every writer: an entity is dropped only if its header still is what was read.

    Args:
        most: the largest share of a view that may go at once; 1: all of it.
        now_us: the clock, microseconds since the epoch; None: the project's (`streaming.clock.now_us`).
        dry_run: drop nothing.

    Returns:
        One of each view that has a retention.
    """
    store, swept = OnlineStore(client), []
    for view in views:
        keep = retention_us(view)
        if keep is None:
            continue
        oldest = (clock.now_us(client, view.project) if now_us is None else now_us) - keep
        index, fields = keys_key(view.project, view.name), view_fields(view)

        def active(header: bytes, oldest: int = oldest) -> bool:
            try:
                return bool(header) and tiles.read_header(header).event_us >= oldest
            except tiles.TileError:
                return True  # not ours to judge: a backfill replaces it

        total, going = 0, []
        for keys in entity_index.members(client, index):
            headers = store.read(keys, fields[0])
            total += len(keys)
            going += [key for key, header in zip(keys, headers, strict=True) if not active((header or b"")[: tiles.HEADER_SIZE])]
        allowed = not dry_run and len(going) <= most * total
        swept.append(Swept(view.name, total, len(going), store.drop(index, going, fields, active) if allowed and going else 0))
    return swept
