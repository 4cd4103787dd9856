"""Ingest: raw files, shaped by the use case's own SQL, become the offline store: one folder per table, one per day (UTC) below it.

Each table is written beside its place and then swapped in whole: an ingest that is killed leaves the old table or the new one.

Rows lie sorted by timestamp, then by every other column. Where timestamps are equal, this order decides which event comes first, for
everyone who reads them. The same raw files give the same bytes again.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.spec.ingest import RawFile, Table
from feature_repo.spec.use_case import UseCase
from infra import files
from infra.cause import cause_of
from streaming.offline import parquet
from streaming.offline.partitions import DAY, Written, write_days
from streaming.offline.spark import session

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from infra.settings import Settings


class IngestError(RuntimeError):
    """A raw file is missing or a table cannot be made; the message names the file and what to do."""


@dataclass(frozen=True)
class Loaded:
    """One table as it now stands in the offline store; `first` and `last` are its earliest and latest timestamp (None: no rows)."""

    table: str
    rows: int
    days: int
    first: datetime | None
    last: datetime | None
    seconds: float


Progress = Callable[[str, Loaded | None], None]
"""Called with a table's name when it is begun (None) and when it is done (what was loaded)."""


def make_tables(use_case: UseCase, settings: Settings, spark: SparkSession | None = None, progress: Progress | None = None) -> list[Loaded]:
    """Make every table of the use case's `ingest.yaml`, in its order, replacing what was there.

    Args:
        use_case: its `ingest.yaml` names raw files (views for the SQL) and tables (one SQL file each, over the raw views and the
            tables above it).
        settings: where the offline store is and how Spark runs.
        spark: the session to use; default: this process's.
        progress: told of each table's begin and end.

    Returns:
        One entry per table, in order.

    Raises:
        IngestError: a missing or unreadable raw file, an error in an SQL file, a timestamp that is null or not a timestamp, or
            another ingest at work on the same offline store. Tables done before the error stay; the one in error is as it was.
        UseCaseError: `ingest.yaml` itself is wrong.
    """
    plan = use_case.ingest
    paths = {name: _locate(use_case, name, raw, settings) for name, raw in plan.raw.items()}
    loaded: list[Loaded] = []
    with _scratch(settings.offline_root) as scratch:
        views = (spark or session(settings)).newSession()  # temporary views of its own
        views.conf.set("spark.sql.session.timeZone", "UTC")
        for name, raw in plan.raw.items():
            _read(views, use_case, name, raw, paths[name]).createOrReplaceTempView(name)
        for name, table in plan.tables.items():
            if progress:
                progress(name, None)
            began = time.monotonic()
            frame = _query(views, use_case, name, table)
            made = _write(frame, use_case, name, table, scratch / name, settings.shuffle_partitions)
            final = settings.offline_root / name
            _swap(scratch / name, final)
            read = views.read.schema(frame.schema).parquet(str(final)) if made.rows else frame.limit(0)
            read.createOrReplaceTempView(name)
            loaded.append(Loaded(name, made.rows, made.days, made.first, made.last, time.monotonic() - began))
            if progress:
                progress(name, loaded[-1])
    return loaded


def _locate(use_case: UseCase, name: str, raw: RawFile, settings: Settings) -> str:
    """Path (or URI) of a raw file; a `.zip` is unpacked into `<state>/raw` first."""
    where = f"{use_case.folder / 'ingest.yaml'}: raw.{name}"
    if "://" in raw.path:
        return raw.path
    folder = use_case.folder
    if raw.package:
        spec = importlib.util.find_spec(raw.package)  # finds a top-level package without importing it
        if spec is None or not spec.submodule_search_locations:
            raise IngestError(f"{where}: the Python package {raw.package!r} is not installed")
        folder = Path(next(iter(spec.submodule_search_locations)))
    path = folder / raw.path
    if not path.exists():
        raise IngestError(f"{where}: {path} does not exist")
    return str(_unzip(path, settings.state / "raw" / use_case.project / name, where) if path.suffix == ".zip" else path)


def _unzip(archive: Path, folder: Path, where: str) -> Path:
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
            if len(members) != 1:
                raise IngestError(f"{where}: {archive} must hold exactly one file, it holds {len(members)}")
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / Path(members[0].filename).name
            with files.replacing(target) as partial, zipped.open(members[0]) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, OSError) as error:
        raise IngestError(f"{where}: {archive} cannot be unpacked: {error}") from None
    return target


def _read(spark: SparkSession, use_case: UseCase, name: str, raw: RawFile, path: str) -> DataFrame:
    options = dict(raw.options)
    schema = options.pop("schema", None)
    reader = spark.read.format(raw.format).options(**options)
    where = f"{use_case.folder / 'ingest.yaml'}: raw.{name}"
    if raw.format == "parquet" and not raw.options and Path(path).exists():
        try:
            return parquet.read(spark, path)
        except parquet.TableError as error:
            raise IngestError(f"{where}: {error}") from error
    with _blame(f"{where} ({path})"):
        return (reader.schema(schema) if schema else reader).load(path)


def _query(spark: SparkSession, use_case: UseCase, name: str, table: Table) -> DataFrame:
    """The table's SQL as a frame, its timestamp column checked."""
    from pyspark.sql.types import TimestampType

    path = use_case.folder / table.sql
    try:
        text = path.read_text()
    except OSError as error:
        raise IngestError(f"{use_case.folder / 'ingest.yaml'}: tables.{name}.sql: {path} cannot be read: {error.strerror}") from None
    with _blame(f"{path} (table {name!r})"):
        frame = spark.sql(text.strip().rstrip(";"))
    if DAY in frame.columns:
        raise IngestError(f"{path} (table {name!r}): the column name {DAY!r} is taken by the partitions; give yours another")
    types = {field.name: field.dataType for field in frame.schema.fields}
    if table.timestamp not in types:
        raise IngestError(f"{path} (table {name!r}): no column {table.timestamp!r}, which ingest.yaml names as its timestamp")
    if not isinstance(types[table.timestamp], TimestampType):
        found = types[table.timestamp].simpleString()
        raise IngestError(f"{path} (table {name!r}): {table.timestamp!r} is {found}; it must be a timestamp (an instant in UTC)")
    return frame


def _write(frame: DataFrame, use_case: UseCase, name: str, table: Table, folder: Path, partitions: int) -> Written:
    folder.mkdir()
    what = f"{use_case.folder / table.sql} (table {name!r})"
    with _blame(what):
        written = write_days(frame, table.timestamp, folder, partitions)
    if written.nulls:
        raise IngestError(f"{what}: {table.timestamp!r} is null in {written.nulls:,} rows; filter them out, or mend them")
    return written


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Turn Spark's errors into one sentence that says which file is to be mended."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise IngestError(f"{what}: {cause_of(error)}") from error


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """An empty folder on the offline store's own disk, under a lock that keeps a second ingest out."""
    root.mkdir(parents=True, exist_ok=True)
    scratch = root / ".ingest"
    refusal = IngestError(f"another ingest is at work on {root}; wait until it has ended")
    with files.alone(root / ".ingest.lock", refusal=refusal):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _swap(new: Path, final: Path) -> None:
    """Put `new` in the place of `final`, leaving the former in the scratch folder.

    Linux exchanges the two in one step. Elsewhere two renames do it, and for the moment between them there is no table.
    """
    if not final.exists():
        new.rename(final)
        return
    if _exchange(new, final):
        return
    old = new.with_name(f"{new.name}.old")
    final.rename(old)
    new.rename(final)


def _exchange(a: Path, b: Path) -> bool:
    """`renameat2(…, RENAME_EXCHANGE)` (Linux ≥ 3.15, renameat2(2)); False where the system has no such thing."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)
