"""Ingest: raw files, shaped by the use case's own SQL, become the offline store: one folder per table, one per day (UTC) below it.

Each table's days are written as new files, and then one manifest makes them the table's next version (`streaming.versions`). An ingest that
is killed leaves the old version; what it has written by then is named by none. Days that are as they were are not written again.

Rows lie sorted by timestamp, then by every other column. Where timestamps are equal, this order decides which event comes first, for
everyone who reads them. The same raw files give the same bytes again.
"""

from __future__ import annotations

import importlib.util
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
from infra.storage.place import Place
from streaming.offline import parquet
from streaming.offline.partitions import DAY, Written, write_days
from streaming.offline.spark import session
from streaming.versions import adoption, data_version, table_version
from streaming.versions.table_version import VersionError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from infra.settings import Settings


class IngestError(RuntimeError):
    """A raw file is missing or a table cannot be made; the message names the file and what to do."""


@dataclass(frozen=True)
class Loaded:
    """One table as it now stands in the offline store; `first` and `last` are its earliest and latest timestamp (None: no rows), `version`
    its number (the one it had, where nothing has changed)."""

    table: str
    rows: int
    days: int
    first: datetime | None
    last: datetime | None
    seconds: float
    version: int = 0


Progress = Callable[[str, Loaded | None], None]
"""Called with a table's name when it is begun (None) and when it is done (what was loaded)."""


def make_tables(use_case: UseCase, settings: Settings, spark: SparkSession | None = None, progress: Progress | None = None) -> list[Loaded]:
    """Make every table of the use case's `ingest.yaml`, in its order: each in a new version, where anything has changed.

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
            another ingest that has changed the same table meanwhile. Tables done before the error stay; the one in error is as it was.
        StorageError: the offline store does not answer.
        UseCaseError: `ingest.yaml` itself is wrong.
    """
    plan = use_case.ingest
    paths = {name: _locate(use_case, name, raw, settings) for name, raw in plan.raw.items()}
    loaded: list[Loaded] = []
    views = (spark or session(settings)).newSession()  # temporary views of its own
    views.conf.set("spark.sql.session.timeZone", "UTC")
    for name, raw in plan.raw.items():
        _read(views, use_case, name, raw, paths[name]).createOrReplaceTempView(name)
    for name, table in plan.tables.items():
        if progress:
            progress(name, None)
        began = time.monotonic()
        frame = _query(views, use_case, name, table)
        place = settings.offline_root / name
        made, version = _write(frame, use_case, name, place, settings.shuffle_partitions)
        names = [f.path for f in made.files]
        read = parquet.frame_of(views, str(place), names, frame.schema) if made.rows else frame.limit(0)
        read.createOrReplaceTempView(name)
        loaded.append(Loaded(name, made.rows, made.days, made.first, made.last, time.monotonic() - began, version))
        if progress:
            progress(name, loaded[-1])
    data_version.recorded(settings.offline_root, plan.tables)
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


def _write(frame: DataFrame, use_case: UseCase, name: str, place: Place, partitions: int) -> tuple[Written, int]:
    """The table's files, and the number of the version that they are."""
    table = use_case.ingest.tables[name]
    what = f"{use_case.folder / table.sql} (table {name!r})"
    try:
        base = adoption.adopt(place)
        with _blame(what):
            written = write_days(frame, table.timestamp, place, partitions, base.paths)
        if written.nulls:
            raise IngestError(f"{what}: {table.timestamp!r} is null in {written.nulls:,} rows; filter them out, or mend them")
        made = table_version.commit(place, base, written.files, f"ingest of {use_case.project}")
    except VersionError as error:
        raise IngestError(f"{what}: {error}") from error
    return written, made.number


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Turn Spark's errors into one sentence that says which file is to be mended."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise IngestError(f"{what}: {cause_of(error)}") from error
