"""Raw files become tables, whole or not at all, and the same every time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from streaming.offline import ingest as module
from streaming.offline.ingest import IngestError, Loaded, make_tables
from streaming.offline.parquet import TableError, fault, read, table
from streaming.offline_store import HeadraceOfflineStoreConfig, _rooted
from streaming.versions import data_version, table_version
from streaming.versions.pinned import reading
from streaming.versions.table_version import VersionError
from tests.bikes import generate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

RIDES = "ride;station;rider_class;began;ended;kilometres\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", shuffle_partitions=2)


@pytest.fixture
def small(tmp_path: Path) -> UseCase:
    """One table of three rides over two days."""
    folder = tmp_path / "small"
    (folder / "sql").mkdir(parents=True)
    (folder / "feature_store.yaml").write_text("project: small\n")
    (folder / "rides.csv").write_text(
        RIDES
        + "1;7;member;2021-03-02T00:00:00.000001Z;2021-03-02T00:09:00Z;2\n"
        + "3;7;member;2021-03-01T23:59:59.999999Z;2021-03-02T00:04:00Z;\n"
        + "2;7;casual;2021-03-01T23:59:59.999999Z;2021-03-02T00:04:00Z;1.5\n"
    )
    schema = "ride BIGINT, station BIGINT, rider_class STRING, began TIMESTAMP, ended TIMESTAMP, kilometres DOUBLE"
    raw = {"raw_rides": {"path": "rides.csv", "options": {"header": "true", "sep": ";", "schema": schema}}}
    (folder / "ingest.yaml").write_text(yaml.safe_dump({"raw": raw, "tables": {"rides": {"sql": "sql/rides.sql", "timestamp": "began"}}}))
    (folder / "sql" / "rides.sql").write_text("SELECT ride, began, kilometres FROM raw_rides;\n")
    return UseCase(folder)


def digest(root: Path) -> str:
    parts = [str(p.relative_to(root)).encode() + p.read_bytes() for p in sorted(root.rglob("*.parquet"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def edit(use_case: UseCase, **changes: Any) -> UseCase:
    """The use case with its one table's SQL, or its raw file's entry, changed."""
    if "sql" in changes:
        (use_case.folder / "sql" / "rides.sql").write_text(changes["sql"])
    if "raw" in changes:
        path = use_case.folder / "ingest.yaml"
        content = yaml.safe_load(path.read_text())
        content["raw"]["raw_rides"] |= changes["raw"]
        path.write_text(yaml.safe_dump(content))
    return UseCase(use_case.folder)


def test_a_table_is_split_by_utc_day_and_sorted_by_time_then_all_columns(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    seen: list[tuple[str, Loaded | None]] = []
    (loaded,) = make_tables(small, settings, spark, lambda name, done: seen.append((name, done)))
    folder = settings.offline_root / "rides"
    paths = sorted(p for p in folder.rglob("*.parquet"))
    assert [re.sub("-[0-9a-f]{32}-[0-9a-f]{16}", "-<sums>", p.relative_to(folder).as_posix()) for p in paths] == [
        "day=2021-03-01/part-0-<sums>.parquet",
        "day=2021-03-02/part-0-<sums>.parquet",
    ]
    first = pq.ParquetFile(paths[0]).read()
    assert first.column_names == ["ride", "began", "kilometres"]
    assert first.schema.field("began").type == pa.timestamp("us", "UTC")
    assert first["ride"].to_pylist() == [2, 3]
    assert (loaded.table, loaded.rows, loaded.days) == ("rides", 3, 2)
    assert loaded.first == datetime(2021, 3, 1, 23, 59, 59, 999999, UTC)
    assert loaded.last == datetime(2021, 3, 2, 0, 0, 0, 1, UTC)
    assert seen == [("rides", None), ("rides", loaded)]


def test_another_use_case_is_ingested_and_again_with_the_same_bytes(tmp_path: Path, settings: Settings, spark: SparkSession) -> None:
    use_case = generate(tmp_path / "bikes", days=3)
    loaded = make_tables(use_case, settings, spark)
    assert [t.table for t in loaded] == ["rides", "docks", "requests"]
    assert all(t.days == 3 for t in loaded)
    rides = ds.dataset(settings.offline_root / "rides", partitioning="hive").to_table()
    assert rides.num_rows == loaded[0].rows == len((use_case.folder / "raw" / "rides.csv").read_text().splitlines()) - 1
    before = digest(settings.offline_root)
    make_tables(use_case, settings, spark)
    assert digest(settings.offline_root) == before


def test_spark_reads_back_what_was_written(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    make_tables(small, settings, spark)
    rows = spark.read.parquet(str(settings.offline_root / "rides")).selectExpr("ride", "unix_micros(began) AS us").orderBy("ride").collect()
    assert [(r.ride, r.us) for r in rows] == [(1, 1614643200000001), (2, 1614643199999999), (3, 1614643199999999)]


def test_a_later_table_sees_the_earlier_ones(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    path = small.folder / "ingest.yaml"
    content = yaml.safe_load(path.read_text())
    content["tables"] = {
        "empty": {"sql": "sql/empty.sql", "timestamp": "began"},
        **content["tables"],
        "long": {"sql": "sql/long.sql", "timestamp": "began"},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    (small.folder / "sql" / "empty.sql").write_text("SELECT * FROM raw_rides WHERE ride > 99")
    (small.folder / "sql" / "long.sql").write_text(
        "SELECT began, ride FROM rides WHERE kilometres > 1.7 UNION ALL SELECT began, ride FROM empty"
    )
    empty, _, long = make_tables(UseCase(small.folder), settings, spark)
    assert (empty.rows, empty.first, empty.last) == (0, None, None)
    assert long.rows == 1


def test_the_callers_session_keeps_its_views(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    spark.range(5).createOrReplaceTempView("raw_rides")
    try:
        make_tables(small, settings, spark)
        assert spark.table("raw_rides").count() == 5
    finally:
        spark.catalog.dropTempView("raw_rides")


def test_a_zip_is_unpacked(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    with zipfile.ZipFile(small.folder / "rides.csv.zip", "w") as archive:
        archive.write(small.folder / "rides.csv", "rides.csv")
    (loaded,) = make_tables(edit(small, raw={"path": "rides.csv.zip"}), settings, spark)
    assert loaded.rows == 3


def test_an_error_leaves_the_table_as_it_was(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    make_tables(small, settings, spark)
    before = digest(settings.offline_root)
    with pytest.raises(IngestError):
        make_tables(edit(small, sql="SELECT ride, began, raise_error('no') AS x FROM raw_rides"), settings, spark)
    assert digest(settings.offline_root) == before


def test_a_new_version_takes_the_place_of_the_old_one_which_can_still_be_read(
    small: UseCase, settings: Settings, spark: SparkSession
) -> None:
    def rides() -> list[int]:
        path = str(settings.offline_root / "rides")
        here = sorted(table(path, ["ride"])["ride"].to_pylist())
        assert [r.ride for r in read(spark, path).orderBy("ride").collect()] == here
        return here

    assert [t.version for t in make_tables(small, settings, spark)] == [1]
    assert [t.version for t in make_tables(edit(small, sql="SELECT * FROM raw_rides WHERE ride = 1"), settings, spark)] == [2]
    assert rides() == [1]
    make_tables(edit(small, sql="SELECT * FROM raw_rides WHERE ride > 99"), settings, spark)
    with pytest.raises(TableError, match="is empty: its version 3 has no file"):
        rides()
    for said, there in (("1", [1, 2, 3]), ("2", [1]), (f"@{data_version.find(settings.offline_root, 2).made_us}", [1])):
        with reading(settings.offline_root, data_version.find(settings.offline_root, said)):
            assert rides() == there
    with pytest.raises(VersionError, match=r"no data version 9 in .*: there are 1 to 3"):
        data_version.find(settings.offline_root, 9)


def test_what_is_left_to_feasts_own_code_reads_the_newest_version_alone(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    make_tables(small, settings, spark)
    make_tables(edit(small, sql="SELECT * FROM raw_rides WHERE ride = 1"), settings, spark)
    config: Any = SimpleNamespace(offline_store=HeadraceOfflineStoreConfig(root=str(settings.offline_root)))
    source = _rooted(config, SparkSource(name="rides", path="rides", file_format="parquet", timestamp_field="began"))
    assert [r.ride for r in spark.sql(f"SELECT ride FROM {source.get_table_query_string()}").collect()] == [1]


def test_days_that_did_not_change_are_not_written_again(small: UseCase, settings: Settings, spark: SparkSession) -> None:
    make_tables(small, settings, spark)
    for path in (settings.offline_root / "rides").rglob("*.parquet"):
        os.utime(path, (1e9, 1e9))
    assert [t.version for t in make_tables(small, settings, spark)] == [1]
    make_tables(edit(small, sql="SELECT ride, began, IF(ride = 1, 7D, kilometres) AS kilometres FROM raw_rides"), settings, spark)
    times = {p.parent.name: sorted(q.stat().st_mtime > 1e9 for q in p.parent.glob("*")) for p in settings.offline_root.rglob("*.parquet")}
    assert times == {"day=2021-03-01": [False], "day=2021-03-02": [False, True]}
    assert data_version.newest(settings.offline_root).tables == {"rides": 2}  # type: ignore[union-attr]


def test_a_folder_from_before_there_were_versions_is_read_and_becomes_the_first(
    small: UseCase, settings: Settings, spark: SparkSession
) -> None:
    folder = settings.offline_root / "rides" / "day=2021-03-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"ride": [8, 9], "began": pa.array([0, 1], pa.timestamp("us", "UTC"))}), folder / "part-0.parquet")
    assert table(str(folder.parent), ["ride"])["ride"].to_pylist() == [8, 9]
    assert make_tables(small, settings, spark)[0].version == 2
    assert sorted(table(str(folder.parent), ["ride"])["ride"].to_pylist()) == [1, 2, 3]
    first = table_version.load(folder.parent, 1)
    assert [(f.path, f.rows, f.day) for f in first.files] == [("day=2021-03-01/part-0.parquet", 2, "2021-03-01")]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT rid FROM raw_rides", r"rides\.sql \(table 'rides'\).*rid"),
        ("SELEKT 1", r"rides\.sql \(table 'rides'\).*SELEKT"),
        ("SELECT ride FROM raw_rides", r"rides\.sql.*no column 'began'"),
        ("SELECT CAST(began AS STRING) AS began FROM raw_rides", r"rides\.sql.*'began' is string"),
        ("SELECT began, 1 AS day FROM raw_rides", r"rides\.sql.*'day' is taken"),
        ("SELECT began, CAST(rider_class AS INT) AS c FROM raw_rides", r"rides\.sql.*member"),
        ("SELECT IF(ride = 1, began, NULL) AS began FROM raw_rides", r"rides\.sql.*'began' is null in 2 rows"),
    ],
)
def test_an_error_in_the_sql_names_the_file_and_what_is_wrong(
    small: UseCase, settings: Settings, spark: SparkSession, sql: str, says: str
) -> None:
    with pytest.raises(IngestError, match=f"(?s){says}") as caught:
        make_tables(edit(small, sql=sql), settings, spark)
    assert "\tat " not in str(caught.value)
    assert "no offline table" in str(fault(str(settings.offline_root / "rides")))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"path": "gone.csv"}, r"ingest\.yaml: raw\.raw_rides: .*gone\.csv does not exist"),
        ({"package": "no_such_package"}, r"ingest\.yaml: raw\.raw_rides: the Python package 'no_such_package' is not installed"),
        ({"options": {"schema": "ride BIGINTT"}}, r"ingest\.yaml: raw\.raw_rides"),
        ({"path": "broken.zip"}, r"ingest\.yaml: raw\.raw_rides: .*broken\.zip cannot be unpacked"),
        ({"path": "two.zip"}, r"ingest\.yaml: raw\.raw_rides: .*two\.zip must hold exactly one file, it holds 2"),
    ],
)
def test_a_raw_file_that_cannot_be_read_is_named(
    small: UseCase, settings: Settings, spark: SparkSession, raw: dict[str, Any], says: str
) -> None:
    (small.folder / "broken.zip").write_bytes(b"no zip")
    with zipfile.ZipFile(small.folder / "two.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("b", "2")
    with pytest.raises(IngestError, match=says):
        make_tables(edit(small, raw=raw), settings, spark)


def test_of_two_ingests_at_once_one_makes_the_version_and_the_other_is_told(
    small: UseCase, settings: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(small, settings, spark)
    other = shutil.copytree(small.folder, small.folder.with_name("other"))
    first = edit(small, sql="SELECT ride, began FROM raw_rides WHERE ride = 1")
    real = module.write_days

    def beaten(*args: Any) -> Any:
        monkeypatch.setattr(module, "write_days", real)
        make_tables(first, settings, spark)  # comes in between
        return real(*args)

    monkeypatch.setattr(module, "write_days", beaten)
    with pytest.raises(IngestError, match="somebody else has made version 2 meanwhile, from ingest of small; run it again"):
        make_tables(edit(UseCase(other), sql="SELECT ride, began FROM raw_rides WHERE ride = 2"), settings, spark)
    assert table(str(settings.offline_root / "rides"), ["ride"])["ride"].to_pylist() == [1]
    monkeypatch.setattr(module, "write_days", beaten)  # of the same rows, both are right
    assert make_tables(first, settings, spark)[0].version == 2


_KILLED = """
import os, sys
from pathlib import Path
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from streaming.offline.partitions import _Day
from streaming.offline import ingest, partitions
from streaming.versions import adoption
import pyarrow as pa
place = Path(sys.argv[1])
adoption.adopt(place)
for day in ("2021-03-01", "2021-03-02"):
    one = _Day(day, "began", place)
    one.add(pa.table({"ride": [7], "began": pa.array([0], pa.timestamp("us", "UTC"))}))
    one.close() if day.endswith("1") else one._flush()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("before", [False, True], ids=["first", "again"])
def test_an_ingest_that_is_killed_has_changed_nothing(small: UseCase, settings: Settings, spark: SparkSession, before: bool) -> None:
    place = settings.offline_root / "rides"
    if before:
        make_tables(small, settings, spark)
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    assert len(list(place.rglob("*.parquet"))) == (3 if before else 1), "it left files"
    if before:
        assert sorted(table(str(place), ["ride"])["ride"].to_pylist()) == [1, 2, 3]
    else:
        assert "no offline table" in str(fault(str(place)))
    assert make_tables(small, settings, spark)[0].version == 1
    assert sorted(table(str(place), ["ride"])["ride"].to_pylist()) == [1, 2, 3]
