"""Every engine against the oracle, on data made to break it: joins in process and on Spark, backfill, stream, and both across the seam."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.features.decoder import STALE
from serving.features.reader import OnlineReader
from streaming.aggregation.windows import DAY, HOUR, MINUTE
from streaming.backfill.run import backfill
from streaming.join import on_spark
from streaming.join.in_process import gather
from streaming.join.on_spark import point_in_time_join, point_in_time_table
from streaming.live.event_log import SCHEMA
from streaming.live.share import Share
from streaming.live.sink import apply_batch
from streaming.online.store import OnlineStore, connect
from streaming.schema.columns import column_name
from streaming.schema.feature_view import View
from streaming.schema.json_row import encode
from tests.oracle import nasty
from tests.oracle.nasty import NIGHT, Nasty, views, whole

SEEDS = [1, 2, 3]


@pytest.fixture(scope="module", params=SEEDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Nasty, Path]:
    made, root = Nasty.make(request.param), tmp_path_factory.mktemp("nasty")
    made.write(root)
    return made, root


@pytest.fixture
def new_york(spark: Any) -> Iterator[None]:
    """A session in another time zone than UTC."""
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    yield
    spark.conf.set("spark.sql.session.timeZone", before)


def function_of(view: View, name: str) -> str:
    return next((a.function for a in view.layout.aggregations if a.name == name), "") if view.layout else ""


def check_joined(made: Nasty, joined: pa.Table) -> None:
    assert joined.num_rows == len(made.examples)
    assert joined["number"].to_pylist() == list(range(len(made.examples)))  # in order, each once
    spine = made.spine()
    for name in ("a", "b", "event_timestamp", "list", "struct"):
        assert joined[name].to_pylist() == spine[name].to_pylist(), name
    for view in views("p").values():
        events = made.events(view)
        columns = {f.name: joined[column_name(view.name, f.name)].to_pylist() for f in view.features}
        for i, example in enumerate(made.examples):
            want = made.expected(view, events, tuple(example[k] for k in view.key_names), example["t"])
            for name, value in want.items():
                got = columns[name][i]
                assert nasty.same(got, value, function_of(view, name), 1e20), (view.name, name, i, example, got, value)


def test_the_join_in_process(world: tuple[Nasty, Path]) -> None:
    made, root = world
    check_joined(made, gather(made.spine(), "event_timestamp", [whole(v) for v in views("p").values()], root, 10**9))


@pytest.mark.usefixtures("new_york")
def test_the_join_on_spark_in_any_time_zone(world: tuple[Nasty, Path], spark: Any) -> None:
    made, root = world
    plan = [whole(v) for v in views("p").values()]
    frame = spark.createDataFrame(made.spine())
    check_joined(made, point_in_time_table(spark, frame, "event_timestamp", plan, root, buckets=3))


def test_the_join_on_spark_as_a_frame(world: tuple[Nasty, Path], spark: Any) -> None:
    made, root = world
    plan = [whole(v) for v in views("p").values()]
    check_joined(made, point_in_time_join(spark, spark.createDataFrame(made.spine()), "event_timestamp", plan, root).toArrow())


def test_the_join_in_slices_of_time(world: tuple[Nasty, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made, root = world
    monkeypatch.setattr(on_spark, "SLICED", 10)
    check_joined(made, gather(made.spine(), "event_timestamp", [whole(v) for v in views("p").values()], root, 10**9))


def check_online(made: Nasty, url: str, compiled: dict[str, View], known_us: int, t_us: int) -> None:
    """What the reader gives at `t_us` is what the oracle makes of the events known by `known_us`."""
    instances = [{"a": a, "b": b, "c": {1: 23, 12: 3}.get(a or 0, 5)} for a, b in [*nasty.KEYS, nasty.NEVER_SEEN]]

    async def read() -> tuple[OnlineReader, Any]:
        reader = OnlineReader([whole(v) for v in compiled.values()], url, 5.0)
        try:
            return reader, await reader.read(instances, t_us)
        finally:
            await reader.close()

    reader, rows = asyncio.run(read())
    for view in compiled.values():
        events = made.events(view, known_us)
        for i, instance in enumerate(instances):
            want = made.expected(view, events, tuple(instance[k] for k in view.key_names), t_us)
            for name, value in want.items():
                place = reader.features.index(f"{view.name}:{name}")
                got: Any = rows.extras[i].get(f"{view.name}:{name}", rows.values[i, place])
                if rows.statuses[i, place] == STALE:
                    got = math.nan
                if not isinstance(got, int):  # the reader's numbers are doubles, but for integers that none carries
                    value = float(value) if isinstance(value, int | bool) else value
                assert nasty.same(got, value, function_of(view, name), 1e20), (view.name, name, instance, got, value)


@pytest.mark.parametrize("later", [0, 3 * MINUTE, HOUR, 30 * HOUR])
def test_backfill_then_read(world: tuple[Nasty, Path], spark: Any, redis_url: str, later: int) -> None:
    made, root = world
    compiled = views(f"n{uuid.uuid4().hex[:8]}")
    done = backfill(spark, list(compiled.values()), root, redis_url, NIGHT)
    assert not [d.error for d in done if d.error]
    if later == 0:  # events of the future of NIGHT that were known before: not there yet, and the reader is not asked to guess
        check_online(made, redis_url, compiled, NIGHT, NIGHT)
    else:
        visible = Nasty([r for r in made.rows if r["at"] <= NIGHT], made.examples)
        check_online(visible, redis_url, compiled, NIGHT, NIGHT + later)


def stream(made: Nasty, compiled: dict[str, View], url: str, after_us: int, seed: int, tasks: int = 1) -> None:
    """Everything known after a moment, in known order, in batches of random sizes, some of them twice; by tasks in any order."""
    random = np.random.default_rng(seed)
    rows = sorted((r for r in made.rows if r["known"] > after_us), key=lambda r: (r["known"], nasty.canonical(r)))
    encoded = [encode(row | {"at": nasty.moment(row["at"]), "known": nasty.moment(row["known"])}) for row in rows]
    store, at, n = OnlineStore(connect(url)), 0, len(encoded)
    while at < n:
        size = int(random.integers(1, 60))
        some = encoded[at : at + size]
        ids = [10_000 + at + i for i in range(len(some))]
        batch = pa.table([ids, [0] * len(some), ["nasty"] * len(some), some, [""] * len(some)], schema=SCHEMA)
        for _ in range(1 + int(random.random() < 0.3)):  # the same again, as after a crash
            for task in random.permutation(tasks).tolist():
                apply_batch(list(compiled.values()), store, batch, share=Share(task, tasks))
        at += len(some)


@pytest.mark.parametrize(("later", "tasks"), [(MINUTE, 1), (30 * HOUR, 2), (MINUTE, 8)])
def test_stream_then_read(world: tuple[Nasty, Path], redis_url: str, later: int, tasks: int) -> None:
    made, _ = world
    compiled = views(f"n{uuid.uuid4().hex[:8]}")
    stream(made, compiled, redis_url, -(2**62), later % 7, tasks)
    check_online(made, redis_url, compiled, made.end_us, made.end_us + later)


@pytest.mark.parametrize(("seam", "tasks"), [(NIGHT - 2 * HOUR, 1), (NIGHT - DAY, 8)])
def test_backfill_then_stream_then_read_across_the_seam(
    world: tuple[Nasty, Path], spark: Any, redis_url: str, seam: int, tasks: int
) -> None:
    made, root = world
    compiled = views(f"n{uuid.uuid4().hex[:8]}")
    done = backfill(spark, list(compiled.values()), root, redis_url, seam)
    assert not [d.error for d in done if d.error]
    stream(made, compiled, redis_url, seam - 3 * HOUR, 5, tasks)  # some of it is in the backfill already
    check_online(made, redis_url, compiled, made.end_us, made.end_us + MINUTE)


def test_one_entity_with_very_many_events(tmp_path: Path) -> None:
    """300,000 events of one key: against sums that anybody can make."""
    import pyarrow.parquet as pq

    n = 300_000
    at = NIGHT - np.arange(n)[::-1] * 1_000_000
    x = np.arange(n, dtype=np.float64)
    columns = {
        "a": np.ones(n, np.int64),
        "b": ["k"] * n,
        "c": np.ones(n, np.int64),
        "at": pa.array(at, nasty.STAMP),
        "known": pa.array(at, nasty.STAMP),
    }
    columns |= {name: pa.array(x if name == "x" else [None] * n, dtype) for name, dtype in nasty.ARROW.items()}
    (tmp_path / "nasty").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "nasty" / "part-0.parquet")
    moments = [NIGHT, NIGHT - 12_345_678_901, NIGHT - 250_000 * 1_000_000]
    spine = pa.table({"a": [1] * 3, "b": ["k"] * 3, "event_timestamp": pa.array(moments, nasty.STAMP)})
    joined = gather(spine, "event_timestamp", [whole(views("p")["windows"])], tmp_path, 10**9)
    for i, t in enumerate(moments):
        for window, hop in ((HOUR, 5 * MINUTE), (DAY, HOUR)):
            start = t - window
            inside = x[(at >= start - start % hop) & (at <= t)]
            assert joined[f"windows__count_{window}"][i].as_py() == len(inside)
            assert joined[f"windows__sum_{window}"][i].as_py() == inside.sum()
            assert joined[f"windows__max_{window}"][i].as_py() == inside.max()
            assert joined[f"windows__count_distinct_{window}"][i].as_py() == pytest.approx(len(inside), rel=0.13)
