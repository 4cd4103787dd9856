"""Rows of offline tables that a view cannot hold: every join leaves out what a backfill sets aside, says so, and goes on with the others."""

from __future__ import annotations

import logging
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.backfill import rejected_rows
from streaming.backfill.run import backfill
from streaming.join.in_process import NotHere, gather
from streaming.join.on_spark import point_in_time_join, point_in_time_table
from streaming.offline import unfit
from streaming.online.store import connect
from streaming.schema.feature_view import Feature, Projection, View
from streaming.schema.types import FIRST_US, LAST_US
from tests.fuzz import fuzzed
from tests.oracle.hostile import NOW_US
from tests.streaming.backfill.test_rejected_rows import ROWS, UUID, view, write

STAMP = pa.timestamp("us", "UTC")
NAMES = ["n", "ns", "price", "what", "x"]


def spine(keys: list[int]) -> pa.Table:
    return pa.table({"k": pa.array(keys, pa.int64()), "when": pa.array([NOW_US + 5] * len(keys), STAMP), "number": range(len(keys))})


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.name == "streaming.offline.unfit"]
    caplog.clear()
    return found


def whole(one: View) -> Projection:
    return Projection(one, one.name, tuple(f.name for f in one.features), ())


def test_a_join_on_spark_leaves_out_what_a_backfill_sets_aside(
    spark: Any, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = view(f"p{uuid.uuid4().hex[:8]}")
    write(tmp_path, ROWS)
    (done,) = backfill(spark, [one], tmp_path, redis_url)
    assert (done.rows, done.rejected) == (3, 6)
    asked = spine([row[0] for row in ROWS])
    for join in (
        lambda: point_in_time_table(spark, spark.createDataFrame(asked), "when", [whole(one)], tmp_path),
        lambda: point_in_time_join(spark, spark.createDataFrame(asked), "when", [whole(one)], tmp_path).toArrow(),
    ):
        with caplog.at_level(logging.WARNING, "streaming.offline.unfit"):
            joined = join()
        assert joined["k"].to_pylist() == asked["k"].to_pylist(), "one example in is one row out"
        found = {k: [joined[f"v__{n}"][i].as_py() for n in NAMES] for i, k in enumerate(joined["k"].to_pylist())}
        assert found[1] == [5, [1, 2], "1.50", UUID, 1.5]
        assert found[4][2:] == ["1", UUID, 1.0]
        assert all(values == [None] * 5 for k, values in found.items() if k not in (1, 4)), "of a row that is left out nothing is known"
        (said,) = told(caplog)
        assert said.startswith(f"feature view 'v': 6 rows of {tmp_path / 't'} cannot be held by it and are left out")
        assert '"k":2' in said
        assert "column 'n' has 3000000000, which Int32 cannot hold" in said
        assert said.endswith(" ...")
    with pytest.raises(NotHere):  # casts are Spark's
        gather(asked, "when", [whole(one)], tmp_path, 10**9)


def test_both_engines_and_the_backfill_agree_on_every_row(
    spark: Any, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows at random, of types that both engines read: which are held, which are not, and what is joined."""
    features = (
        Feature("price", "decimal"),
        Feature("what", "uuid"),
        Feature("x", "double"),
        Feature("then", "timestamp"),
        Feature("times", "array<timestamp>"),
    )
    one = View(
        f"p{uuid.uuid4().hex[:8]}", "v", (Feature("k", "int64"), Feature("id", "string")), "t", "at", None, (), 0, features, None, None
    )
    chosen = random.Random(4)
    prices, ids = ["1", "-2.50", "1e3", "much", "NaN", "", None], [UUID, UUID.upper(), "one", "", None]
    keys = ["a", "b", None]
    rows = [(chosen.randrange(9), chosen.choice(keys), i, chosen.choice(prices), chosen.choice(ids), float(i)) for i in range(300)]
    columns = [*zip(*rows, strict=True)]
    kinds = [pa.int64(), pa.string(), pa.int64(), pa.string(), pa.string(), pa.float64()]
    table = pa.table([pa.array(c, t) for c, t in zip(columns, kinds, strict=True)], names=["k", "id", "i", "price", "what", "x"])
    table = table.set_column(2, "at", pa.array([NOW_US - 1000 + i for i in range(300)], STAMP))
    then = [chosen.choice([None, *[0] * 5, 10**6, FIRST_US, LAST_US - LAST_US % 10**6, 2**62, -(2**62)]) for _ in rows]
    times = [chosen.choice([None, [], [0, 10**6], [10**6]]) if chosen.random() < 0.9 else [0, 2**62] for _ in rows]
    table = table.append_column("then", pa.array(then, pa.int64()).cast(STAMP))
    table = table.append_column("times", pa.array(times, pa.list_(pa.int64())).cast(pa.list_(STAMP)))
    (tmp_path / "t").mkdir()
    pq.write_table(table, tmp_path / "t" / "part-0.parquet")
    (done,) = backfill(spark, [one], tmp_path, redis_url)
    assert done.error is None
    kept = Counter(r.why for r in rejected_rows.read(connect(redis_url), one.project, "v"))
    asked = pa.table(
        {
            "k": [k for k in range(9) for _ in range(40)],
            "id": ["a", "b"] * 180,
            "when": pa.array([NOW_US - 1000 + 8 * (i % 40) for i in range(360)], STAMP),
        }
    )
    said, joined = [], []
    for join in (
        lambda: gather(asked, "when", [whole(one)], tmp_path, 10**9),
        lambda: point_in_time_table(spark, spark.createDataFrame(asked), "when", [whole(one)], tmp_path),
    ):
        with caplog.at_level(logging.WARNING, "streaming.offline.unfit"):
            joined.append(join())
        said.append(told(caplog))
    assert joined[0].to_pylist() == joined[1].to_pylist()
    for (text,) in said:
        assert text.startswith(f"feature view 'v': {done.rejected} rows of {tmp_path / 't'} cannot be held")
    calendar = [all(FIRST_US <= us <= LAST_US for us in (at or 0, *(some or ()))) for at, some in zip(then, times, strict=True)]
    texts = [all(v is None or unfit.holds_text(v, t) for v, t in ((r[3], "decimal"), (r[4], "uuid"))) for r in rows]
    good = [r for r, known, held in zip(rows, calendar, texts, strict=True) if known and held]
    assert 30 < len(good) < calendar.count(True) < 300
    assert len(good) == 300 - done.rejected
    assert sum(kept.values()) == done.rejected
    for i, got in enumerate(joined[0].to_pylist()):  # by a brute-force search
        moment = 8 * (i % 40)
        newest = [r for r in good if r[0] == got["k"] and r[1] == got["id"] and r[2] <= moment]
        wanted = newest[-1][3:] if newest else (None, None, None)
        assert (got["v__price"], got["v__what"], got["v__x"]) == wanted


@fuzzed
@given(
    st.lists(st.tuples(st.text(max_size=6) | st.decimals().map(str) | st.none(), st.text(max_size=40) | st.uuids().map(str) | st.none()))
)
def test_fuzz_a_text_is_held_or_the_row_has_a_reason(rows: list[tuple[str | None, str | None]]) -> None:
    features = (Feature("price", "decimal"), Feature("what", "uuid"))
    one = View("p", "v", (Feature("k", "int64"),), "t", "at", None, (), 0, features, None, None)
    kinds = {"price": pa.string(), "what": pa.string()}
    table = pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())})
    said = unfit.reasons(one, table).to_pylist()
    left = unfit.leave_out(one, "t", table)
    assert len(left) == said.count(None)
    assert unfit.reasons(one, left).null_count == len(left)
    for row, why in zip(rows, said, strict=True):
        held = [value is None or unfit.holds_text(value, kind) for value, kind in zip(row, ("decimal", "uuid"), strict=True)]
        assert (why is None) == all(held)
        if why is not None:
            assert f"column {('price', 'what')[held.index(False)]!r} has" in why
