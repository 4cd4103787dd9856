"""Parquet as a table of the offline store: where a view's lies, what is wrong with it if it cannot be read, and nanoseconds for Spark.

A table is a folder of Parquet files (with `day=…` folders below it, or without) or one file. Moments are microseconds everywhere here:
a file's nanoseconds are cut to them, in Spark and in Arrow alike.

Every page that we write carries a checksum, and every reader verifies it. So a bit that a disk has flipped is an error that names the
table, not another value. (Spark is told so in `streaming.offline.spark`.) Parquet has no checksum for a file's footer, which says what
the columns are called and how far they reach. So ours is part of the file's name, and is verified before anything reads the footer.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from streaming.schema.feature_view import View


_SEALED = re.compile(r".*-([0-9a-f]{16})\.parquet")
_TAIL = struct.Struct("<I4s")  # the footer's length, and "PAR1"


class TableError(ValueError):
    """A table that is not there, or not one; the message says which, where, and what to do."""


def seal(partial: Path, stem: str) -> Path:
    """Give a complete file its name: `<stem>-<checksum of its footer>.parquet`, in the same folder; returns it."""
    path = partial.with_name(f"{stem}-{_footer_sum(partial)}.parquet")
    partial.replace(path)
    return path


def verify(path: str) -> None:
    """Hold the footers of a table's files against their names; files that others have written have no checksum there.

    Raises:
        TableError: a file is not as it was written.
    """
    place = Path(path)
    for one in sorted(place.rglob("*.parquet")) if place.is_dir() else [place]:
        named = _SEALED.fullmatch(one.name)
        try:
            if named and _footer_sum(one) != named[1]:
                raise TableError(f"the table at {path} cannot be read: the footer of {one} is not as it was written")
        except OSError as error:
            raise TableError(f"the table at {path} cannot be read: {one}: {error.strerror}") from error


def _footer_sum(path: Path) -> str:
    """XXH3 (64 bits) of a Parquet file's footer with its length, as 16 hexadecimal digits; of the whole file where it ends like none."""
    import xxhash

    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TAIL.size, 0))
        tail = file.read()
        length = _TAIL.unpack(tail)[0] + _TAIL.size if len(tail) == _TAIL.size else size
        file.seek(max(size - length, 0))
        return xxhash.xxh3_64_hexdigest(file.read())


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
    if "://" not in path:
        verify(path)
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
    verify(str(path))
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

    from infra.cause import cause_of

    nanoseconds: list[Any] = []
    if "://" not in path:
        nanoseconds = [f for f in schema(path) if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
    before = spark.conf.get("spark.sql.legacy.parquet.nanosAsLong", "false") or "false"
    try:
        if nanoseconds:  # the plan that is made here keeps it
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
        frame = spark.read.parquet(path)
    except PySparkException as error:
        raise TableError(f"the table at {path} cannot be read: {cause_of(error)}") from error
    finally:
        if nanoseconds:
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", before)
    for field in nanoseconds:
        moment = F.timestamp_micros(F.expr(f"`{field.name}` div 1000"))
        frame = frame.withColumn(field.name, moment if field.type.tz else moment.cast("timestamp_ntz"))
    return frame
