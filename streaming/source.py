"""What Spark's own Python processes load of the stream: where events come from and where they go.

Spark starts a process for each question that it has about a source or a sink. So nothing heavy is imported here before there is work.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql.datasource import (
    DataSource,
    DataSourceStreamArrowWriter,
    DataSourceStreamReader,
    InputPartition,
    WriterCommitMessage,
)
from pyspark.sql.streaming.datasource import ReadLimit, ReadMaxRows
from pyspark.sql.types import StructType

if TYPE_CHECKING:
    import pyarrow as pa

    from streaming.view import View


class _Range(InputPartition):
    """Stream ids `(after, upto]`."""

    def __init__(self, after: str, upto: str) -> None:
        super().__init__(0)
        self.after, self.upto = after, upto


class EventReader(DataSourceStreamReader):
    """Offsets are `{"id": "<ms>-<seq>"}`: everything up to and including that entry has been taken."""

    def __init__(self, options: dict[str, str]) -> None:
        self.url, self.project = options["url"], options["project"]
        self.limit = int(options.get("limit", 50_000))
        self._client: Any = None

    def _redis(self) -> Any:
        if self._client is None:
            from streaming.store import connect

            self._client = connect(self.url)
        return self._client

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}

    def initialOffset(self) -> dict[str, str]:
        from streaming import live
        from streaming.store import applied_key, noted_id

        done = noted_id(self._redis().hget(applied_key(self.project), "id") or b"")
        # where it is broken all is read again: what was applied before is passed over
        return {"id": live.text(done) if done else "0-0"}

    def latestOffset(self, start: dict[str, str], limit: ReadLimit) -> dict[str, str]:
        from streaming import live
        from streaming.store import events_key, stream_id, watermark

        key = events_key(self.project)
        if isinstance(limit, ReadMaxRows):
            some: Any = self._redis().xrange(key, f"({start['id']}", "+", count=limit.max_rows)
            return {"id": some[-1][0].decode()} if some else start
        newest = watermark(self._redis(), key)
        return {"id": live.text(newest)} if newest > stream_id(start["id"]) else start

    def getDefaultReadLimit(self) -> ReadLimit:
        return ReadMaxRows(self.limit)  # back-pressure: a micro-batch is never larger than this

    def partitions(self, start: dict[str, str], end: dict[str, str]) -> Sequence[InputPartition]:
        from streaming.store import stream_id

        return [_Range(start["id"], end["id"])] if stream_id(end["id"]) > stream_id(start["id"]) else []

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _Range)
        from streaming import live
        from streaming.store import connect, events_key

        with contextlib.closing(connect(self.url)) as client:
            yield from live.entries(client, events_key(self.project), partition.after, partition.upto)

    def commit(self, end: dict[str, str]) -> None:
        return None

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()


class EventSource(DataSource):
    """`spark.readStream.format("headrace_events")` with options `url` and `project`."""

    @classmethod
    def name(cls) -> str:
        return "headrace_events"

    def schema(self) -> str:
        return "ms bigint, seq bigint, source string, data binary, only string"

    def streamReader(self, schema: StructType) -> EventReader:
        return EventReader(dict(self.options))


@dataclass
class _Done(WriterCommitMessage):
    events: int


class StoreWriter(DataSourceStreamArrowWriter):
    """Merges micro-batches where they were read; the driver only hears how far they got.

    Args:
        views: pickled, so that only who writes has to load what they are made of.
        keep_s: events are taken off the stream when they are applied and older than this.
        tolerance_s: how far ahead of the clock an event may be dated.
    """

    def __init__(self, url: str, views: bytes, keep_s: float, tolerance_s: float) -> None:
        self.url, self.views, self.keep_s, self.tolerance_s = url, views, keep_s, tolerance_s

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        from streaming.sink import merge

        batches = [b for b in iterator if len(b)]
        return _Done(merge(self.url, pickle.loads(self.views), batches, self.keep_s, self.tolerance_s))

    def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        return None

    def abort(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        return None


def sink(url: str, views: Sequence[View], keep_s: float, tolerance_s: float) -> type[DataSource]:
    """A data source class whose writer merges into the store."""
    packed = pickle.dumps(list(views))

    class StoreSink(DataSource):
        @classmethod
        def name(cls) -> str:
            return "headrace_store"

        def streamWriter(self, schema: StructType, overwrite: bool) -> StoreWriter:
            return StoreWriter(url, packed, keep_s, tolerance_s)

    return StoreSink
