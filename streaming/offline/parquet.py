"""Parquet as a table of the offline store: where a view's lies, what is wrong with it if it cannot be read, and nanoseconds for Spark.

A table is a folder of Parquet files (with `day=…` folders below it, or without) or one file. Moments are microseconds everywhere here:
a file's nanoseconds are cut to them, in Spark and in Arrow alike.

What we write carries a checksum in each page, and whoever reads verifies those that there are: a bit that a disk has flipped is an error
that names the table, not another value. (Spark is told so in `streaming.offline.spark`.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from streaming.schema.feature_view import View


class TableError(ValueError):
    """A table that is not there, or not one; the message says which, where, and what to do."""


def checked() -> Any:
    """Parquet for Arrow's datasets, with its pages' checksums verified."""
    import pyarrow.dataset as ds

    return ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True))


def table_path(view: View, root: Path) -> str:
    """Path or URI of a view's table: as the source gives it, below the offline store, or - as Feast has it - below the repository."""
    if "://" in view.path or view.path.startswith("/"):
        return view.path
    own, theirs = root / view.path, Path(os.environ.get("HEADRACE_REPO", root)) / view.path
    return str(theirs if theirs.exists() and not own.exists() else own)


def fault(path: str) -> str | None:
    """Why a path is no table of ours, in a sentence; None where the path itself is well (what is in the files was not looked at)."""
    if "://" in path:
        return None
    place = Path(path)
    if not place.exists():
        return f"no offline table at {path}; run `headrace ingest`"
    if place.is_dir() and not any(place.rglob("*.parquet")):
        return f"the table at {path} is empty: there is no Parquet file in that folder"
    return None


def schema(path: str) -> pa.Schema:
    """Of a table, by its first file's footer.

    Raises:
        TableError: it is not there, or its files are no Parquet.
    """
    import pyarrow.dataset as ds

    if why := fault(path):
        raise TableError(why)
    try:
        return ds.dataset(path, format="parquet", partitioning="hive").schema
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"the table at {path} cannot be read: {' '.join(str(error).split())}") from error


def table(path: Path, columns: Sequence[str] | None = None, rows: Any = None) -> pa.Table:
    """A table in this process.

    Args:
        columns: those wanted; None: all.
        rows: a filter over them, as Arrow's datasets take it.

    Raises:
        TableError: it is not there, or its files cannot be read, or lack a column.
    """
    import pyarrow.dataset as ds

    if why := fault(str(path)):
        raise TableError(why)
    try:
        return ds.dataset(path, format=checked(), partitioning="hive").to_table(
            columns=None if columns is None else list(columns), filter=rows
        )
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"the table at {path} cannot be read: {' '.join(str(error).split())}") from error


def read(spark: SparkSession, path: str) -> DataFrame:
    """A table in Spark, which reads no nanoseconds of its own: they come as the microseconds that they hold.

    Raises:
        TableError: there is no such table, or its files cannot be read; the true cause is named.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    from infra.cause import cause

    nanoseconds: list[Any] = []
    if "://" not in path:
        nanoseconds = [f for f in schema(path) if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
    before = spark.conf.get("spark.sql.legacy.parquet.nanosAsLong", "false") or "false"
    try:
        if nanoseconds:  # the plan that is made here keeps it
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
        frame = spark.read.parquet(path)
    except PySparkException as error:
        raise TableError(f"the table at {path} cannot be read: {cause(error)}") from error
    finally:
        if nanoseconds:
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", before)
    for field in nanoseconds:
        moment = F.timestamp_micros(F.expr(f"`{field.name}` div 1000"))
        frame = frame.withColumn(field.name, moment if field.type.tz else moment.cast("timestamp_ntz"))
    return frame
