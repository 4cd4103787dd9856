"""The point-in-time join beside Feast's own and DuckDB's ASOF join; windows beside naive SQL; one entity with ten million events."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.settings import Settings
from streaming.join.in_process import gather
from streaming.join.on_spark import point_in_time_table
from tests.bench.features.data import latest_view, spine, whole, write_table
from tests.bench.measure import Peer, memory
from tests.bench.report import Measurement, rounds

FEATURES = 10


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    from streaming.offline.spark import session

    examples, rows, entities = (max(1000, round(n * scale)) for n in (300_000, 1_000_000, 200_000))
    root = own.offline_root
    told("writing tables")
    write_table(root, "wide", rows, entities, FEATURES)
    made = spine(examples, entities)
    pq.write_table(made, root / "spine.parquet")
    began = time.monotonic()
    spark = session(own)
    spark.range(1).count()
    start = time.monotonic() - began
    plan = [whole(latest_view("wide", FEATURES))]
    results: dict[str, pa.Table] = {}

    def in_process() -> float:
        began = time.monotonic()
        results["ours"] = gather(pq.read_table(root / "spine.parquet"), "event_timestamp", plan, root, 10**9)
        return time.monotonic() - began

    def on_spark() -> float:
        began = time.monotonic()
        frame = spark.read.parquet(str(root / "spine.parquet"))
        results["spark"] = point_in_time_table(spark, frame, "event_timestamp", plan, root)
        return time.monotonic() - began

    def duckdb() -> float:
        began = time.monotonic()
        results["duckdb"] = _asof(root)
        return time.monotonic() - began

    with memory() as used:  # warms up as well
        in_process()
        on_spark()
    duckdb()
    told("starting Feast on Spark")
    feast = Peer(own, "feast_join", str(root / "wide"), str(root / "spine.parquet"), str(FEATURES))
    runs = {"ours": in_process, "ours on Spark": on_spark, "DuckDB": duckdb, "Feast on Spark": lambda: float(feast()["seconds"])}
    found = rounds(number, runs, told)
    feast.close()
    for name in ("spark", "duckdb"):
        _same(results["ours"], results[name])
    what = f"{examples:,} examples x {rows:,} rows x {FEATURES} features"
    peers = {name: found[name] for name in ("Feast on Spark", "DuckDB")}
    return [
        Measurement(f"join, {what}", "s", found["ours"], peers, note="warm; what get_historical_features does at this size"),
        Measurement(
            f"join on Spark, {what}", "s", found["ours on Spark"], peers, note="warm; what it does beyond HEADRACE_JOIN_IN_PROCESS_ROWS"
        ),
        Measurement(
            "join on Spark, session start included",
            "s",
            start + found["ours on Spark"],
            {"Feast on Spark": feast.started["start"] + found["Feast on Spark"]},
        ),
        Measurement("memory while joining, all processes", "GiB", used.peak),
    ]


def _asof(root: Path) -> pa.Table:
    import duckdb

    features = ", ".join(f"w.f{i}" for i in range(FEATURES))
    with duckdb.connect(config={"threads": 2}) as connection:
        return connection.sql(
            f"""SELECT s.*, {features} FROM read_parquet('{root}/spine.parquet') s
            ASOF LEFT JOIN (SELECT *, greatest(event_timestamp, created_timestamp) AS visible FROM read_parquet('{root}/wide/*/*.parquet')) w
            ON s.user_id = w.user_id AND s.event_timestamp >= w.visible ORDER BY s.example"""
        ).to_arrow_table()


def _same(ours: pa.Table, theirs: pa.Table) -> None:
    """Every feature of every example, compared to the bit: known a second after the event, both see the same rows here."""
    theirs = theirs.sort_by("example")
    for i in range(FEATURES):
        a = ours.sort_by("example")[f"wide__f{i}"]
        b = theirs[next(n for n in theirs.column_names if n.endswith(f"f{i}"))]
        if not pc.all(pc.fill_null(pc.equal(a, b), True)).as_py() or a.null_count != b.null_count:
            raise AssertionError(f"the joins differ in feature {i}")


def heavy(own: Settings, scale: float, told: Callable[[str], None]) -> list[Measurement]:
    """One entity with ten million events, on Spark."""
    from streaming.offline.spark import session
    from tests.bench.features.data import STAMP, START, windowed_view

    rows = round(10_000_000 * scale)
    random = np.random.default_rng(3)
    root = own.offline_root
    at = np.sort(START + random.integers(0, 30 * 86_400_000_000, rows).astype("timedelta64[us]"))
    day = at.astype("datetime64[D]")
    told(f"writing {rows:,} events of one entity")
    for one in np.unique(day):
        some = at[day == one]
        stamps = pa.array(some, STAMP)
        table = {"user_id": np.ones(len(some), np.int64), "event_timestamp": stamps, "created_timestamp": stamps}
        (root / "heavy" / f"day={one}").mkdir(parents=True)
        pq.write_table(pa.table(table | {"f0": random.normal(size=len(some))}), root / "heavy" / f"day={one}" / "part-0.parquet")
    moments = START + np.timedelta64(8, "D") + random.integers(0, 22 * 86_400_000_000, 1000).astype("timedelta64[us]")
    pq.write_table(pa.table({"user_id": np.ones(1000, np.int64), "event_timestamp": pa.array(moments, STAMP)}), root / "moments.parquet")
    plan = [whole(windowed_view("windows", "heavy", 8)), whole(latest_view("heavy", 1))]
    spark = session(own)
    told(f"joining {rows:,} events of one entity")
    with memory() as used:
        began = time.monotonic()
        frame = spark.read.parquet(str(root / "moments.parquet"))
        joined: Any = point_in_time_table(spark, frame, "event_timestamp", plan, root)
        seconds = time.monotonic() - began
    if joined.num_rows != 1000 or joined["windows__count_128h"].null_count:
        raise AssertionError("the heavy entity's examples are not all there")
    name = f"one entity with {rows:,} events, 1,000 examples, 32 windows and the latest row, on Spark"
    return [Measurement(name, "s", seconds), Measurement(f"{name}: memory of all processes", "GiB", used.peak)]
