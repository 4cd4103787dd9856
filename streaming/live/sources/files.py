"""Files of events: `<folder>/<push source>/*.jsonl`, one JSON row per line.

A file is moved into place when it is complete, and never changed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from infra.settings import Settings
from streaming.live.sources.base import ROWS, SPARK_ROWS, Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_FILES = "path string, modificationTime timestamp, length bigint, content binary"


class Files(Source):
    """`HEADRACE_EVENT_FILES`. A partition is a file, an offset a line."""

    name = "files"

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        self.folder, self.sources = folder, sources

    @classmethod
    def of(cls, settings: Settings, sources: Sequence[str]) -> Files | None:
        return None if settings.event_files is None else cls(settings.event_files, sources)

    def frame(self, spark: SparkSession) -> DataFrame:
        from pyspark.sql import functions as F

        for source in self.sources:
            (self.folder / source).mkdir(parents=True, exist_ok=True)
        # as bytes: Spark's text would put U+FFFD in the place of what is no UTF-8, and that may be a row
        reader = spark.readStream.format("binaryFile").schema(_FILES).option("maxFilesPerTrigger", "100")
        path = F.col("_metadata.file_path")
        found = reader.load(str(self.folder / "*" / "*.jsonl"))
        whole = found.select(path.alias("partition"), F.element_at(F.split(path, "/"), -2).alias("source"), F.col("content"))
        return whole.coalesce(1).mapInArrow(_lines, SPARK_ROWS)


def _lines(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for partition, source, content in zip(*(batch[c].to_pylist() for c in ("partition", "source", "content")), strict=True):
            lines = [(at, line) for at, line in enumerate(content.split(b"\n")) if line.strip()]
            columns = {
                "partition": [partition] * len(lines),
                "offset": [at for at, _ in lines],
                "source": [source] * len(lines),
                "data": [line for _, line in lines],
            }
            yield pa.RecordBatch.from_pydict(columns, schema=ROWS)
