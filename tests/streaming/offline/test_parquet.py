"""Tables as people have them: nanoseconds, one file, none, empty, broken, relative - read rightly, or the true cause is said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row

from infra.cause import cause_of
from streaming.join.in_process import NotHere, read_events_here
from streaming.offline.footers import extent
from streaming.offline.parquet import TableError, read, schema, table, table_path
from streaming.offline.partitions import _Day
from streaming.schema.feature_view import Feature, View

AT = [datetime(2024, 5, 1, 6, 30, 0, 123456, tzinfo=UTC), None, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]


def _file(path: Path, unit: str, tz: str | None = "UTC") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    naive = AT if tz else [None if v is None else v.replace(tzinfo=None) for v in AT]
    pq.write_table(pa.table({"at": pa.array(naive, pa.timestamp(unit, tz)), "n": [1, 2, 3]}), path)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no offline table at"),
        (lambda p: p.mkdir(), "is empty: there is no Parquet file"),
        (lambda p: (p.mkdir(), (p / "a.parquet").write_bytes(b"PAR1 and then nothing")), "cannot be read"),
        (lambda p: p.write_text("a,b\n1,2\n"), "cannot be read"),
    ],
)
def test_what_is_no_table_is_said_as_it_is(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "table")
    with pytest.raises(TableError, match=says) as caught:
        schema(str(tmp_path / "table"))
    assert ("run `headrace ingest`" in str(caught.value)) == (says == "no offline table at")
    assert str(tmp_path / "table") in str(caught.value)


def test_a_relative_path_is_below_the_offline_store_or_as_in_feast_below_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_REPO", str(tmp_path / "repo"))
    view: Any = SimpleNamespace(path="data/rides.parquet")
    assert table_path(view, tmp_path / "offline") == str(tmp_path / "offline" / "data" / "rides.parquet")
    _file(tmp_path / "repo" / "data" / "rides.parquet", "us")
    assert table_path(view, tmp_path / "offline") == str(tmp_path / "repo" / "data" / "rides.parquet")
    _file(tmp_path / "offline" / "data" / "rides.parquet", "us")
    assert table_path(view, tmp_path / "offline") == str(tmp_path / "offline" / "data" / "rides.parquet")


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("tz", ["UTC", None])
@pytest.mark.parametrize("kind", ["file", "folder", "days"])
def test_spark_reads_every_unit_as_the_same_moments(tmp_path: Path, spark: Any, unit: str, tz: str | None, kind: str) -> None:
    path = {"file": tmp_path / "t.parquet", "folder": tmp_path / "t", "days": tmp_path / "t"}[kind]
    _file(path if kind == "file" else path / "day=2024-05-01" / "a.parquet" if kind == "days" else path / "a.parquet", unit, tz)
    rows = sorted(read(spark, str(path)).selectExpr("n", "unix_micros(cast(at as timestamp)) as us").collect())
    cut = 1000 if unit == "ms" else 1
    assert [r.us for r in rows] == [None if v is None else round(v.timestamp() * 1e6) // cut * cut for v in AT]
    assert spark.conf.get("spark.sql.legacy.parquet.nanosAsLong", "false") == "false"


def _flips(whole: bytes, step: int) -> Iterator[bytes]:
    """The file with one bit of its pages turned over, at every so many bytes."""
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(4, footer, step):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << at % 8
        yield bytes(spoilt)


def test_a_bit_of_a_footer_that_was_turned_over_is_an_error_whoever_reads(tmp_path: Path) -> None:
    """A footer says what the columns are called and how far they reach; some spoilt ones end the process that reads them."""
    root = tmp_path / "offline"
    for name in ("2024-05-01", "2024-05-02"):
        day = _Day(name, "at", root / "t")
        day.add(_lines(200))
        day.close()
    path, _ = sorted((root / "t").rglob("*.parquet"))
    view = View("p", "v", (Feature("k", "int64"),), "t", "at", None, (), 0, (Feature("x", "double"),), None, None)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    table(root / "t")
    for at in range(footer, len(whole)):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << at % 8
        path.write_bytes(bytes(spoilt))
        for read_it in (lambda: table(root / "t"), lambda: schema(str(root / "t")), lambda: extent(view, root, None, None)):
            with pytest.raises(TableError, match=path.name):
                read_it()
    for cut in (0, 3, 11, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(TableError, match=path.name):
            table(root / "t")
    path.write_bytes(whole)
    assert table(root / "t").num_rows == 400


def _lines(rows: int) -> pa.Table:
    at = pa.array([datetime(2024, 5, 1, tzinfo=UTC) + timedelta(seconds=i * i) for i in range(rows)], pa.timestamp("us", "UTC"))
    return pa.table({"k": [i % 7 for i in range(rows)], "at": at, "x": [i / 3 if i % 5 else None for i in range(rows)]})


@pytest.mark.parametrize("writer", ["ingest", "spark"])
def test_a_bit_that_was_turned_over_is_an_error_and_no_other_value(tmp_path: Path, spark: Any, writer: str) -> None:
    root = tmp_path / "offline"
    if writer == "ingest":
        day = _Day("2024-05-01", "at", root / "t")
        day.add(_lines(200))
        day.close()
    else:
        spark.createDataFrame(_lines(200).to_pandas()).coalesce(1).write.parquet(str(root / "t"))
    (path,) = (root / "t").rglob("*.parquet")
    whole, view = path.read_bytes(), View("p", "v", (Feature("k", "int64"),), "t", "at", None, (), 0, (Feature("x", "double"),), None, None)
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)  # Hadoop's own, of the file system: there is none on others

    def here() -> Any:
        return table(root / "t", ["k", "at", "x"]).to_pylist(), read_events_here(view, root, None, 10**6)

    sound, refused = here(), 0
    flips = list(_flips(whole, 3))
    for raw in flips:
        path.write_bytes(raw)
        try:
            assert here() == sound
        except (TableError, NotHere) as error:
            refused += str(root / "t") in str(error)
    assert refused > len(flips) / 2
    rows = read(spark, str(root / "t")).select("k", "x")
    said = []
    for raw in flips[:: len(flips) // 6]:
        path.write_bytes(raw)
        try:
            found = rows.collect()
        except (PySparkException, Py4JJavaError) as error:
            said.append(cause_of(error))
        else:
            assert sorted(map(str, found)) == sorted(map(str, [Row(k=r["k"], x=r["x"]) for r in sound[0]]))
    assert any(str(path) in one and "CRC checksum verification failed" in one for one in said), said
