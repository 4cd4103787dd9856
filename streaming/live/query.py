"""The live stream: Spark Structured Streaming gives turns (`streaming.live.turn`) in which events get from Redis into the online store.

How far the stream has got is kept in Redis (`streaming.live.progress`), and is written after what was applied. Every start begins there.
So whatever dies - the driver, a worker, or Redis with its last second - the note is never ahead of what was applied. An event may
come again after a crash. It does not count twice: every entity remembers the last stream id applied to it, and the event is passed over.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cause import cause_of
from infra.redis_client import without_password
from infra.supervision.beat import Pulse
from infra.timestamps import span_text
from streaming.clock import SHARE, TOLERANCE_S
from streaming.live.workers import forget_dead, warm
from streaming.online.retention import sweep
from streaming.online.store import OnlineStoreError, connect
from streaming.online.unfilled import unfilled_views
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

KEEP_S = 172_800.0
"""Applied events stay on the stream for two days: a backfill to an earlier moment catches up from them."""
SWEEP_S = 600.0
STUCK_S = 180.0
"""A micro-batch that does not end for so long is said to stand still."""
_BACKOFF_S = (0.05, 30.0)
_GROWTH = 1.5
"""So the next try comes after at most half the time for which it has failed."""
_LOOK_S = 1.0
_LOOK_AT_STORE_S = 5.0
LOOK_AT_DEFINITIONS_S = 10.0
"""So often the stream asks whether an `apply` has changed what it streams."""


def start(
    spark: SparkSession,
    redis_url: str,
    views: Sequence[View],
    checkpoint: str,
    keep_s: float = KEEP_S,
    tolerance_s: float = TOLERANCE_S,
    tasks: int = 1,
) -> StreamingQuery:
    """Start the streaming query where Redis says that the last one has got to.

    Args:
        views: every view; those with a push source are kept live.
        checkpoint: folder for Spark's own notes on the query; emptied first, since Redis keeps the offset.
        keep_s: applied events older than this are taken off the stream.
        tolerance_s: an event dated further ahead of the clock than this is rejected.
        tasks: that share the entities. All run at the same time: the master must have as many slots free.

    Raises:
        ValueError: no view has a push source.
    """
    fed = [v for v in views if v.stream]
    if not fed:
        raise ValueError("no feature view has a push source: there is nothing to stream")
    from streaming.live.turn import SCHEMA, Turns, take_turn

    forget_dead(spark)
    threading.Thread(target=warm, args=(spark,), name="warm", daemon=True).start()  # while Spark plans the query
    shutil.rmtree(checkpoint, ignore_errors=True)
    spark.conf.set("spark.sql.streaming.numRecentProgressUpdates", "20")
    spark.conf.set("spark.sql.streaming.minBatchesToRetain", "2")
    common = Turns(without_password(redis_url), pickle.dumps(fed), keep_s, tolerance_s, tasks, uuid.uuid4().hex)
    ticks = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", str(tasks)).option("numPartitions", str(tasks)).load()
    return (
        ticks.mapInArrow(partial(take_turn, turns=common), SCHEMA)
        .writeStream.format("noop")
        .queryName("headrace")
        .outputMode("append")
        .option("checkpointLocation", checkpoint)
        .start()
    )


class _Supervised:
    """A query that is started again when it has failed (a worker killed, Redis away), with longer waits each time.

    Attributes:
        trouble: why it does not do its work, in one line; empty: it does. A query that was started again has not shown yet that it works:
            the trouble stays until a micro-batch has ended, or until there is none to be done.
    """

    def __init__(self, name: str, starter: Callable[[], StreamingQuery]) -> None:
        self.name, self.starter = name, starter
        self.query = starter()
        self.pause, self.resumes = _BACKOFF_S[0], 0.0
        self.trouble = ""
        self._looked, self._moved, self._batch = 0.0, time.monotonic(), -1

    def check(self) -> None:
        now = time.monotonic()
        if self.query.isActive:
            if now - self._looked > _LOOK_S:
                self._looked = now
                self._look(now)
            return
        if not self.resumes:
            self.resumes = now + self.pause
            self._failed(cause_of(failure) if (failure := self.query.exception()) is not None else "it ended by itself")
        elif now >= self.resumes:
            self.resumes = 0.0
            try:
                self.query = self.starter()
                self._moved, self._batch = now, -1
            except Exception as error:
                self.resumes = now + self.pause
                self._failed(cause_of(error))

    def _failed(self, why: str) -> None:
        self.trouble = f"{self.name} failed: {why[:300]}"
        print(f"{self.name} failed, next try in {self.pause:.2g} s: {why[:300]}", file=sys.stderr, flush=True)
        self.pause = min(_GROWTH * self.pause, _BACKOFF_S[1])

    def _look(self, now: float) -> None:
        """Whether it gets on: micro-batches end, or there is none to be done."""
        said, last = self.query.status, self.query.lastProgress
        batch = -1 if last is None else int(last["batchId"])
        if batch > self._batch:  # it did its work: the next failure is a new one
            self.pause = _BACKOFF_S[0]
        if batch != self._batch or _idle(said):
            self._moved, self._batch, self.trouble = now, batch, ""
        elif now - self._moved > STUCK_S:
            self.trouble = f"{self.name} stands still: {said['message']}, for {span_text(now - self._moved)}"


def _idle(status: dict[str, Any]) -> bool:
    return not status["isTriggerActive"] and not status["isDataAvailable"] and status["message"].startswith("Waiting")


def run(
    starters: Mapping[str, Callable[[], StreamingQuery]],
    redis_url: str,
    views: Sequence[View],
    ready: Callable[[], None] = lambda: None,
    most: float = SHARE,
    root: Path | None = None,
    changed: Callable[[], str] = lambda: "",
) -> None:
    """Run streaming queries until SIGTERM or SIGINT; one that fails is started again, and nothing is lost. How they fare is in the part's beat.

    Args:
        starters: by name, what starts each query (`start`, `streaming.live.connectors`).
        most: the largest share of a view's entities that is forgotten at once.
        root: where the offline tables lie; given, a store that holds nothing of them is told as a trouble.
        changed: how the applied definitions differ from `views`; empty: they do not. Where they do, this returns, to be started anew: what
            was removed must not be written again, and what is new would never be.

    Raises:
        OnlineStoreError: Redis does not answer at the start.
        ValueError: there is nothing to stream.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not views:
        raise ValueError("no feature view is applied, so there is nothing to stream: run `headrace apply` first")
    with Pulse(redis_url, views[0].project, "stream") as pulse:
        queries = [_Supervised(name, starter) for name, starter in starters.items()]
        ready()
        swept, sweeping = time.monotonic(), ""
        looked, missing = -_LOOK_AT_STORE_S, ""
        asked = time.monotonic()
        while not stop.wait(0.2):
            for query in queries:
                query.check()
            if time.monotonic() - swept > SWEEP_S:
                swept = time.monotonic()
                sweeping = _sweep(redis_url, views, most)
            if root is not None and time.monotonic() - looked > _LOOK_AT_STORE_S:
                looked, missing = time.monotonic(), _missing(redis_url, views, root, missing)
            if time.monotonic() - asked > LOOK_AT_DEFINITIONS_S:
                if other := changed():
                    print(f"the definitions have changed ({other}): the stream ends, to begin again with them", flush=True)
                    break
                asked = time.monotonic()
            pulse.beat("; ".join(filter(None, [*(query.trouble for query in queries), sweeping, missing])))
        for query in queries:
            query.query.stop()  # wherever it is: what Redis remembers is consistent


def _missing(redis_url: str, views: Sequence[View], root: Path, before: str) -> str:
    """What the store lacks, in one line; `before` where it does not answer."""
    import redis

    try:
        with contextlib.closing(connect(redis_url)) as client:
            lacking = unfilled_views(client, [v for v in views if v.stream], root)
    except (OnlineStoreError, OSError, redis.RedisError):
        return before
    if not lacking:
        return ""
    names = ", ".join(lacking)
    return f"no backfill of {names} is in the store, or it has lost it: windows hold live events only; run `headrace backfill`"


def _sweep(redis_url: str, views: Sequence[View], most: float) -> str:
    """Why it failed, in one line; empty: it did not."""
    try:
        with contextlib.closing(connect(redis_url)) as client:
            swept = sweep(client, [v for v in views if v.stream], most)
        if dropped := [f"{one.view} {one.dropped:,}" for one in swept if one.dropped]:
            print("forgot silent entities: " + ", ".join(dropped), flush=True)
        for one in swept:
            if one.refused:
                print(f"{one}, too many to forget at once by itself: `headrace sweep --allow-most` does it", file=sys.stderr, flush=True)
        return ""
    except Exception as error:  # the stream goes on; the next sweep tries again
        said = f"the sweep failed: {cause_of(error)}"
        print(said, file=sys.stderr, flush=True)
        return said
