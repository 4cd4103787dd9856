"""A turn: what a task of the streaming query does. It reads events and merges its share for some seconds, then Spark gives it the next turn.

Spark starts the query's tasks, watches them, and starts them again elsewhere. Which events are taken is settled between each task and Redis.
Why not a Python data source? For one, Spark would start five more Python processes before the first event (its schema, its offsets, its
partitions, its writer, its commits), and three for every micro-batch.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.records.redis_keys import events_key
from streaming.live import event_log
from streaming.live.progress import reached
from streaming.live.share import WHOLE, Share
from streaming.live.sink import merge
from streaming.online.store import connect

if TYPE_CHECKING:
    import redis

TURN_S = (1.0, 10.0)
"""The first turn of a query, and the others: what watches it soon sees one end, and hence that it works."""
EVERY_S = 0.1
"""Events are looked for so often: what comes meanwhile is merged at once, which costs less than one after the other."""
LIMIT = 50_000
"""Back-pressure: never more events are merged at once than this."""
SCHEMA = "events bigint"


def take(client: redis.Redis, project: str, limit: int = LIMIT, share: Share = WHOLE) -> list[pa.RecordBatch]:
    """The oldest events that the share has not got to yet, at most `limit`, in batches of `live.SCHEMA`; whoever's they are.

    How far it has got is asked of Redis each time: it may have been started anew, and have lost its last second.
    """
    after = event_log.text(reached(client, project, share))
    return list(event_log.entries(client, events_key(project), after, "+", limit))


@dataclass(frozen=True)
class Turns:
    """What all turns of a query's run have in common.

    Attributes:
        views: pickled, a list of `View`.
        keep_s: events are taken off the stream when they are applied and older than this.
        tolerance_s: how far ahead of the clock an event may be dated.
        tasks: of the query, each with a share of the entities.
        run: name of the run.
    """

    url: str
    views: bytes
    keep_s: float
    tolerance_s: float
    tasks: int = 1
    run: str = ""
    turns_s: tuple[float, float] = TURN_S


def take_turn(ticks: Iterator[pa.RecordBatch], turns: Turns) -> Iterator[pa.RecordBatch]:
    """Merge what comes for a while.

    Args:
        ticks: one row of Spark's `rate-micro-batch`: its `value` is the number of the turn, times the tasks, plus this task's.

    Yields:
        One batch of `SCHEMA`: how many events were read.
    """
    fed, client, events = pickle.loads(turns.views), _client(turns.url), 0
    (number,) = (value for tick in ticks for value in tick["value"].to_pylist())
    share = Share(number % turns.tasks, turns.tasks, turns.run)
    ends = time.monotonic() + turns.turns_s[0 if number < turns.tasks else 1]
    while True:
        began = time.monotonic()
        with _uncollected():
            merged = merge(client, fed, take(client, fed[0].project, share=share), turns.keep_s, turns.tolerance_s, share)
        events += merged
        if time.monotonic() >= ends:
            break
        if merged < LIMIT:
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
    yield pa.RecordBatch.from_pydict({"events": pa.array([events], pa.int64())})


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for garbage in cycles, of which a batch makes none: the many small objects of a reply make Python look for it
    over and over, which takes most of the time of reading.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_clients: dict[str, Any] = {}


def _client(url: str) -> Any:
    # a worker lives through many turns: one connection for all of them
    if url not in _clients:
        _clients[url] = connect(url)
    return _clients[url]
