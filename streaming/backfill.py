"""Backfill: bring the online store to the state of one moment, from the offline store alone.

For each view, the events known by the end are partitioned by entity and every partition writes what its entities look like then: the whole
truth up to that moment, so that running it twice changes nothing. The end is recorded as the view's *seam*: the live stream applies only
what became known after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from streaming.join import EVENT, KNOWN, canonical, read_events
from streaming.materialize import view_fields
from streaming.store import OnlineStore, connect, keys_key, view_key, without_password
from streaming.view import View

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Backfilled:
    """What a backfill of one view did.

    Attributes:
        rows: events read.
        entities: entities written.
        newest_us: event time of the newest event, microseconds; None where there was none.
    """

    view: str
    rows: int
    entities: int
    newest_us: int | None
    seconds: float
    error: str | None = None


def backfill(
    spark: SparkSession,
    views: Sequence[View],
    root: Path,
    redis_url: str,
    end_us: int,
    start_us: int | None = None,
    progress: Callable[[Backfilled], None] = lambda _: None,
) -> list[Backfilled]:
    """Write each view's state as of `end_us` into the online store.

    Args:
        root: the offline store.
        start_us: ignore events before it (latest-value views; windowed views read as far back as their windows reach).
        progress: called after each view.

    Returns:
        One result per view; a view that failed carries its error and does not stop the others.
    """
    results = []
    client = connect(redis_url)
    for view in views:
        began = time.monotonic()
        try:
            index = keys_key(view.project, view.name)
            fresh = f"{index}:{time.time_ns()}"
            try:
                rows, entities, newest = _one(spark, view, root, without_password(redis_url), end_us, start_us, fresh)
            except BaseException:
                client.delete(fresh)
                raise
            OnlineStore(client).replace_index(index, fresh, view_fields(view))
            result = Backfilled(view.name, rows, entities, newest, time.monotonic() - began)
            client.hset(
                view_key(view.project, view.name),
                mapping={"seam_us": end_us, "rows": rows, "entities": entities, "newest_us": newest or 0, "at": int(time.time())},
            )
        except Exception as error:
            result = Backfilled(view.name, 0, 0, None, time.monotonic() - began, _short(error))
        results.append(result)
        progress(result)
    client.close()
    return results


def _one(
    spark: SparkSession, view: View, root: Path, url: str, end_us: int, start_us: int | None, index: str
) -> tuple[int, int, int | None]:
    from pyspark.sql import functions as F

    from_us = end_us - view.reach_us if view.layout else start_us
    events = read_events(spark, view, root, from_us, end_us).where(F.col(KNOWN) <= end_us)
    names = events.columns

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # one partition, one connection; a partition's entities must fit into memory
        from streaming.materialize import overwrite

        table = pa.Table.from_batches(batches) if (batches := list(batches)) else None  # type: ignore[assignment]
        if table is None or not len(table):
            return
        client = connect(url)
        try:
            entities = overwrite(view, OnlineStore(client), canonical(table.select(names)), index)
        finally:
            client.close()
        newest = max(table[EVENT].to_pylist())
        yield pa.RecordBatch.from_pydict({"rows": [len(table)], "entities": [entities], "newest": [newest]})

    partitions = int(spark.conf.get("spark.sql.shuffle.partitions") or 4)
    done = events.repartition(partitions, *view.key_names).mapInArrow(write, "rows bigint, entities bigint, newest bigint").collect()
    return sum(d.rows for d in done), sum(d.entities for d in done), max((d.newest for d in done), default=None)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line and not line.startswith(("File", "at "))]
    return (named or lines or [type(error).__name__])[-1][:500]
