"""Other sources of live events (`streaming.live.sources`) brought onto the event stream, each event once.

Spark reads them and may hand over an event again after a crash. What has been put on the stream is therefore counted
there, per partition of the source, in the same transaction as the events themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.records.redis_keys import bridged_key, events_key
from infra.redis_client import without_password
from streaming.live.sources.base import Source
from streaming.online.store import connect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

_CHUNK = 500
# KEYS: event stream, progress; ARGV: name of the partition, then offset, source, row, ... ascending
_PUT = """
local done, put = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '-1'), 0
if not done then return redis.error_reply('ERR field ' .. ARGV[1] .. ' of ' .. KEYS[2] .. ' is no offset: set it to the last one taken') end
for i = 2, #ARGV, 3 do
  if tonumber(ARGV[i]) > done then
    redis.call('XADD', KEYS[1], '*', 'source', ARGV[i + 1], 'data', ARGV[i + 2])
    done, put = tonumber(ARGV[i]), put + 1
  end
end
redis.call('HSET', KEYS[2], ARGV[1], done)
return put
"""


def put(client: Any, project: str, partition: str, rows: Sequence[tuple[int, str, bytes]]) -> int:
    """Put rows `(offset, push source, JSON)` of one partition, ascending, on the event stream; those that are there already are passed over."""
    new = 0
    for i in range(0, len(rows), _CHUNK):
        flat = [part for row in rows[i : i + _CHUNK] for part in row]
        new += int(client.eval(_PUT, 2, events_key(project), bridged_key(project), partition, *flat))
    return new


def take(client: Any, project: str, batch: pa.RecordBatch) -> int:
    """Put what a connector read on the event stream, whatever its bytes are: what is no row is for the stream to reject.

    Args:
        batch: of `sources.base.ROWS`.

    Returns:
        Events that were not there before.
    """
    rows: dict[str, list[tuple[int, str, bytes]]] = {}
    columns = (batch[c].to_pylist() for c in ("partition", "offset", "source", "data"))
    for partition, offset, source, data in zip(*columns, strict=True):
        rows.setdefault(partition, []).append((offset, source, data))
    return sum(put(client, project, partition, sorted(some)) for partition, some in rows.items())


def start(source: Source, spark: SparkSession, url: str, project: str, checkpoint: str) -> StreamingQuery:
    """Start the query that brings a source's events onto the stream.

    Args:
        checkpoint: folder for Spark's notes on how far it has read.

    Raises:
        RuntimeError: the source cannot be read here.
    """
    plain = without_password(url)

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        client = connect(plain)
        try:
            for batch in batches:
                yield pa.RecordBatch.from_pydict({"events": [take(client, project, batch)]})
        finally:
            client.close()

    def each(batch: DataFrame, _: int) -> None:
        batch.mapInArrow(write, "events bigint").collect()

    writer = source.frame(spark).writeStream.queryName(f"headrace-{source.name}").foreachBatch(each)
    return writer.option("checkpointLocation", checkpoint).start()
