"""The windowed training set of the use case (`HEADRACE_REPO`): ours, beside naive range joins in SQL on Spark and in DuckDB."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from infra.settings import Settings
from streaming.schema.feature_view import Projection
from tests.bench.measure import memory
from tests.bench.report import Measurement, rounds

_SQL = {
    "count": "count({c})",
    "sum": "coalesce(sum({c}), 0)",
    "mean": "avg({c})",
    "min": "min({c})",
    "max": "max({c})",
    "std": "stddev_samp({c})",
}


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    from feature_repo.registry.apply import apply_definitions
    from feature_repo.spec.use_case import UseCase
    from streaming.join.in_process import gather
    from streaming.offline.ingest import make_tables
    from streaming.offline.spark import session
    from streaming.schema.feature_view import projections
    from training.data.training_set import build

    case = UseCase(own.repo)
    spark = session(own)
    told("ingesting the use case")
    make_tables(case, own, spark)
    apply_definitions(case)
    spec = next(iter(case.models.values()))
    plan = [p for p in projections(case.store, spec.feature_service) if p.view.layout]
    root = own.offline_root
    examples: Any = ds.dataset(root / spec.spine.table, format="parquet").to_table()
    share = min(1.0, 0.01 * scale)
    step = max(1, round(1 / share))
    sample = examples.take(list(range(0, examples.num_rows, step)))
    moment = spec.spine.timestamp
    queries = [_naive(p, moment) for p in plan]

    def ours() -> float:
        began = time.monotonic()
        gather(examples, moment, plan, root, 10**9)
        return time.monotonic() - began

    def ours_sample() -> float:
        began = time.monotonic()
        gather(sample, moment, plan, root, 10**9)
        return time.monotonic() - began

    def whole_training_set() -> float:
        began = time.monotonic()
        build(spark, case, own, spec)
        return time.monotonic() - began

    def naive_spark() -> float:
        import pyarrow.parquet as pq

        began = time.monotonic()
        pq.write_table(sample, root / "sample.parquet")
        _spark_tables(spark, plan, root)
        for query in queries:
            spark.sql(query).toArrow()
        return time.monotonic() - began

    def naive_duckdb() -> float:
        import duckdb

        began = time.monotonic()
        with duckdb.connect(config={"threads": 2}) as connection:
            connection.register("spine", sample)
            for path in {p.view.path for p in plan}:
                connection.sql(f"CREATE VIEW {path} AS SELECT * FROM read_parquet('{root}/{path}/*/*.parquet')")
            for query in queries:
                connection.sql(query).to_arrow_table()
        return time.monotonic() - began

    ours()
    with memory() as used:
        found = rounds(number, {"ours": ours, "ours on the sample": ours_sample, "the whole training set": whole_training_set}, told)
        found |= rounds(1, {"naive SQL on Spark": naive_spark, "naive SQL in DuckDB": naive_duckdb}, told)
    windows = sum(len(p.features) for p in plan)
    extrapolated = {f"{name}, extrapolated": found[name] * step for name in ("naive SQL on Spark", "naive SQL in DuckDB")}
    what = f"{len(plan)} windowed views, {windows} features"
    return [
        Measurement(
            f"{examples.num_rows:,} examples x {what}",
            "s",
            found["ours"],
            extrapolated,
            note=f"peers ran one example in {step}; times {step}",
        ),
        Measurement(
            f"the sample: {sample.num_rows:,} examples x {what}",
            "s",
            found["ours on the sample"],
            {name: found[name] for name in ("naive SQL on Spark", "naive SQL in DuckDB")},
            note="nothing extrapolated",
        ),
        Measurement("training set in all: every view, on-demand features, Parquet, hash", "s", found["the whole training set"]),
        Measurement("memory, all processes", "GiB", used.peak),
    ]


def _spark_tables(spark: Any, plan: list[Projection], root: Path) -> None:
    spark.read.parquet(str(root / "sample.parquet")).createOrReplaceTempView("spine")
    for path in {p.view.path for p in plan}:
        spark.read.parquet(str(root / path)).createOrReplaceTempView(path)


def _naive(projection: Projection, moment: str) -> str:
    """One range join and one conditional aggregate per feature: what one writes by hand. `last` is left out: SQL has no short form of it."""
    view = projection.view
    assert view.layout is not None
    known = f"e.{view.created}" if view.created else f"e.{view.timestamp}"
    selected = []
    for a in view.layout.aggregations:
        if a.function not in _SQL:
            continue
        seconds = a.window_us // 1_000_000
        inside = f"CASE WHEN e.{view.timestamp} >= s.{moment} - INTERVAL '{seconds}' SECOND THEN e.{a.column} END"
        selected.append(f"{_SQL[a.function].format(c=inside)} AS {a.name}")
    reach = max(a.window_us for a in view.layout.aggregations) // 1_000_000
    keys = " AND ".join(f"s.{c} = e.{k}" for c, k in zip(projection.spine_keys, view.key_names, strict=True))
    identity = ", ".join(f"s.{c}" for c in dict.fromkeys([*projection.spine_keys, moment]))
    return (
        f"SELECT {identity}, {', '.join(selected)} FROM spine s LEFT JOIN {view.path} e ON {keys} "
        f"AND e.{view.timestamp} <= s.{moment} AND {known} <= s.{moment} AND e.{view.timestamp} >= s.{moment} - INTERVAL '{reach}' SECOND "
        f"GROUP BY {identity}"
    )
