"""How cost grows: one thing at a time, doubled three times; printed as the table that docs/benchmarks.md shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from infra.cli import console
from infra.settings import Settings
from infra.supervision import redis_server
from streaming.backfill.run import backfill
from streaming.join.in_process import gather
from streaming.online.store import connect
from tests.bench.features.data import END_US, latest_view, spine, whole, windowed_view, write_table
from tests.bench.report import Measurement


@dataclass(frozen=True)
class Size:
    rows: int = 100_000
    entities: int = 10_000
    views: int = 1
    windows: int = 1


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    from streaming.offline.spark import session

    base = Size(rows=max(1000, round(100_000 * scale)), entities=max(100, round(10_000 * scale)))
    redis_server.up(own)
    spark = session(own)
    lines = ["| grows | of | join 1x | 2x | 4x | 8x | backfill 1x | 2x | 4x | 8x |", "|---|---|---|---|---|---|---|---|---|---|"]
    found = []
    _one(own, spark, base, "warm")
    for what in ("rows", "entities", "views", "windows"):
        joins, fills = [], []
        for times in (1, 2, 4, 8):
            size = replace(base, **{what: getattr(base, what) * times})
            told(f"{what} x {times}")
            runs = [_one(own, spark, size, f"{what}{times}_{i}") for i in range(number)]
            joins.append(median(j for j, _ in runs))
            fills.append(median(f for _, f in runs))
            found.append(Measurement(f"join, {what} x {times}", "s", joins[-1]))
            found.append(Measurement(f"backfill, {what} x {times}", "s", fills[-1]))
        cells = [f"{s:.2f} s" for s in (*joins, *fills)]
        lines.append(f"| {what} | {getattr(base, what):,} | " + " | ".join(cells) + " |")
    console.print("\n".join(lines))
    return found


def _one(own: Settings, spark: object, size: Size, name: str) -> tuple[float, float]:
    """Seconds of a join (30,000 examples) and of a backfill, of windowed views of one table and a latest-value one."""
    root, table = own.offline_root, f"t_{name}"
    write_table(root, table, size.rows, size.entities, 2)
    views = [windowed_view(f"{table}_{i}", table, size.windows) for i in range(size.views)]
    views.append(replace(latest_view(table, 2), name=f"{table}_latest"))
    examples = spine(30_000, size.entities)
    began = time.monotonic()
    gather(examples, "event_timestamp", [whole(v) for v in views], root, 10**9)
    joined = time.monotonic() - began
    connect(own.redis()).flushdb()
    began = time.monotonic()
    done = backfill(spark, views, root, own.redis(), END_US)  # type: ignore[arg-type]
    filled = time.monotonic() - began
    if any(d.error for d in done):
        raise RuntimeError("; ".join(str(d.error) for d in done))
    return joined, filled
