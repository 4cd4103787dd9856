"""The live stream: Spark Structured Streaming from the Redis Stream of events into the online store.

A Python data source reads the stream (offsets are stream ids), and a Python sink merges each micro-batch into the store. Spark keeps the
offsets; exactly-once *effect* comes from the store itself: every entity remembers the last stream id applied to it, so an event that comes
again after a crash is passed over.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.datasource import (
    DataSource,
    DataSourceStreamArrowWriter,
    DataSourceStreamReader,
    InputPartition,
    WriterCommitMessage,
)
from pyspark.sql.streaming.datasource import ReadLimit, ReadMaxRows
from pyspark.sql.types import StructType

from streaming import event, live
from streaming.materialize import apply
from streaming.store import OnlineStore, applied_key, connect, events_key, rejected_key, stream_id, without_password
from streaming.view import View

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery


class _Range(InputPartition):
    """Stream ids `(after, upto]`."""

    def __init__(self, after: str, upto: str) -> None:
        super().__init__(0)
        self.after, self.upto = after, upto


class EventReader(DataSourceStreamReader):
    """Offsets are `{"id": "<ms>-<seq>"}`: everything up to and including that entry has been taken."""

    def __init__(self, options: dict[str, str]) -> None:
        self.url, self.key = options["url"], options["key"]
        self.limit = int(options.get("limit", 50_000))
        self._client: Any = None

    def _redis(self) -> Any:
        if self._client is None:
            self._client = connect(self.url)
        return self._client

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}

    def initialOffset(self) -> dict[str, str]:
        return {"id": "0-0"}

    def latestOffset(self, start: dict[str, str], limit: ReadLimit) -> dict[str, str]:
        if isinstance(limit, ReadMaxRows):
            some: Any = self._redis().xrange(self.key, f"({start['id']}", "+", count=limit.max_rows)
            return {"id": some[-1][0].decode()} if some else start
        last = self._redis().xrevrange(self.key, count=1)
        newest = last[0][0].decode() if last else "0-0"
        return {"id": newest} if stream_id(newest) > stream_id(start["id"]) else start

    def getDefaultReadLimit(self) -> ReadLimit:
        return ReadMaxRows(self.limit)  # back-pressure: a micro-batch is never larger than this

    def partitions(self, start: dict[str, str], end: dict[str, str]) -> Sequence[InputPartition]:
        return [_Range(start["id"], end["id"])] if stream_id(end["id"]) > stream_id(start["id"]) else []

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _Range)
        with contextlib.closing(connect(self.url)) as client:
            yield from live.entries(client, self.key, partition.after, partition.upto)

    def commit(self, end: dict[str, str]) -> None:
        return None

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()


class EventSource(DataSource):
    """`spark.readStream.format("headrace_events")` with options `url` and `key`."""

    @classmethod
    def name(cls) -> str:
        return "headrace_events"

    def schema(self) -> str:
        return "ms bigint, seq bigint, source string, data binary"

    def streamReader(self, schema: StructType) -> EventReader:
        return EventReader(dict(self.options))


@dataclass
class _Done(WriterCommitMessage):
    events: int
    rejected: int
    last: tuple[int, int] | None


def apply_batch(views: Sequence[View], store: OnlineStore, batch: pa.Table) -> tuple[int, int]:
    """Merge one micro-batch, in stream order, into every view that its events feed.

    Returns:
        How many events there were and how many were rejected (put on the project's rejected stream, with the reason).
    """
    by_source: dict[str, list[int]] = defaultdict(list)
    for i, source in enumerate(batch["source"].to_pylist()):
        by_source[source].append(i)
    positions = list(zip(batch["ms"].to_pylist(), batch["seq"].to_pylist(), strict=True))
    data = batch["data"].to_pylist()
    rejected: dict[int, str] = {}
    fed = {v.stream for v in views}
    for source, rows in by_source.items():
        if source not in fed:
            rejected |= dict.fromkeys(rows, f"no feature view is fed by a push source named {source!r}")
    for view in views:
        rows = by_source.get(view.stream or "", [])
        if not rows:
            continue
        table, kept, bad = event.decode(view, [data[i] for i in rows], rows)
        rejected |= {r.row: f"{view.name}: {r.why}" for r in bad}
        apply(view, store, table, [positions[i] for i in kept])
    if rejected:
        with store.client.pipeline(transaction=False) as pipe:
            for i, why in rejected.items():
                fields = {"id": f"{positions[i][0]}-{positions[i][1]}", "source": batch["source"][i].as_py(), "data": data[i], "why": why}
                pipe.xadd(rejected_key(views[0].project), fields, maxlen=100_000, approximate=True)  # type: ignore[arg-type]
            pipe.execute()
    return len(data), len(rejected)


class StoreWriter(DataSourceStreamArrowWriter):
    """Merges micro-batches where they were read; the driver only hears how far they got."""

    def __init__(self, url: str, views: Sequence[View]) -> None:
        self.url, self.views = url, views

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        batches = [b for b in iterator if len(b)]
        if not batches:
            return _Done(0, 0, None)
        table = pa.Table.from_batches(batches)
        client = _client(self.url)
        events, rejected = apply_batch(self.views, OnlineStore(client), table)
        last = (int(table["ms"][-1].as_py()), int(table["seq"][-1].as_py()))
        key = applied_key(self.views[0].project)
        with client.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping={"id": f"{last[0]}-{last[1]}", "wall_us": time.time_ns() // 1000})
            pipe.hincrby(key, "events", events)
            pipe.hincrby(key, "rejected", rejected)
            pipe.execute()
        return _Done(events, rejected, last)

    def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        return None

    def abort(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        return None


_clients: dict[str, Any] = {}


def _client(url: str) -> Any:
    # a worker lives through many micro-batches: one connection for all of them
    if url not in _clients:
        _clients[url] = connect(url)
    return _clients[url]


def sink(url: str, views: Sequence[View]) -> type[DataSource]:
    """A data source class whose writer merges into the store."""

    class StoreSink(DataSource):
        @classmethod
        def name(cls) -> str:
            return "headrace_store"

        def streamWriter(self, schema: StructType, overwrite: bool) -> StoreWriter:
            return StoreWriter(url, views)

    return StoreSink


def start(spark: SparkSession, redis_url: str, views: Sequence[View], checkpoint: str) -> StreamingQuery:
    """Start the streaming query.

    Args:
        views: every view; those with a push source are kept live.
        checkpoint: folder for Spark's offsets.

    Raises:
        ValueError: no view has a push source.
    """
    live = [v for v in views if v.stream]
    if not live:
        raise ValueError("no feature view has a push source: there is nothing to stream")
    url = without_password(redis_url)
    spark.dataSource.register(EventSource)
    spark.dataSource.register(sink(url, live))
    spark.conf.set("spark.sql.streaming.noDataMicroBatches.enabled", "false")
    spark.conf.set("spark.sql.streaming.numRecentProgressUpdates", "20")
    events = spark.readStream.format("headrace_events").option("url", url).option("key", events_key(live[0].project)).load()
    return (
        events.writeStream.format("headrace_store")
        .queryName("headrace")
        .outputMode("append")
        .option("checkpointLocation", checkpoint)
        .start()
    )


def run(spark: SparkSession, redis_url: str, views: Sequence[View], checkpoint: str, ready: Any = None) -> None:
    """Stream until SIGTERM or SIGINT; a failed query raises what it failed of."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    query = start(spark, redis_url, views, checkpoint)
    if ready is not None:
        ready()
    while not stop.wait(0.2):
        if not query.isActive:
            failure = query.exception()
            raise RuntimeError(f"the stream stopped: {failure}" if failure else "the stream stopped by itself")
    query.stop()
