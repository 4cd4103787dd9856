"""State that older code stored, and integers beyond 2**53, in a real Redis: read, added to and shown as they are."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records.redis_keys import keys_key
from serving.features.reader import FeatureRows, OnlineReader
from streaming.aggregation import tiles
from streaming.aggregation.windows import SECOND
from streaming.join.in_process import gather
from streaming.live.event_log import SCHEMA
from streaming.live.sink import apply_batch
from streaming.online import entity_index, feast_layout
from streaming.online.entities import key_function, view_fields
from streaming.online.store import OnlineStore, connect
from streaming.schema.feature_view import Feature, Projection, View
from streaming.schema.json_row import encode
from tests.streaming.schema.test_identity import NEWEST, OLD, STORED, WAS, view_of


def whole(view: View) -> Projection:
    return Projection(view, view.name, tuple(f.name for f in view.features), ())


def read(view: View, url: str, now_us: int, key: int = 1) -> tuple[dict[str, float], FeatureRows]:
    async def ask() -> tuple[dict[str, float], FeatureRows]:
        reader = OnlineReader([whole(view)], url, 5.0)
        try:
            rows = await reader.read([{"k": key}], now_us)
            return dict(zip((f.partition(":")[2] for f in reader.features), rows.values[0].tolist(), strict=True)), rows
        finally:
            await reader.close()

    return asyncio.run(ask())


def push(view: View, url: str, row: dict[str, Any], position: int) -> None:
    columns = [[position], [0], ["things"], [encode(row)], [""]]
    apply_batch([view], OnlineStore(connect(url)), pa.table(columns, schema=SCHEMA))


def moment(us: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)


def test_a_store_that_older_code_wrote_is_served_and_moves_on(redis_url: str) -> None:
    view = replace(view_of(OLD), project=f"p{uuid.uuid4().hex[:8]}", stream="things")
    client, (key,) = connect(redis_url), [key_function(view)([1])]
    client.hset(key, mapping={view_fields(view)[0]: STORED, view_fields(view)[1]: feast_layout.encode_timestamp(NEWEST)})
    entity_index.note(client, keys_key(view.project, view.name), [key])
    assert read(view, redis_url, NEWEST + SECOND)[0] == WAS
    push(view, redis_url, {"k": 1, "at": moment(NEWEST + SECOND), "x": 10.0}, 4)  # before the position it has: in already
    assert client.hget(key, view_fields(view)[0]) == STORED
    push(view, redis_url, {"k": 1, "at": moment(NEWEST + SECOND), "x": 10.0}, 10)
    values, _ = read(view, redis_url, NEWEST + 2 * SECOND)
    assert (values["total"], values["newest"], values["kinds"]) == (13.25, 10.0, 4.0)
    blob: Any = client.hget(key, view_fields(view)[0])
    header = tiles.read_header(blob)
    assert (header.fingerprint, header.revision, header.position) == (view.fingerprint, 2, (10, 0))
    again = replace(view, features=view.features[::-1], stored_order=())
    assert read(again, redis_url, NEWEST + 2 * SECOND)[0] == values


def test_an_integer_beyond_two_to_the_53rd_is_shown_as_it_is(redis_url: str, tmp_path: Path) -> None:
    features = (Feature("id", "int64"), Feature("note", "string"), Feature("x", "double"))
    common = ("things", "at", None, (), 0, features, None, "things")
    view = View(f"p{uuid.uuid4().hex[:8]}", "v", (Feature("k", "int64"),), *common)
    numbers = [2**53 + 1, -(2**63), 2**63 - 1, 2**53 - 1, 7, None]
    rows = [{"k": k, "at": moment(NEWEST), "id": number, "note": "n", "x": 0.5} for k, number in enumerate(numbers)]
    for k, row in enumerate(rows):
        push(view, redis_url, row, 10 + k)
    (tmp_path / "things").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "things" / "part-0.parquet")
    spine = pa.table({"k": list(range(len(numbers))), "event_timestamp": [moment(NEWEST)] * len(numbers)})
    joined = gather(
        spine.set_column(1, "event_timestamp", spine[1].cast(pa.timestamp("us", "UTC"))), "event_timestamp", [whole(view)], tmp_path, 99
    )
    for k, number in enumerate(numbers):
        values, found = read(view, redis_url, NEWEST + SECOND, k)
        number_ = found.extras[0].get("v:id", None if values["id"] != values["id"] else values["id"])
        assert number_ == number == joined["v__id"][k].as_py(), number
        assert (values["x"], found.extras[0]["v:note"]) == (0.5, "n")
