"""Other sources of live events - files, Kafka - brought onto the event stream, each event once.

Spark's own connectors read them and may hand over an event again after a crash. What has been put on the stream is therefore counted
there, per file or topic partition, in the same transaction as the events themselves.

Files: `<folder>/<push source>/*.jsonl`, one JSON row per line, moved into place when complete, never changed afterwards.
Kafka: one topic per push source, called like it; the value is the row as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.records.redis_keys import bridged_key, events_key
from infra.redis_client import without_password
from streaming.online.store import connect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

_CHUNK = 500
_FILES = "path string, modificationTime timestamp, length bigint, content binary"
_ROWS = pa.schema([("partition", pa.string()), ("offset", pa.int64()), ("source", pa.string()), ("data", pa.binary())])
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
        batch: `partition`, `offset`, `source`, `data`.

    Returns:
        Events that were not there before.
    """
    rows: dict[str, list[tuple[int, str, bytes]]] = {}
    columns = (batch[c].to_pylist() for c in ("partition", "offset", "source", "data"))
    for partition, offset, source, data in zip(*columns, strict=True):
        rows.setdefault(partition, []).append((offset, source, data))
    return sum(put(client, project, partition, sorted(some)) for partition, some in rows.items())


def _start(frame: DataFrame, url: str, project: str, checkpoint: str, name: str) -> StreamingQuery:
    """Run a frame of `partition string, offset bigint, source string, data binary` onto the stream."""
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

    return frame.writeStream.queryName(name).foreachBatch(each).option("checkpointLocation", checkpoint).start()


def from_files(spark: SparkSession, url: str, project: str, folder: Path, sources: Sequence[str], checkpoint: str) -> StreamingQuery:
    """Start the query that takes up new files below `<folder>/<push source>/`."""
    from pyspark.sql import functions as F

    for source in sources:
        (folder / source).mkdir(parents=True, exist_ok=True)
    # as bytes: Spark's text would put U+FFFD in the place of what is no UTF-8, and that may be a row
    files = spark.readStream.format("binaryFile").schema(_FILES).option("maxFilesPerTrigger", "100").load(str(folder / "*" / "*.jsonl"))
    path = F.col("_metadata.file_path")
    whole = files.select(path.alias("partition"), F.element_at(F.split(path, "/"), -2).alias("source"), F.col("content"))

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for partition, source, content in zip(*(batch[c].to_pylist() for c in ("partition", "source", "content")), strict=True):
                lines = [(at, line) for at, line in enumerate(content.split(b"\n")) if line.strip()]
                yield pa.RecordBatch.from_pydict(
                    {
                        "partition": [partition] * len(lines),
                        "offset": [at for at, _ in lines],
                        "source": [source] * len(lines),
                        "data": [line for _, line in lines],
                    },
                    schema=_ROWS,
                )

    rows = whole.coalesce(1).mapInArrow(split, "partition string, offset bigint, source string, data binary")
    return _start(rows, url, project, checkpoint, "headrace-files")


def from_kafka(spark: SparkSession, url: str, project: str, options: Mapping[str, str], checkpoint: str) -> StreamingQuery:
    """Start the query that reads Kafka through Spark's own connector.

    Args:
        options: the connector's, such as `{"kafka.bootstrap.servers": "...", "subscribe": "rides"}`.

    Raises:
        RuntimeError: the connector is not among Spark's packages.
    """
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    try:
        records = spark.readStream.format("kafka").options(**{"startingOffsets": "earliest", **options}).load()
    except AnalysisException as error:
        raise RuntimeError(
            f"Spark cannot read Kafka ({str(error).splitlines()[0]}): set HEADRACE_SPARK_PACKAGES to its connector, "
            "org.apache.spark:spark-sql-kafka-0-10_2.13 with Spark's own version"
        ) from None
    rows = records.where(F.col("value").isNotNull()).select(
        F.concat_ws("-", "topic", F.col("partition").cast("string")).alias("partition"),
        "offset",
        F.col("topic").alias("source"),
        F.col("value").alias("data"),
    )
    return _start(rows, url, project, checkpoint, "headrace-kafka")
