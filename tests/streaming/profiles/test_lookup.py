"""A use case's tables are looked at where they lie: what is unusual or must not be is told, with rows that a person can look up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.timestamps import microseconds
from streaming.aggregation.windows import Aggregation, Layout
from streaming.profiles import lookup
from streaming.profiles.facts import DAY_US
from streaming.profiles.live_rows import Live
from streaming.profiles.lookup import Looked, Usual, newest, rows_of, violations
from streaming.schema.feature_view import Feature, View

HOUR_US = DAY_US // 24
START_US = 19_700 * DAY_US
LIVE_US = START_US + 60 * DAY_US
END_US = LIVE_US + 7 * DAY_US
USUAL = Usual(START_US, LIVE_US)


def view(path: str) -> View:
    features = (Feature("price", "double"), Feature("pieces", "int64"))
    return View(
        "shop", f"{path}_by_till", (Feature("till", "string"),), path, "at", "known", (("count", "pieces"),), 0, features, None, None
    )


def sales(seed: int, per_day: int = 240) -> dict[str, np.ndarray]:
    """Of 67 days, evenly; the last 7 are live."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(START_US, END_US, 67 * per_day))
    return {
        "at": at,
        "known": at + 60_000_000,
        "till": np.array([f"till {n}" for n in rng.integers(0, 40, len(at))]),
        "price": 20 + 4 * rng.normal(size=len(at)),
        "count": rng.integers(1, 9, len(at)),
    }


def write(root: Path, name: str, columns: dict[str, Any]) -> None:
    moment = pa.timestamp("us", "UTC")
    table = pa.table({k: pa.array(v, moment) if k in ("at", "known") else pa.array(v) for k, v in columns.items()})
    (root / name).mkdir(parents=True)
    pq.write_table(table, root / name / "part-0.parquet")


def look(root: Path, names: list[str] | None = None, expectations: dict[str, Any] | None = None) -> Looked:
    return violations([view(name) for name in names or ["sales", "returns"]], root, LIVE_US, END_US, USUAL, expectations)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "returns", sales(2))
    return tmp_path


def changed(root: Path, change: Callable[[dict[str, Any], np.ndarray], None]) -> Looked:
    """What is said where the rows of the last three days are changed."""
    rows = sales(1)
    change(rows, rows["at"] >= END_US - 3 * DAY_US)
    write(root, "sales", rows)
    return look(root)


def test_tables_as_usual_are_profiled_and_nothing_is_said(root: Path) -> None:
    write(root, "sales", sales(1))
    assert look(root) == Looked([], frozenset({"sales", "returns"}))


def test_a_fault_names_its_table_the_column_as_the_view_has_it_and_rows_by_their_keys(root: Path) -> None:
    def change(rows: dict[str, Any], late: np.ndarray) -> None:
        rows["count"] = np.where(late, rows["count"] * 1000, rows["count"])

    (one,) = changed(root, change).violations
    assert (one.source, one.kind, one.column) == ("sales", "unit", "pieces")
    assert abs(one.since_us - (END_US - 3 * DAY_US)) <= DAY_US
    stored = sales(1)
    stored["count"] = np.where(stored["at"] >= END_US - 3 * DAY_US, stored["count"], stored["count"] / 1000)  # shown with rows of before
    for row in one.rows:
        moment, till, pieces = row.split(", ")
        (place,) = np.flatnonzero(stored["at"] == np.datetime64(moment.removesuffix("Z"), "us").astype(int))
        assert till == f"till {stored['till'][place]}"
        assert pieces == f"pieces = {stored['count'][place] * 1000:g}"


def test_a_table_that_ends_while_another_goes_on_is_dead_and_that_is_proof(root: Path) -> None:
    rows = sales(1)
    kept = rows["at"] < END_US - 2 * DAY_US
    write(root, "sales", {name: values[kept] for name, values in rows.items()})
    (one,) = look(root).violations
    assert (one.source, one.kind, one.proof) == ("sales", "silent", True)


def test_a_register_that_was_filled_once_is_not_dead(root: Path) -> None:
    """Such as a table of what is known of each till, with one row each, of before the first training day's end."""
    rows = {name: values[:40] for name, values in sales(1).items()}
    rows["at"] = rows["known"] = np.full(40, START_US)
    write(root, "sales", rows)
    assert look(root) == Looked([], frozenset({"returns"}))


def test_a_table_that_cannot_be_read_costs_its_own_word_only(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = sales(1)
    del rows["known"]
    write(root, "sales", rows)
    assert look(root, ["sales", "returns", "none"]).profiled == {"returns"}
    assert "the profile of sales cannot be read" in caplog.text
    assert "the profile of none cannot be read" in caplog.text


def test_a_table_that_is_thinned_is_as_usual(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its past is larger than the window: both are thinned alike."""
    write(root, "sales", sales(1, 2000))
    monkeypatch.setattr(lookup, "MOST", 40_000)
    found = look(root)
    assert found == Looked([], frozenset({"sales", "returns"}))


def test_one_of_so_many_rows_is_taken_and_copies_of_one_go_together() -> None:
    rows = sales(1)
    table = pa.table(
        {name: pa.array(values, pa.timestamp("us", "UTC")) if name in ("at", "known") else values for name, values in rows.items()}
    )
    table = pa.concat_tables([table, table])
    taken = rows_of(view("sales"), table.rename_columns({"count": "pieces"}), ["price"], 4)
    assert len(taken) == pytest.approx(len(table) / 4, rel=0.05)
    assert len(np.unique(np.stack([taken.key, taken.at_us]), axis=1).T) * 2 == len(taken)
    assert len(np.unique(taken.key)) == 40


def test_what_is_declared_is_proof_and_told_with_its_rows(root: Path) -> None:
    rows = sales(1)
    late = np.flatnonzero(rows["at"] >= END_US - DAY_US)
    rows["price"][late[::2]] = -1.0
    write(root, "sales", rows)
    schema = pandera.DataFrameSchema({"price": pandera.Column(float, pandera.Check.ge(0), nullable=True)})
    (one,) = [v for v in look(root, expectations={"sales": schema}).violations if v.kind == "expectation"]
    assert (one.source, one.column, one.proof) == ("sales", "price", True)
    assert one.since_us == rows["at"][late[0]]
    assert len(one.rows) == 5
    assert all("till till " in row and row.endswith("price = -1.0") for row in one.rows)
    assert 0.05 < one.share < 0.1


def test_values_are_of_the_columns_that_a_view_goes_by_and_an_id_is_not_one(root: Path) -> None:
    """A running number is always higher than ever; what is counted by its hash has no level either."""
    rows = sales(1)
    rows["receipt"] = np.arange(len(rows["at"])) + np.where(rows["at"] >= END_US - 2 * DAY_US, 10_000_000, 0)
    write(root, "sales", rows)
    assert look(root).violations == []
    counted = replace(
        view("sales"), layout=Layout.of([Aggregation("receipts_1h", "receipt", "count_distinct", 3_600_000_000, 300_000_000)]), features=()
    )
    assert violations([view("sales"), view("returns"), counted], root, LIVE_US, END_US, USUAL).violations == []
    latest = replace(view("sales"), features=(Feature("receipt", "int64"),))
    assert [v.column for v in violations([view("sales"), view("returns"), latest], root, LIVE_US, END_US, USUAL).violations] == ["receipt"]


def upto(rows: dict[str, Any], end_us: int) -> dict[str, Any]:
    return {name: values[rows["at"] < end_us] for name, values in rows.items()}


@pytest.mark.parametrize("known", ["as the others", "ahead too"])
@pytest.mark.parametrize("rows", [1, 4])
def test_rows_that_are_dated_ahead_do_not_prove_all_other_sources_dead(tmp_path: Path, known: str, rows: int) -> None:
    """Nobody has filled the store for two days."""
    stop = END_US - 2 * DAY_US
    write(tmp_path, "sales", upto(sales(1), stop))
    ahead = {name: np.append(values, values[-rows:]) for name, values in upto(sales(2), stop).items()}
    ahead["at"][-rows:] = END_US - HOUR_US
    if known == "ahead too":
        ahead["known"][-rows:] = END_US - HOUR_US
    write(tmp_path, "returns", ahead)
    assert [v for v in look(tmp_path).violations if v.kind == "silent"] == []


@pytest.mark.parametrize("served", [False, True])
def test_a_forecast_is_no_sign_of_life_after_it_was_made(tmp_path: Path, served: bool) -> None:
    """Its rows lie ahead by design. Where the table does not say when they became known, what was served of it does."""
    stop = END_US - 12 * HOUR_US
    write(tmp_path, "sales", upto(sales(1), stop))
    forecast = sales(2)
    if not served:
        forecast["known"] = np.minimum(forecast["at"] - 6 * HOUR_US, stop)
    write(tmp_path, "returns", forecast)
    marks = {"sales": stop, "returns": stop} if served else None
    assert violations([view("sales"), view("returns")], tmp_path, LIVE_US, END_US, USUAL, None, marks).violations == []


def test_one_row_of_1970_does_not_make_every_silence_a_short_one(root: Path) -> None:
    rows = upto(sales(1), END_US - 2 * DAY_US)
    rows["at"][0] = rows["known"][0] = 1
    write(root, "sales", rows)
    found = violations([view("sales"), view("returns")], root, LIVE_US, END_US, Usual(0, LIVE_US)).violations
    assert [(v.source, v.kind, v.proof) for v in found] == [("sales", "silent", True)]


def live_of(at_us: np.ndarray, price: np.ndarray) -> Live:
    moment = pa.array(at_us, pa.timestamp("us", "UTC"))
    columns = {"at": moment, "known": moment, "till": [f"till {n}" for n in range(len(at_us))], "price": price, "pieces": [1] * len(at_us)}
    return Live(pa.table(columns), at_us)


@pytest.mark.parametrize(("live", "bad"), [(1, 1), (40, 1), (40, 40)])
def test_shares_of_what_is_declared_are_of_the_table_and_of_what_is_live_together(root: Path, live: int, bad: int) -> None:
    """One live row that is wrong, and the only one since the table was filled, is one of thousands."""
    stored = upto(sales(1), END_US - HOUR_US)
    recent = np.flatnonzero(stored["at"] >= LIVE_US)
    stored["price"][recent[:3]] = -1.0
    write(root, "sales", stored)
    price = np.full(live, 20.0)
    price[:bad] = -1.0
    schema = pandera.DataFrameSchema({"price": pandera.Column(float, pandera.Check.ge(0), nullable=True)})
    came = {"sales": live_of(END_US - HOUR_US + np.arange(live) * 1_000_000, price)}
    found = violations([view("sales"), view("returns")], root, LIVE_US, END_US, USUAL, {"sales": schema}, live=came).violations
    (one,) = [v for v in found if v.kind == "expectation"]
    assert one.share == pytest.approx((3 + bad) / (len(recent) + live))
    assert f"{3 + bad} of {len(recent) + live:,} rows" in one.text
    assert one.since_us == stored["at"][recent[0]]
    assert one.rows[-1].startswith(str(np.datetime64(END_US - HOUR_US + (bad - 1) * 1_000_000, "us").astype("datetime64[s]")))


BROKEN: dict[str, dict[str, Any]] = {
    "a list as key": {"till": pa.array([[1]] * len(sales(1)["at"]))},
    "a struct as key": {"till": pa.array([{"a": 1}] * len(sales(1)["at"]))},
    "a key that is a map": {"till": pa.array([[("a", 1)]] * len(sales(1)["at"]), pa.map_(pa.string(), pa.int64()))},
    "text as moments": {"known": pa.array(["soon"] * len(sales(1)["at"]))},
    "a struct as moment": {"at": pa.array([{"a": 1}] * len(sales(1)["at"]))},
    "a list as known time": {"known": pa.array([[1]] * len(sales(1)["at"]))},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_column_of_another_kind_costs_the_word_of_its_table_only(tmp_path: Path, what: str) -> None:
    moment = pa.timestamp("us", "UTC")
    columns = {k: pa.array(v, moment) if k in ("at", "known") else pa.array(v) for k, v in sales(1).items()}
    (tmp_path / "sales").mkdir()
    pq.write_table(pa.table(columns | BROKEN[what]), tmp_path / "sales" / "part-0.parquet")
    rows = sales(2)
    rows["price"] = np.where(rows["at"] >= END_US - 3 * DAY_US, np.nan, rows["price"])
    write(tmp_path, "returns", rows)
    found = look(tmp_path)
    assert [(v.source, v.kind) for v in found.violations] == [("returns", "nulls")]
    assert (found.profiled, set(found.unreadable)) == ({"returns"}, {"sales"})
    assert found.unreadable["sales"]


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
@pytest.mark.parametrize("per_day", [6, 240])
def test_one_infinite_row_of_the_past_blinds_nothing(tmp_path: Path, infinite: float, per_day: int) -> None:
    write(tmp_path, "returns", sales(2, per_day))

    def said(name: str, price: Callable[[np.ndarray], np.ndarray], infinite: float | None) -> list[tuple[str, str]]:
        rows = sales(1, per_day)
        late = rows["at"] >= END_US - 3 * DAY_US
        rows["price"] = np.where(late, price(rows["price"]), rows["price"])
        if infinite is not None:
            rows["price"][5] = infinite
        write(tmp_path / name, "sales", rows)
        write(tmp_path / name, "returns", sales(2, per_day))
        return [(v.kind, v.text) for v in look(tmp_path / name).violations]

    sentinel = lambda p: np.where(np.arange(len(p)) % 4 == 0, p, -9999.0)  # noqa: E731
    for n, change in enumerate((sentinel, lambda p: p * 3600)):
        there = said(f"with{n}", change, infinite)
        assert there == said(f"without{n}", change, None)
        assert there


def test_a_row_that_is_known_only_in_the_future_does_not_hide_what_comes_live(root: Path) -> None:
    stored = upto(sales(1), END_US - DAY_US)
    true_us = int(stored["known"].max())
    stored["known"][7] = microseconds(datetime(2300, 1, 1))
    write(root, "sales", stored)
    assert newest([view("sales")], root) == {"sales": true_us}
    came = {"sales": live_of(END_US - DAY_US + HOUR_US // 60 + np.arange(240) * (HOUR_US // 10), np.full(240, -9999.0))}
    found = violations([view("sales"), view("returns")], root, LIVE_US, END_US, USUAL, live=came).violations
    assert ("sales", "one value", "price") in {(v.source, v.kind, v.column) for v in found}
