"""An offline value that its declared type cannot hold is never made another one: a join leaves its row out, a backfill rejects it. Stock
Feast would read another number."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records.redis_keys import keys_key
from streaming.backfill import rejected_rows
from streaming.backfill.run import backfill
from streaming.join.on_spark import read_events
from streaming.offline.unfit import WHY
from streaming.online import entity_index
from streaming.online.store import connect
from streaming.schema.feature_view import Feature, View


def test_a_whole_number_out_of_range_is_named_and_never_written(spark: Any, redis_url: str, tmp_path: Path) -> None:
    moments = pa.array([1, 2], pa.timestamp("us", "UTC"))
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"k": [1, 2], "at": moments, "n": [3_000_000_000, 5], "x": [1.0, None]}), tmp_path / "t" / "part-0.parquet")

    def view(*features: Feature) -> View:
        return View(f"p{uuid.uuid4().hex[:8]}", "v", (Feature("k", "int64"),), "t", "at", None, (), 0, features, None, None)

    narrow = view(Feature("n", "int32"))
    read = read_events(spark, narrow, tmp_path).toArrow().sort_by("k")
    assert read["n"].to_pylist() == [None, 5]
    assert read[WHY].to_pylist() == ["column 'n' has 3000000000, which Int32 cannot hold", None]
    (done,) = backfill(spark, [narrow], tmp_path, redis_url)
    assert (done.error, done.rows, done.rejected) == (None, 1, 1)
    client = connect(redis_url)
    assert [one.why for one in rejected_rows.read(client, narrow.project, "v")] == ["column 'n' has 3000000000, which Int32 cannot hold"]
    assert entity_index.count(client, keys_key(narrow.project, "v"))[0] == 1
    wide = read_events(spark, view(Feature("n", "int64"), Feature("x", "int32")), tmp_path).toArrow()
    assert wide.sort_by("k").select(["n", "x"]).to_pylist() == [{"n": 3_000_000_000, "x": 1}, {"n": 5, "x": None}]
    whole = read_events(spark, view(Feature("n", "int64"), Feature("x", "double")), tmp_path)
    plan = whole.where(f"{WHY} is not null")._jdf.queryExecution().optimizedPlan().toString()
    assert "LocalRelation <empty>" in plan, "where every value fits, nothing has to be read to know it"
