"""Day-partitioned Parquet: `day=YYYY-MM-DD/part-0-<checksum>.parquet` below a table's folder, the day in UTC.

Spark sorts and hands each day to one Python worker, which writes it with Arrow: one file per day, named alike every time, and without
the process that Hadoop starts per file to set its mode. The folder must be one that all workers see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from streaming.offline.parquet import seal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DAY = "day"
ROW_GROUP = 500_000
"""Rows per row group, so that a day larger than memory can be written."""
_WRITTEN = pa.schema(
    [("day", pa.string()), ("rows", pa.int64()), ("first", pa.timestamp("us", "UTC")), ("last", pa.timestamp("us", "UTC"))]
)


@dataclass(frozen=True)
class Written:
    """Rows and days written, earliest and latest timestamp (None: no rows), and the rows that were not, for want of a timestamp."""

    rows: int
    days: int
    first: datetime | None
    last: datetime | None
    nulls: int


def write_days(frame: DataFrame, timestamp: str, folder: Path, partitions: int) -> Written:
    """Write a frame, one file per day (UTC), sorted by timestamp, then by every other column.

    Args:
        frame: has no column `day`; its timestamp column is of Spark's type timestamp (session time zone: UTC).
        timestamp: the column that says the day.
        folder: exists; what is there of the same days is replaced.
        partitions: days written at the same time, at most.

    Returns:
        What was written. Rows with a null timestamp are counted, not written.

    Raises:
        pyspark.errors.PySparkException: the frame cannot be computed, or a file not be written.
    """
    from pyspark.sql import functions as F

    rest = [F.col(f"`{c}`") for c in frame.columns if c != timestamp]
    schema = "day string, rows bigint, first timestamp, last timestamp"
    written = (
        frame.withColumn(DAY, F.date_format(F.col(f"`{timestamp}`"), "yyyy-MM-dd"))
        .repartition(partitions, DAY)
        .sortWithinPartitions(F.col(DAY), F.col(f"`{timestamp}`"), *rest)
        .mapInArrow(partial(_write, timestamp, str(folder)), schema)
        .toArrow()
    )
    done = [row for row in written.to_pylist() if row["day"] is not None]
    return Written(
        rows=sum(row["rows"] for row in done),
        days=len(done),
        first=min((row["first"] for row in done), default=None),
        last=max((row["last"] for row in done), default=None),
        nulls=sum(row["rows"] for row in written.to_pylist() if row["day"] is None),
    )


def _write(timestamp: str, folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """In a worker: batches sorted by day in, files and one row per day out."""
    import pyarrow.compute as pc

    written: list[dict[str, object]] = []
    current: _Day | None = None
    for batch in batches:
        days = batch.column(batch.schema.get_field_index(DAY))
        data = pa.table(batch.drop_columns([DAY]))
        start = 0
        while start < batch.num_rows:
            day = days[start].as_py()
            same = pc.is_null(days.slice(start)) if day is None else pc.equal(days.slice(start), day)
            rows = pc.sum(same).as_py()
            if current is None or current.day != day:
                if current is not None:
                    written.append(current.close())
                current = _Day(day, timestamp, Path(folder))
            current.add(data.slice(start, rows))
            start += rows
    if current is not None:
        written.append(current.close())
    yield from pa.Table.from_pylist(written, _WRITTEN).to_batches()


class _Day:
    """The file of one day while it is written; it appears under its name when it is complete."""

    def __init__(self, day: str | None, timestamp: str, folder: Path) -> None:
        self.day, self._timestamp = day, timestamp
        self._partial = folder / f"{DAY}={day}" / f".part-0.parquet.{os.getpid()}.new"
        self._writer: Any = None
        self._held: list[pa.Table] = []
        self._rows = 0
        self._first = self._last = None

    def add(self, rows: pa.Table) -> None:
        self._rows += rows.num_rows
        if self.day is None:
            return
        times = rows.column(self._timestamp)
        self._first = times[0].as_py() if self._first is None else self._first
        self._last = times[-1].as_py()
        self._held.append(rows)
        if sum(table.num_rows for table in self._held) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        held = pa.concat_tables(self._held)
        if self._writer is None:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._partial, held.schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(held, row_group_size=ROW_GROUP)
        self._held = []

    def close(self) -> dict[str, object]:
        if self._held:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            seal(self._partial, "part-0")
        return {"day": self.day, "rows": self._rows, "first": self._first, "last": self._last}
