"""Profiles read from an offline store: what is unusual, what was declared, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pandera.pandas as pa_schema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.profiles.facts import DAY_US, Rows
from streaming.profiles.lookup import Usual, newest, violations
from streaming.schema.feature_view import Feature, View
from tests.streaming.profiles.test_unusual import LIVE_DAYS, START_US, TRAINED_DAYS, source

FROM_US, UPTO_US = START_US + TRAINED_DAYS * DAY_US, START_US + (TRAINED_DAYS + LIVE_DAYS) * DAY_US
USUAL = Usual(START_US, FROM_US)


def view(path: str) -> View:
    return View("p", path, (Feature("till", "int64"),), path, "at", "known", (), 0, (Feature("price", "float64"),), None, None)


def write(root: Path, name: str, *parts: Rows) -> None:
    """As `ingest` lays tables out: a folder of Parquet files, one column as whole numbers and one as text."""
    folder = root / name
    folder.mkdir(parents=True)
    for n, rows in enumerate(parts):
        stamps = {k: pa.array(us, pa.timestamp("us", "UTC")) for k, us in (("at", rows.at_us), ("known", rows.known_us))}
        table = pa.table(
            stamps | {"till": rows.key, "price": rows.columns["price"], "cash": pa.array([True] * len(rows)), "word": ["x"] * len(rows)}
        )
        pq.write_table(table, folder / f"part-{n}.parquet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "tills", source(0, TRAINED_DAYS), source(TRAINED_DAYS, LIVE_DAYS))
    write(tmp_path, "doors", source(0, TRAINED_DAYS, 8), source(TRAINED_DAYS, LIVE_DAYS, 8))
    return tmp_path


def test_tables_as_they_always_were_say_nothing_and_are_profiled(root: Path) -> None:
    found = violations([view("tills"), view("doors"), view("tills")], root, FROM_US, UPTO_US, USUAL)
    assert found.violations == []
    assert found.profiled == {"tills", "doors"}
    assert set(newest([view("tills")], root)) == {"tills"}


def test_a_table_that_ends_before_the_others_is_dead_and_all_that_end_together_are_not(root: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    write(short, "tills", source(0, TRAINED_DAYS), source(TRAINED_DAYS, 5))
    write(short, "doors", source(0, TRAINED_DAYS, 8), source(TRAINED_DAYS, 5, 8))
    assert violations([view("tills"), view("doors")], short, FROM_US, UPTO_US, USUAL).violations == []
    (short / "doors" / "part-1.parquet").write_bytes((root / "doors" / "part-1.parquet").read_bytes())
    (dead,) = violations([view("tills"), view("doors")], short, FROM_US, UPTO_US, USUAL).violations
    assert (dead.source, dead.kind, dead.proof) == ("tills", "silent", True)


def test_what_breaks_a_declaration_is_proof_and_shows_its_rows(root: Path) -> None:
    schema = pa_schema.DataFrameSchema({"price": pa_schema.Column(None, pa_schema.Check.le(30), nullable=True)})
    assert violations([view("tills")], root, FROM_US, UPTO_US, USUAL, {"doors": schema}).violations == []
    (one,) = violations([view("tills")], root, FROM_US, UPTO_US, USUAL, {"tills": schema}).violations
    assert (one.source, one.kind, one.column, one.proof) == ("tills", "expectation", "price", True)
    assert one.rows
    assert all("till " in row and "price = 3" in row for row in one.rows)
    assert FROM_US <= one.since_us < UPTO_US
    fine = pa_schema.DataFrameSchema({"price": pa_schema.Column(None, pa_schema.Check.le(1000), nullable=True)})
    assert violations([view("tills")], root, FROM_US, UPTO_US, USUAL, {"tills": fine}).violations == []


def test_a_table_that_cannot_be_read_costs_its_own_word_only(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "doors" / "part-0.parquet").write_bytes(b"no parquet")
    found = violations([view("tills"), view("doors"), view("nowhere")], root, FROM_US, UPTO_US, USUAL)
    assert found.profiled == {"tills"}
    assert "doors cannot be read" in caplog.text
    assert "nowhere cannot be read" in caplog.text
