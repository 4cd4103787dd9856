"""Day-partitioned Parquet: `day=YYYY-MM-DD/part-0-<content>-<footer>.parquet` below a table's place, the day in UTC.

Spark sorts and hands each day to one Python worker, which writes it with Arrow: one file per day, without the process that Hadoop starts
per file to set its mode. A file's name says its content (32 digits of its SHA-256), so the same rows are the same file, and no file ever
changes. All workers must see the place.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from infra.storage.place import Place
from infra.storage.store import Storage
from infra.timestamps import microseconds
from streaming.offline.parquet import footer_sum
from streaming.versions.table_version import DataFile

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DAY = "day"
ROW_GROUP = 500_000
"""Rows per row group, so that a day larger than memory can be written."""
_WRITTEN = pa.schema(
    [
        ("day", pa.string()),
        ("rows", pa.int64()),
        ("first", pa.timestamp("us", "UTC")),
        ("last", pa.timestamp("us", "UTC")),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("hash", pa.string()),
    ]
)


@dataclass(frozen=True)
class Written:
    """Rows and days written, earliest and latest timestamp (None: no rows), the rows that were not, for want of a timestamp, and the files."""

    rows: int
    days: int
    first: datetime | None
    last: datetime | None
    nulls: int
    files: tuple[DataFile, ...]


def write_days(frame: DataFrame, timestamp: str, table: Place, partitions: int, had: frozenset[str] = frozenset()) -> Written:
    """Write a frame, one file per day (UTC), sorted by timestamp, then by every other column.

    Args:
        frame: has no column `day`; its timestamp column is of Spark's type timestamp (session time zone: UTC).
        timestamp: the column that says the day.
        table: where the files are put; what lies there stays.
        partitions: days written at the same time, at most.
        had: names of files that are there for sure; a day that makes one of them is not written again.

    Returns:
        What was written. Rows with a null timestamp are counted, not written.

    Raises:
        pyspark.errors.PySparkException: the frame cannot be computed, or a file not be written.
    """
    from pyspark.sql import functions as F

    rest = [F.col(f"`{c}`") for c in frame.columns if c != timestamp]
    schema = "day string, rows bigint, first timestamp, last timestamp, path string, bytes bigint, hash string"
    written = (
        frame.withColumn(DAY, F.date_format(F.col(f"`{timestamp}`"), "yyyy-MM-dd"))
        .repartition(partitions, DAY)
        .sortWithinPartitions(F.col(DAY), F.col(f"`{timestamp}`"), *rest)
        .mapInArrow(partial(_write, timestamp, table, had), schema)
        .toArrow()
    )
    said = written.to_pylist()
    done = [row for row in said if row["day"] is not None]
    return Written(
        rows=sum(row["rows"] for row in done),
        days=len(done),
        first=min((row["first"] for row in done), default=None),
        last=max((row["last"] for row in done), default=None),
        nulls=sum(row["rows"] for row in said if row["day"] is None),
        files=tuple(
            DataFile(r["path"], r["rows"], r["bytes"], r["day"], r["hash"], microseconds(r["first"]), microseconds(r["last"])) for r in done
        ),
    )


def _write(timestamp: str, table: Place, had: frozenset[str], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
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
                current = _Day(day, timestamp, table, had)
            current.add(data.slice(start, rows))
            start += rows
    if current is not None:
        written.append(current.close())
    yield from pa.Table.from_pylist(written, _WRITTEN).to_batches()


class _Day:
    """The file of one day while it is written; it is put into its place when it is complete."""

    def __init__(self, day: str | None, timestamp: str, table: Place, had: frozenset[str] = frozenset()) -> None:
        self.day, self._timestamp, self._had = day, timestamp, had
        self._storage = Storage(table)
        beside = self._storage.local or Path(tempfile.gettempdir())  # a rename puts it into its place on the same disk
        self._partial = beside / f".{day}.{uuid.uuid4().hex}.new"
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
        """Complete it, and put it there; returns its row of what was written."""
        row: dict[str, object] = {
            "day": self.day,
            "rows": self._rows,
            "first": self._first,
            "last": self._last,
            "path": None,
            "bytes": None,
            "hash": None,
        }
        if self._held:
            self._flush()
        if self._writer is None:
            return row
        try:
            self._writer.close()
            with self._partial.open("rb") as file:
                size, digest, footer = self._partial.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), footer_sum(file)
            path = f"{DAY}={self.day}/part-0-{digest[:32]}-{footer}.parquet"
            if path not in self._had:
                self._storage.upload(self._partial, path)
        finally:
            self._partial.unlink(missing_ok=True)
        return row | {"path": path, "bytes": size, "hash": digest}
