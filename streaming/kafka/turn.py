"""What a task of the streaming query does for Kafka: it reads, cuts, applies, for some seconds; then Spark gives it the next turn.

See `streaming.live.turn`: Spark starts the task, watches it, and starts it again elsewhere. What is read is settled between the task,
Redis (the cuts) and Kafka. Two tasks at once do no harm: only one of them can write the next cut, and both would apply the same.
"""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.records.redis_keys import applied_kafka_key, events_key
from infra.redis_client import without_password
from streaming.clock import TOLERANCE_S
from streaming.kafka import cuts
from streaming.kafka.client import KafkaError, Topics
from streaming.kafka.kafka_log import table_of
from streaming.kafka.reader import Reader, Record, in_order, ranges_of, read
from streaming.kafka.values import Values
from streaming.live import dead_letters, progress, sink
from streaming.live.query import KEEP_S
from streaming.live.turn import EVERY_S, LIMIT, SCHEMA, TURN_S
from streaming.online.store import OnlineStore, connect, stream_id
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

_TELL_S = 1.0


class Follower:
    """Applies what topics bring.

    Args:
        views: those that the topics feed.
        keep_s: for so long cuts are kept: a backfill catches up from them.
        tolerance_s: how far ahead of the clock an event may be dated.
        limit: back-pressure: never more events are cut and applied at once; the others stay in Kafka.
    """

    # wide: what a follower is made of; called by the task and by tests
    def __init__(
        self,
        client: redis.Redis,
        views: Sequence[View],
        topics: Topics,
        keep_s: float = KEEP_S,
        tolerance_s: float = TOLERANCE_S,
        limit: int = LIMIT,
    ) -> None:
        self.client, self.views, self.topics, self.limit = client, views, topics, limit
        self._keep_s, self._tolerance_s = keep_s, tolerance_s
        self._project, self._key = views[0].project, applied_kafka_key(views[0].project)
        self._values, self._reader, self._told = Values(topics.registry), None, 0.0
        self._number = -1

    _reader: Reader | None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def step(self) -> int:
        """Apply what was cut and not applied, or else what comes next; how many events this was.

        Raises:
            KafkaError: Kafka or the schema registry does not answer, or what should come next is gone.
            OnlineStoreError: Redis is lost.
        """
        now, done = cuts.place(self.client, self._project), cuts.applied(self.client, self._project)
        if now.number > done:
            self.close()  # it may hold what somebody else has cut
            left = cuts.between(self.client, self._project, done, now.number)
            if not left or left[-1].number != now.number:
                raise KafkaError(f"cut {now.number} is gone from Redis, and it has not been applied: what it held is not known any more")
            return sum(self._apply(cut.number, in_order(read(self.topics.options, cut.ranges))) for cut in left)
        if self._reader is None or self._number != now.number:  # Redis may have lost its last second, or another task has cut
            self.close()
            self._reader, self._number = Reader(self.topics, now.at), now.number
        before = dict(self._reader.at)
        records = self._reader.take(self.limit, EVERY_S)
        self._tell(records)
        if not records:
            return 0
        number = cuts.write(self.client, self._project, now.number, ranges_of(records, before))
        if number is None:
            self.close()
            return 0
        self._number = number
        return self._apply(number, records)

    def _apply(self, number: int, records: list[Record]) -> int:
        batch = table_of(number, records, self.topics, self._values)
        newest = sink.apply_batch(self.views, OnlineStore(self.client), pa.Table.from_batches([batch]), self._tolerance_s)
        progress.advance(self.client, self._key, (number, 0), len(batch), newest)
        if records:
            self.client.hset(self._key, "reached_ms", str(records[-1].time_ms))
        oldest = min(number, time.time_ns() // 1_000_000) - round(self._keep_s * 1000)
        if oldest > 0:
            cuts.trim(self.client, self._project, oldest)
            first: Any = self.client.xrange(events_key(self._project), count=1)
            dead_letters.forget(self.client, self._project, min(stream_id(first[0][0])[0], oldest) if first else oldest)
        return len(batch)

    def _tell(self, taken: list[Record]) -> None:
        """How much waits in Kafka, for `status` and the metrics."""
        if self._reader is not None and time.monotonic() - self._told > _TELL_S:
            self._told = time.monotonic()
            told = {"waiting": self._reader.waiting() + len(taken), "looked_us": time.time_ns() // 1000}
            self.client.hset(self._key, mapping=told)


# wide: what a turn of `streaming.live.turn` takes, and the topics
def take_turn(
    ticks: Iterator[pa.RecordBatch],
    url: str,
    views: bytes,
    topics: bytes,
    keep_s: float,
    tolerance_s: float,
    turns_s: tuple[float, float] = TURN_S,
) -> Iterator[pa.RecordBatch]:
    """Apply what comes for a while. `topics`: pickled `Topics`; else as `streaming.live.turn.take_turn`."""
    first = not any(any(tick["value"].to_pylist()) for tick in ticks)
    ends, events = time.monotonic() + turns_s[0 if first else 1], 0
    place = (url, views, topics)
    if place not in _followers:
        _followers[place] = Follower(connect(url), pickle.loads(views), pickle.loads(topics), keep_s, tolerance_s)
    follower = _followers[place]
    try:
        while True:
            events += follower.step()
            if time.monotonic() >= ends:
                break
    except BaseException:
        follower.close()
        raise
    yield pa.RecordBatch.from_pydict({"events": pa.array([events], pa.int64())})


_followers: dict[tuple[str, bytes, bytes], Follower] = {}
"""A worker lives through many turns: one consumer for all of them."""


# wide: as `streaming.live.query.start`
def start(
    spark: SparkSession,
    redis_url: str,
    views: Sequence[View],
    topics: Topics,
    checkpoint: str,
    keep_s: float = KEEP_S,
    tolerance_s: float = TOLERANCE_S,
) -> StreamingQuery:
    """Start the query that applies what topics bring. `views`: every view; else as `streaming.live.query.start`."""
    fed = [v for v in views if v.stream in topics.topics]
    shutil.rmtree(checkpoint, ignore_errors=True)
    told = {"views": pickle.dumps(fed), "topics": pickle.dumps(topics), "keep_s": keep_s, "tolerance_s": tolerance_s}
    work = partial(take_turn, url=without_password(redis_url), **told)  # type: ignore[arg-type]
    turns = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", "1").option("numPartitions", "1").load()
    writer = turns.mapInArrow(work, SCHEMA).writeStream.format("noop").queryName("headrace-kafka").outputMode("append")
    return writer.option("checkpointLocation", checkpoint).start()
