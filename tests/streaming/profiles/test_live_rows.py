"""What has come live and is in no table yet is held against the tables' past, on a real event stream."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pandera.pandas import Check, Column, DataFrameSchema

from feature_repo.records.redis_keys import events_key
from infra import redis_client
from infra.timestamps import moment_at
from streaming.profiles import live_rows
from streaming.profiles.facts import DAY_US
from streaming.profiles.live_rows import read_live
from streaming.profiles.lookup import Looked, violations
from streaming.schema.feature_view import Feature, View
from tests.streaming.profiles.test_lookup import END_US, LIVE_US, USUAL, sales, view, write

HOUR_US = DAY_US // 24


@dataclass
class Shop:
    """Two tables that end at a moment, and what came live since."""

    root: Path
    client: Any
    project: str

    def view(self, name: str, stream: bool = True) -> View:
        return replace(view(name), project=self.project, stream=name if stream else None)

    def store(self, name: str, rows: dict[str, Any], upto_us: int) -> None:
        write(self.root, name, {k: v[rows["at"] < upto_us] for k, v in rows.items()})

    def push(self, name: str, rows: dict[str, Any], from_us: int, upto_us: int = END_US) -> None:
        with self.client.pipeline() as pipe:
            for i in np.flatnonzero((rows["at"] >= from_us) & (rows["at"] < upto_us)):
                at, known = (moment_at(int(rows[n][i])).isoformat() for n in ("at", "known"))
                event = {
                    "till": str(rows["till"][i]),
                    "at": at,
                    "known": known,
                    "price": float(rows["price"][i]),
                    "count": int(rows["count"][i]),
                }
                pipe.xadd(events_key(self.project), {"source": name, "data": msgspec.json.encode(event)})
            pipe.execute()

    def look(self, views: list[View], expectations: dict[str, Any] | None = None, live: bool = True) -> Looked:
        found = read_live(self.client, views) if live else None
        return violations(views, self.root, LIVE_US, END_US, USUAL, expectations, live=found)


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Shop]:
    client, project = redis_client.connect(redis_url), f"shop_{secrets.token_hex(4)}"
    yield Shop(tmp_path, client, project)
    client.delete(events_key(project))
    client.close()


@pytest.fixture
def both(shop: Shop) -> list[View]:
    return [shop.view("sales"), shop.view("returns")]


LAST_US = LIVE_US + 5 * DAY_US
"""The tables end; two days come live."""


def test_what_comes_live_as_ever_is_as_usual(shop: Shop, both: list[View]) -> None:
    for n, name in enumerate(("sales", "returns")):
        shop.store(name, sales(n), END_US - 6 * HOUR_US)
        shop.push(name, sales(n), END_US - DAY_US)  # most of it is in the table, too
    found = read_live(shop.client, both)
    assert len(found["sales"].known_us) == (sales(0)["at"] >= END_US - DAY_US).sum()
    assert shop.look(both) == Looked([], frozenset({"sales", "returns"}))


def test_a_fault_that_is_in_no_table_yet_is_found_with_its_events(shop: Shop, both: list[View]) -> None:
    for n, name in enumerate(("sales", "returns")):
        shop.store(name, sales(n), LAST_US)
    rows = sales(0)
    rows["count"] = np.where(rows["at"] >= LAST_US, rows["count"] * 1000, rows["count"])
    shop.push("sales", rows, LAST_US)
    shop.push("returns", sales(1), LAST_US)
    assert shop.look(both, live=False).violations == []
    (one,) = shop.look(both).violations
    assert (one.source, one.kind, one.column, one.proof) == ("sales", "unit", "pieces", False)
    moment, till, pieces = one.rows[-1].split(", ")
    (place,) = np.flatnonzero(rows["at"] == np.datetime64(moment.removesuffix("Z"), "us").astype(int))
    assert (till, pieces) == (f"till {rows['till'][place]}", f"pieces = {rows['count'][place]:g}")


def test_live_events_are_held_against_what_is_declared_of_the_columns_they_have(
    shop: Shop, both: list[View], caplog: pytest.LogCaptureFixture
) -> None:
    for n, name in enumerate(("sales", "returns")):
        shop.store(name, sales(n) | {"clerk": np.array(["ann"] * len(sales(n)["at"]))}, LAST_US)
        shop.push(name, sales(n), LAST_US)
    pieces = Column(int, Check.in_range(1, 8))
    schema = DataFrameSchema({"clerk": Column(str), "pieces": pieces}, checks=[Check(lambda f: f["clerk"] != "bob")])
    assert shop.look(both, {"sales": schema}).violations == []
    assert not caplog.text, "what they lack is not asked"
    rows = sales(0)
    rows["count"][rows["at"] >= END_US - 2 * HOUR_US] = -1
    shop.push("sales", rows, END_US - 2 * HOUR_US)
    (one,) = [v for v in shop.look(both, {"sales": schema}).violations if v.kind == "expectation"]
    assert (one.source, one.column, one.proof) == ("sales", "pieces", True)
    assert all(row.endswith("pieces = -1") for row in one.rows)


def test_a_source_whose_events_stop_is_dead_and_a_table_without_events_is_not(shop: Shop, both: list[View]) -> None:
    for n, name in enumerate(("sales", "returns")):
        shop.store(name, sales(n), LAST_US)
    shop.push("sales", sales(0), LAST_US)
    daily = [shop.view("sales"), shop.view("returns", stream=False)]
    assert shop.look(daily).violations == [], "a table that is filled once a day waits for its next ingest"
    shop.push("returns", sales(1), LAST_US, END_US - DAY_US)
    (one,) = [v for v in shop.look(both).violations if v.kind == "silent"]
    assert (one.source, one.proof) == ("returns", True)


def test_days_that_neither_table_nor_stream_has_are_no_fault(shop: Shop, both: list[View]) -> None:
    """The table ended, and what came next has left the stream."""
    for n, name in enumerate(("sales", "returns")):
        shop.store(name, sales(n), LIVE_US)
        shop.push(name, sales(n), END_US - 12 * HOUR_US)
    assert shop.look(both) == Looked([], frozenset({"sales", "returns"}))
    rows = sales(0)
    shop.client.delete(events_key(shop.project))
    for key in rows:
        rows[key] = rows[key][::4]
    shop.push("sales", rows, END_US - 40 * HOUR_US)
    shop.push("returns", sales(1), END_US - 40 * HOUR_US)
    assert {(v.source, v.kind) for v in shop.look(both).violations} == {("sales", "volume"), ("sales", "keys")}, "events are missing"


def test_events_that_do_not_fit_every_view_are_left_out(shop: Shop) -> None:
    shop.push("sales", sales(0), END_US - HOUR_US)
    count = shop.client.xlen(events_key(shop.project))
    for data in (
        b"no json",
        b"{}",
        b'{"till": "1", "at": "2100-01-01", "known": "2100-01-01"}',
        b'{"till": 1, "at": "2023-12-20T00:00:00", "price": "x"}',
    ):
        shop.client.xadd(events_key(shop.project), {"source": "sales", "data": data})
    shop.client.xadd(events_key(shop.project), {"source": "others", "data": b"{}"})
    strict = replace(shop.view("sales"), name="strict", features=(Feature("count", "int64"), Feature("till", "string")), mapping=())
    found = read_live(shop.client, [shop.view("sales"), strict])
    assert len(found["sales"].known_us) == count
    assert {"till", "price", "pieces", "count", "at", "known"} == set(found["sales"].table.column_names)


def test_of_a_stream_that_is_too_long_nothing_is_read(
    shop: Shop, both: list[View], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop.push("sales", sales(0), END_US - HOUR_US)
    monkeypatch.setattr(live_rows, "MOST", 3)
    assert read_live(shop.client, both) == {}
    assert "from its table alone" in caplog.text
    assert read_live(shop.client, []) == {}
