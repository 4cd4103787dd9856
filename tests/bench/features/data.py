"""Made-up tables of any size, as day partitions, the same for the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streaming.aggregation.windows import DAY, HOUR, Aggregation, Layout
from streaming.schema.feature_view import Feature, Projection, View

START = np.datetime64("2024-01-01", "us")
DAYS = 5
STAMP = pa.timestamp("us", tz="UTC")


def write_table(root: Path, name: str, rows: int, entities: int, features: int) -> None:
    """`user_id, event_timestamp, created_timestamp, f0, f1, ...`; known a second after it happened."""
    random = np.random.default_rng(1)
    at = np.sort(START + random.integers(0, DAYS * 86_400_000_000, rows).astype("timedelta64[us]"))
    columns = {
        "user_id": random.integers(0, entities, rows),
        "event_timestamp": pa.array(at, STAMP),
        "created_timestamp": pa.array(at + np.timedelta64(1, "s"), STAMP),
    }
    table = pa.table(columns | {f"f{i}": random.normal(size=rows) for i in range(features)})
    day = at.astype("datetime64[D]")
    for one in np.unique(day):
        folder = root / name / f"day={one}"
        folder.mkdir(parents=True)
        pq.write_table(table.filter(pa.array(day == one)), folder / "part-0.parquet")


def spine(examples: int, entities: int) -> pa.Table:
    random = np.random.default_rng(2)
    at = START + np.timedelta64(1, "D") + random.integers(0, (DAYS - 1) * 86_400_000_000, examples).astype("timedelta64[us]")
    return pa.table(
        {
            "example": np.arange(examples),
            "user_id": random.integers(0, entities, examples),
            "event_timestamp": pa.array(at, STAMP),
            "label": random.integers(0, 2, examples),
        }
    )


def latest_view(name: str, features: int, stream: str | None = None, project: str = "bench") -> View:
    keys = (Feature("user_id", "int64"),)
    wanted = tuple(Feature(f"f{i}", "double") for i in range(features))
    return View(project, name, keys, name, "event_timestamp", "created_timestamp", (), 0, wanted, None, stream)


def windowed_view(name: str, table: str, windows: int, stream: str | None = None, project: str = "bench") -> View:
    """count, sum, mean, max of f0 over `windows` windows, from 1 hour doubling."""
    wanted = [Aggregation(f"{f}_{2**w}h", "f0", f, 2**w * HOUR) for f in ("count", "sum", "mean", "max") for w in range(windows)]
    features = tuple(Feature(a.name, "double") for a in wanted)
    keys = (Feature("user_id", "int64"),)
    return View(project, name, keys, table, "event_timestamp", "created_timestamp", (), 0, features, Layout.of(wanted), stream)


def whole(view: View) -> Projection:
    return Projection(view, view.name, tuple(f.name for f in view.features), ())


END_US = int((START + np.timedelta64(DAYS, "D")).astype("int64"))
LONGEST = DAY
