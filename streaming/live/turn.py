"""A turn: what one task of the streaming query does. It reads events and merges them for some seconds, then Spark gives it the next turn.

Spark starts the query's task, watches it, and starts it again elsewhere. Which events are taken is settled between the task and Redis.
Why not a Python data source? For one, Spark would start five more Python processes before the first event (its schema, its offsets, its
partitions, its writer, its commits), and three for every micro-batch.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.records.redis_keys import applied_key, events_key
from streaming.live import event_log
from streaming.live.sink import merge
from streaming.online.store import connect, noted_id

if TYPE_CHECKING:
    import redis

TURN_S = (1.0, 10.0)
"""The first turn of a query, and the others: what watches it soon sees one end, and hence that it works."""
EVERY_S = 0.1
"""Events are looked for so often: what comes meanwhile is merged at once, which costs less than one after the other."""
LIMIT = 50_000
"""Back-pressure: never more events are merged at once than this."""
SCHEMA = "events bigint"


def take(client: redis.Redis, project: str, limit: int = LIMIT) -> list[pa.RecordBatch]:
    """The oldest events that are not applied yet, at most `limit`, in batches of `live.SCHEMA`.

    How far the stream has got is asked of Redis each time: it may have been started anew, and have lost its last second.
    """
    done = noted_id(client.hget(applied_key(project), "id") or b"")  # type: ignore[arg-type]
    # where it is broken all is read again: what was applied before is passed over
    found = event_log.entries(client, events_key(project), event_log.text(done) if done else "0-0", "+", limit)
    return list(found)


def take_turn(
    ticks: Iterator[pa.RecordBatch], url: str, views: bytes, keep_s: float, tolerance_s: float, turns_s: tuple[float, float] = TURN_S
) -> Iterator[pa.RecordBatch]:
    """Merge what comes for a while.

    Args:
        ticks: one row of Spark's `rate-micro-batch`: its `value` is the number of the turn.
        views: pickled, a list of `View`.
        keep_s: events are taken off the stream when they are applied and older than this.
        tolerance_s: how far ahead of the clock an event may be dated.

    Yields:
        One batch of `SCHEMA`: how many events were merged.
    """
    fed, client, events = pickle.loads(views), _client(url), 0
    first = not any(any(tick["value"].to_pylist()) for tick in ticks)
    ends = time.monotonic() + turns_s[0 if first else 1]
    while True:
        began = time.monotonic()
        batches = take(client, fed[0].project)
        merged = merge(client, fed, batches, keep_s, tolerance_s)
        events += merged
        if time.monotonic() >= ends:
            break
        if merged < LIMIT:
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
    yield pa.RecordBatch.from_pydict({"events": pa.array([events], pa.int64())})


_clients: dict[str, Any] = {}


def _client(url: str) -> Any:
    # a worker lives through many turns: one connection for all of them
    if url not in _clients:
        _clients[url] = connect(url)
    return _clients[url]
