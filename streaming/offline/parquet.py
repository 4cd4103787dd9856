"""Parquet as a table of the offline store: where a view's lies, what is wrong with it if it cannot be read, and nanoseconds for Spark.

A table is a folder of Parquet files (with `day=…` folders below it, or without) or one file. Where it has versions, it is the files that
its version names (`streaming.versions`), and nothing else that lies there. It may lie on object storage. Moments are microseconds everywhere here:
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
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from infra.storage.place import Location, Place, StorageError, is_url, place_of
from infra.storage.store import Storage
from streaming.versions.pinned import version_read
from streaming.versions.table_version import TableVersion, VersionError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from streaming.schema.feature_view import View


_SEALED = re.compile(r".*-([0-9a-f]{16})\.parquet")
_TAIL = struct.Struct("<I4s")  # the footer's length, and "PAR1"


class TableError(ValueError):
    """A table that is not there, or not one; the message says which, where, and what to do."""


def footer_sum(file: BinaryIO) -> str:
    """XXH3 (64 bits) of a Parquet file's footer with its length, as 16 hexadecimal digits; of the whole file where it ends like none."""
    import xxhash

    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _TAIL.size, 0))
    tail = file.read()
    length = _TAIL.unpack(tail)[0] + _TAIL.size if len(tail) == _TAIL.size else size
    file.seek(max(size - length, 0))
    return str(xxhash.xxh3_64_hexdigest(file.read()))


def verify(path: str) -> None:
    """Hold the footers of a table's files against their names; files that others have written have no checksum there.

    Raises:
        TableError: a file is not as it was written, or is gone.
    """
    version = _version(path)
    place = place_of(path) if version or not is_url(path) else None
    if place is None:
        return
    storage, names = Storage(place), []
    if version is not None:
        names = [f.path for f in version.files]
    elif isinstance(place, Path) and place.is_dir():
        names = [str(one.relative_to(place)) for one in sorted(place.rglob("*.parquet"))]
    elif isinstance(place, Path):
        storage, names = Storage(place.parent), [place.name]
    for name in names:
        named = _SEALED.fullmatch(name)
        try:
            if named:
                with storage.open(name) as file:
                    if footer_sum(file) != named[1]:
                        raise TableError(
                            f"the table at {path} cannot be read: the footer of {storage.root}/{name} is not as it was written"
                        )
        except FileNotFoundError:
            raise TableError(f"the table at {path} cannot be read: {storage.root}/{name} is gone; make it again") from None
        except StorageError as error:
            raise TableError(f"the table at {path} cannot be read: {error}") from error


def _version(path: str) -> TableVersion | None:
    """Of a table, the version that is to be read; None: it has none.

    Raises:
        TableError: it cannot be told.
    """
    try:
        return version_read(path)
    except (VersionError, OSError) as error:
        raise TableError(str(error)) from error


def dataset(path: str, **options: Any) -> Any:
    """A table as one of Arrow's datasets: the files of the version that is to be read. Pages' checksums are verified when rows are.

    Raises:
        TableError: there is no such version, or the storage does not answer.
        ArrowException, OSError: its files cannot be read.
    """
    import pyarrow.dataset as ds

    asked = {"format": checked(), "partitioning": "hive", **options}
    version = _version(path)
    if version is None and not is_url(path):
        return ds.dataset(path, **asked)
    place = place_of(path)
    system, base = Storage(place).arrow()
    source = base if version is None else [f"{base}/{f.path}" for f in version.files]
    return ds.dataset(source, filesystem=system, partition_base_dir=base, **asked)


def checked() -> Any:
    """Parquet for Arrow's datasets, with its pages' checksums verified."""
    import pyarrow.dataset as ds

    return ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True))


def table_path(view: View, root: Place) -> str:
    """Path or URI of a view's table: as the source gives it, below the offline store, or - as Feast has it - below the repository."""
    if "://" in view.path or view.path.startswith("/"):
        return view.path
    own = root / view.path
    if isinstance(own, Location):
        return str(own)
    theirs = Path(os.environ.get("HEADRACE_REPO", str(root))) / view.path
    return str(theirs if theirs.exists() and not own.exists() else own)


def fault(path: str) -> str | None:
    """Why a path is no table of ours, in a sentence; None where the path itself is well (what is in the files was not looked at)."""
    try:
        version = _version(path)
    except TableError as error:
        return str(error)
    if version is not None and version.number:
        return None if version.files else f"the table at {path} is empty: its version {version.number} has no file"
    if version is not None:
        return f"no offline table at {path}; run `headrace ingest`"
    if is_url(path):
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
    if why := fault(path):
        raise TableError(why)
    verify(path)
    try:
        return dataset(path).schema
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"the table at {path} cannot be read: {' '.join(str(error).split())}") from error


def table(path: Place | str, columns: Sequence[str] | None = None, rows: Any = None) -> pa.Table:
    """A table in this process.

    Args:
        columns: those wanted; None: all.
        rows: a filter over them, as Arrow's datasets take it.

    Raises:
        TableError: it is not there, or its files cannot be read, or lack a column.
    """
    path = str(path)
    if why := fault(path):
        raise TableError(why)
    verify(path)
    try:
        return dataset(path).to_table(columns=None if columns is None else list(columns), filter=rows)
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
    version = _version(path)
    if version is not None or not is_url(path):
        nanoseconds = [f for f in schema(path) if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
    before = spark.conf.get("spark.sql.legacy.parquet.nanosAsLong", "false") or "false"
    try:
        if nanoseconds:  # the plan that is made here keeps it
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
        frame = frame_of(spark, path, None if version is None else [f.path for f in version.files])
    except PySparkException as error:
        raise TableError(f"the table at {path} cannot be read: {cause_of(error)}") from error
    finally:
        if nanoseconds:
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", before)
    for field in nanoseconds:
        moment = F.timestamp_micros(F.expr(f"`{field.name}` div 1000"))
        frame = frame.withColumn(field.name, moment if field.type.tz else moment.cast("timestamp_ntz"))
    return frame


def frame_of(spark: SparkSession, path: str, names: Sequence[str] | None, schema: Any = None) -> DataFrame:
    """Files of a table in Spark, with the `day` that their folders say.

    Args:
        names: relative to the table; None: all that lie there.
        schema: of the files, as Spark has it; None: Spark looks into one.
    """
    reader = spark.read if schema is None else spark.read.schema(schema)
    where = f"s3a://{path.removeprefix('s3://')}" if path.startswith("s3://") else path
    if names is None:
        return reader.parquet(where)
    return reader.option("basePath", where).parquet(*(f"{where}/{name}" for name in names))
