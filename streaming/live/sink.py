"""Where live events end up: each micro-batch is merged into the online store where it was read (`streaming.live.turn`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from feature_repo.records.redis_keys import view_key
from infra.redis_client import whole
from streaming import clock
from streaming.aggregation.tiles import OtherDefinitionError
from streaming.clock import TOLERANCE_S
from streaming.live import dead_letters, events
from streaming.live.event_log import elsewhere
from streaming.live.progress import commit
from streaming.live.share import WHOLE, Owned, Share
from streaming.online.store import ForeignKeyError, OnlineStore, of_the_store
from streaming.online.writer import apply
from streaming.schema.columns import EVENT
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True)
class _Batch:
    """A micro-batch as columns, a row per event; `latest_us`: the latest moment each may be dated."""

    source: list[str]
    data: list[bytes]
    only: list[str]
    position: list[tuple[int, int]]
    latest_us: list[int]

    @classmethod
    def of(cls, table: pa.Table, tolerance_s: float, now_us: int | None) -> _Batch:
        ms, seq, source, data, only = (table[name].to_pylist() for name in ("ms", "seq", "source", "data", "only"))
        return cls(source, data, only, list(zip(ms, seq, strict=True)), clock.latest_us(ms, tolerance_s, now_us))


def apply_batch(
    views: Sequence[View],
    store: OnlineStore,
    batch: pa.Table,
    tolerance_s: float = TOLERANCE_S,
    now_us: int | None = None,
    share: Share = WHOLE,
) -> dict[str, int]:
    """Merge one micro-batch, in stream order, into every view that its events feed. What does not fit is put on the rejected stream.

    Every event is applied to the views it feeds, or set aside with the reason; what has been set aside before stays there. A batch that
    fails is halved until the events that make it fail are found; only a store that is away or refuses writes fails it as a whole.

    Args:
        tolerance_s: how far ahead of the clock an event may be dated.
        now_us: the wall clock; None: read it.
        share: only the events that this task looks after are applied or refused. What it refuses is put on the rejected stream by
            `progress.commit`, when all tasks have got there.

    Returns:
        The newest event time (microseconds) of each view that had an event.
    """
    owned = Owned(share, views, batch)
    rows = _Batch.of(owned.batch, tolerance_s, now_us)
    project, fed = views[0].project, {v.stream for v in views}
    aside = dead_letters.set_aside(store.client, project, rows.position[0], rows.position[-1]) if rows.position else {}
    refused: dict[int, dict[str, str]] = defaultdict(dict)
    kafka = elsewhere(store.client, project) if not fed.issuperset(rows.source) else []
    by_source: dict[str, list[int]] = defaultdict(list)
    for i, source in enumerate(rows.source):
        if "" in aside.get(rows.position[i], ()):
            continue
        if source in fed:
            by_source[source].append(i)
        else:
            refused[i][""] = f"no feature view is fed by a push source named {source[:100]!r}"
            if source in kafka:
                refused[i][""] = (
                    f"push source {source!r} is read from Kafka: send its events to the topic (`headrace rejected --replay` does)"
                )
    newest = {}
    for view in views:
        mine = [i for i in by_source.get(view.stream or "", []) if not rows.only[i] or view.name in rows.only[i].split(",")]
        mine = [i for i in mine if view.name not in aside.get(rows.position[i], ())]
        us, bad = _merge(view, store, rows, owned.rows(view, mine))
        for i, why in bad.items():
            refused[i][view.name] = why
        if us is not None:
            newest[view.name] = us
    if refused:
        letters = [dead_letters.Rejected(rows.position[i], rows.source[i], rows.data[i], why) for i, why in sorted(refused.items())]
        (dead_letters.put if share.tasks == 1 else dead_letters.hold_back)(store.client, project, letters)
    return newest


def _merge(view: View, store: OnlineStore, rows: _Batch, some: list[int]) -> tuple[int | None, dict[int, str]]:
    """Apply some of the rows to a view; the newest event time applied, and why others could not be, by row."""
    if not some:
        return None, {}
    try:
        table, kept, bad = events.decode(view, [rows.data[i] for i in some], some, [rows.latest_us[i] for i in some])
        apply(view, store, table, [rows.position[i] for i in kept])
        return max(table[EVENT].to_pylist(), default=None), {one.row: one.why for one in bad}
    except Exception as error:
        if _outage(error, view, store):
            raise
        if len(some) == 1:
            return None, {some[0]: f"it cannot be applied ({type(error).__name__}: {str(error)[:300]})"}
    # one after the other: of an entity's events the earlier one must be applied first
    halves = [_merge(view, store, rows, part) for part in (some[: len(some) // 2], some[len(some) // 2 :])]
    return max((us for us, _ in halves if us is not None), default=None), halves[0][1] | halves[1][1]


def _outage(error: Exception, view: View, store: OnlineStore) -> bool:
    """Whether no event is to blame: the batch is tried again as it is."""
    if isinstance(error, OtherDefinitionError):
        # the view waits for its backfill; where it has had that, one entity was left behind, and the others need not wait for it
        backfilled = whole(cast(Any, store.client.hget(view_key(view.project, view.name), "fingerprint")))
        return backfilled is None or not view.holds(backfilled)
    return not isinstance(error, ForeignKeyError) and (of_the_store(error) or isinstance(error, ImportError))


def merge(
    client: redis.Redis,
    views: Sequence[View],
    batches: Sequence[pa.RecordBatch],
    keep_s: float,
    tolerance_s: float = TOLERANCE_S,
    share: Share = WHOLE,
) -> int:
    """Merge what a task has read, and note how far it has got (`streaming.live.progress`). Returns how many events were read.

    Args:
        keep_s, tolerance_s: see `streaming.live.turn`.
        share: of the events, those that the task looks after.
    """
    if not batches:
        return 0
    table = pa.Table.from_batches(batches)
    newest = apply_batch(views, OnlineStore(client), table, tolerance_s, share=share)
    upto = int(table["ms"][-1].as_py()), int(table["seq"][-1].as_py())
    commit(client, views[0].project, upto, len(table), newest, keep_s, share)
    return len(table)
