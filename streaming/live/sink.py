"""Where live events end up: each micro-batch is merged into the online store where it was read (`streaming.live.turn`)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from feature_repo.records.redis_keys import applied_key, events_key, view_key
from infra.redis_client import whole
from streaming import clock
from streaming.aggregation.tiles import OtherDefinitionError
from streaming.clock import TOLERANCE_S
from streaming.live import dead_letters, events
from streaming.live.event_log import elsewhere
from streaming.online.store import ForeignKeyError, OnlineStore, of_the_store, stream_id
from streaming.online.writer import apply
from streaming.schema.columns import EVENT
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis

# KEYS[1] the progress; ARGV: milliseconds and sequence of the last entry, wall clock, events, then view, newest event time, ...
_ADVANCE = """
local ms, seq = string.match(redis.call('HGET', KEYS[1], 'id') or '0-0', '^(%d+)-(%d+)$')
ms, seq = tonumber(ms or '0'), tonumber(seq or '0')
local to_ms, to_seq = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'wall_us', ARGV[3])
if to_ms < ms or (to_ms == ms and to_seq <= seq) then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[1] .. '-' .. ARGV[2])
if type(redis.pcall('HINCRBY', KEYS[1], 'events', ARGV[4])) == 'table' then redis.call('HSET', KEYS[1], 'events', ARGV[4]) end
for i = 5, #ARGV, 2 do
  local before = redis.call('HGET', KEYS[1], ARGV[i])
  if not tonumber(before or '') or tonumber(before) < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
"""


def newest_field(view: str) -> str:
    """Field of the progress hash: the newest event time the stream has seen of a view, microseconds."""
    return f"newest:{view}"


def advance(client: redis.Redis, key: str, position: tuple[int, int], events: int, newest: Mapping[str, int]) -> None:
    """Note how far a stream has got, never backwards.

    Args:
        key: of the progress hash.
        newest: by view, the newest event time, microseconds.
    """
    told = [part for view, us in newest.items() for part in (newest_field(view), us)]
    client.eval(_ADVANCE, 1, key, *position, time.time_ns() // 1000, events, *told)


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
    views: Sequence[View], store: OnlineStore, batch: pa.Table, tolerance_s: float = TOLERANCE_S, now_us: int | None = None
) -> dict[str, int]:
    """Merge one micro-batch, in stream order, into every view that its events feed. What does not fit is put on the rejected stream.

    Every event is applied to the views it feeds, or set aside with the reason; what has been set aside before stays there. A batch that
    fails is halved until the events that make it fail are found; only a store that is away or refuses writes fails it as a whole.

    Args:
        tolerance_s: how far ahead of the clock an event may be dated.
        now_us: the wall clock; None: read it.

    Returns:
        The newest event time (microseconds) of each view that had an event.
    """
    rows = _Batch.of(batch, tolerance_s, now_us)
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
        us, bad = _merge(view, store, rows, mine)
        for i, why in bad.items():
            refused[i][view.name] = why
        if us is not None:
            newest[view.name] = us
    if refused:
        dead_letters.put(
            store.client,
            project,
            [dead_letters.Rejected(rows.position[i], rows.source[i], rows.data[i], why) for i, why in sorted(refused.items())],
        )
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
    client: redis.Redis, views: Sequence[View], batches: Sequence[pa.RecordBatch], keep_s: float, tolerance_s: float = TOLERANCE_S
) -> int:
    """Merge what a task has read, note how far the stream has got, and take old events off it. Returns how many events these were.

    Args:
        keep_s, tolerance_s: see `streaming.live.turn`.
    """
    if not batches:
        return 0
    table, project = pa.Table.from_batches(batches), views[0].project
    newest = apply_batch(views, OnlineStore(client), table, tolerance_s)
    ms, seq = int(table["ms"][-1].as_py()), int(table["seq"][-1].as_py())
    # after the entities: what Redis remembers of a crash is a beginning of what was written, so progress never runs ahead
    advance(client, applied_key(project), (ms, seq), len(table), newest)
    # by the clock of Redis and by this machine's: one that jumps ahead takes nothing
    oldest = min(ms, time.time_ns() // 1_000_000) - round(keep_s * 1000)
    if oldest > 0:
        client.xtrim(events_key(project), minid=oldest, approximate=True)
        first: Any = client.xrange(events_key(project), count=1)
        dead_letters.forget(client, project, min(stream_id(first[0][0])[0], oldest) if first else oldest)
    return len(table)
