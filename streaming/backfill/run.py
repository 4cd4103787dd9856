"""Backfill: bring the online store to the state of one moment, from the offline store.

A view's entities are split into buckets by hash. For each bucket the events known by that moment are read, and each entity's state is
computed from them and written, whatever was there. What the live stream has brought since that moment is read from the stream's
log, and added. So a backfill may run beside the stream, and a second run changes nothing. If it is killed, the next run does the buckets
that are left.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.records.redis_keys import applied_key, events_key, keys_key, view_key
from infra.redis_client import whole, without_password
from streaming import clock
from streaming.aggregation import tiles
from streaming.backfill import checkpoint, rejected_rows
from streaming.clock import SHARE, TOLERANCE_S
from streaming.join.on_spark import read_events
from streaming.kafka import cuts
from streaming.kafka.client import Topics
from streaming.kafka.kafka_log import log_of
from streaming.live import event_log
from streaming.live.event_log import Log
from streaming.offline.footers import Extent, extent
from streaming.offline.parquet import TableError
from streaming.offline.unfit import WHY
from streaming.online import entity_index
from streaming.online.entities import view_fields
from streaming.online.lease import HeldError, hold
from streaming.online.store import OnlineStore, connect, fields_of, of_the_store, stream_id
from streaming.schema.columns import EVENT, KNOWN, canonical
from streaming.schema.feature_view import View
from streaming.schema.types import FIRST_US

if TYPE_CHECKING:
    import redis
    from pyspark.sql import DataFrame, SparkSession

    from streaming.backfill.checkpoint import Journal

ROWS_PER_BUCKET = 250_000
_RATE = 150_000
"""Rows a second assumed of a view that has never been backfilled."""
_BUCKET = "__bucket"
_DONE = ("rows", "entities", "newest", "rejected")


@dataclass(frozen=True)
class Planned:
    """What a backfill of one view would do.

    Attributes:
        end_us: the moment it brings the view to, microseconds.
        from_us: only entities with rows known after it are written; 0: all.
        buckets, done: how many parts it has, and how many of them an earlier, killed run has finished.
        seconds: estimate, from the last run's rate where there was one.
        error: why it cannot be done.
    """

    view: str
    end_us: int
    from_us: int = 0
    days: int = 0
    rows: int = 0
    buckets: int = 0
    done: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Backfilled:
    """What a backfill of one view did.

    Attributes:
        rows: events read.
        entities: entities written.
        newest_us: event time of the newest event, microseconds; None where there was none.
        removed: entities that no longer hold the view.
        rejected: rows that cannot be stored; they are kept with the reason (`streaming.backfill.rejected_rows`).
        spared: what was not removed, because it is more than the share that goes at once; in words.
        held: another backfill holds the view; nothing was done.
    """

    view: str
    rows: int
    entities: int
    newest_us: int | None
    seconds: float
    error: str | None = None
    removed: int = 0
    resumed: bool = False
    held: bool = False
    rejected: int = 0
    spared: str = ""


@dataclass(frozen=True)
class Progress:
    view: str
    done: int
    buckets: int
    rows: int


def plan(
    views: Sequence[View], root: Path, client: redis.Redis, end_us: int | None, from_us: int | None = None, lookback_us: int | None = None
) -> list[Planned]:
    """What `backfill` with the same arguments would do.

    Args:
        end_us: the moment to bring the views to; None: as far as each one's table reaches.
        from_us: only entities with rows known after this moment.
        lookback_us: instead of `from_us`: only what became known since the last backfill, less this; a view without one is done in full.
    """
    return [_plan(view, root, client, end_us, from_us, lookback_us)[0] for view in views]


def _plan(
    view: View, root: Path, client: redis.Redis, end_us: int | None, from_us: int | None, lookback_us: int | None
) -> tuple[Planned, Journal | None]:
    said = fields_of(client.hgetall(view_key(view.project, view.name)))  # type: ignore[arg-type]
    now = clock.wall_us()
    if end_us is not None and end_us > now + round(TOLERANCE_S * 1e6):
        why = "the moment to backfill to lies ahead of the clock: the stream would pass over everything until then"
        return Planned(view.name, end_us, from_us or 0, error=why), None
    if lookback_us is not None:
        # a changed definition has to be done in full
        fingerprint, seam_us = whole(said.get("fingerprint")), whole(said.get("seam_us"))
        known = fingerprint is not None and view.holds(fingerprint) and seam_us is not None and FIRST_US <= seam_us <= now
        from_us = max((seam_us or 0) - lookback_us, 1) if known else None
    try:
        all_of_it = extent(view, root, None, None)
        reaches = now if all_of_it.known_us is None else min(now, all_of_it.known_us)
        old = checkpoint.unfinished(client, view)
        if old is not None and (end_us not in (None, old.end_us) or (from_us or 0) != old.from_us):
            old = None
        end = old.end_us if old else reaches if end_us is None else end_us
        size: Extent = extent(view, root, end - view.reach_us, end) if view.layout else extent(view, root, None, end)
    except (TableError, OSError, pa.ArrowException) as error:
        return Planned(view.name, end_us or now, from_us or 0, error=str(error)), None
    buckets = old.buckets if old else max(4, -(-size.rows // ROWS_PER_BUCKET))
    rate = _rate(said)
    left = 1 - len(old.done) / buckets if old else 1.0
    done = len(old.done) if old else 0
    return Planned(view.name, end, from_us or 0, size.days, size.rows, buckets, done, size.rows * left / rate + 0.3), old


def _rate(said: dict[str, str]) -> float:
    """Rows a second of the last run, where it is told."""
    try:
        rate = float(said["rows"]) / float(said["seconds"])
    except (KeyError, ValueError, ZeroDivisionError):
        return _RATE
    return rate if 0 < rate < math.inf else _RATE


# wide: one keyword for each option of the command
def backfill(
    spark: SparkSession,
    views: Sequence[View],
    root: Path,
    redis_url: str,
    end_us: int | None = None,
    from_us: int | None = None,
    lookback_us: int | None = None,
    rewind: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    tolerance_s: float = TOLERANCE_S,
    most: float = SHARE,
    topics: Topics | None = None,
) -> list[Backfilled]:
    """Write each view's state as of its end into the online store.

    Args:
        root: the offline store.
        end_us, from_us, lookback_us: as in `plan`.
        rewind: forget the live events (their stream is deleted): the store becomes the state of `end_us` and nothing later. For rehearsals;
            the stream must not be running.
        progress: called as buckets are done.
        tolerance_s: how far ahead of the clock a live event may be dated, as the stream has it.
        most: the largest share of a view's entities that a full backfill removes, because the offline store does not know them; 1: all of
            them. A rewind removes all.
        topics: the push sources that the stream reads from Kafka.

    Returns:
        One result per view; a view that failed carries its error and does not stop the others.
    """
    results = []
    client, plain, wanted = connect(redis_url), without_password(redis_url), (end_us, from_us, lookback_us)
    if rewind and views:
        client.delete(events_key(views[0].project), applied_key(views[0].project))
        cuts.forget(client, views[0].project)
    if views and end_us is None:
        clock.end_rehearsal(client, views[0].project)
    if views and rewind and end_us is not None:
        clock.set_rehearsal(client, views[0].project, end_us)
    for view in views:
        began = time.monotonic()
        key = view_key(view.project, view.name)
        try:
            with hold(client, view):
                results.append(_one(spark, view, root, client, plain, wanted, progress, tolerance_s, most, rewind, topics))
        except Exception as error:
            held = isinstance(error, HeldError)
            results.append(Backfilled(view.name, 0, 0, None, time.monotonic() - began, _short(error), held=held))
            if not held:
                with contextlib.suppress(Exception):  # the store may be what failed
                    client.hincrby(key, "failures", 1)
                    client.hset(key, mapping={"error": _short(error), "failed_at": int(time.time())})
    client.close()
    return results


# wide: what `backfill` was asked, for one view
def _one(
    spark: SparkSession,
    view: View,
    root: Path,
    client: redis.Redis,
    url: str,
    wanted: tuple[int | None, int | None, int | None],
    progress: Callable[[Progress], None],
    tolerance_s: float,
    most: float,
    rewind: bool,
    topics: Topics | None,
) -> Backfilled:
    began = time.monotonic()
    planned, run = _plan(view, root, client, *wanted)
    if planned.error:
        raise FileNotFoundError(planned.error)
    log = log_of(client, view, topics) if view.stream else None
    if run is None:
        position = event_log.text(log.last(client)) if log is not None else "0-0"
        run = checkpoint.Journal(view, planned.end_us, planned.from_us, planned.buckets, position)
        run.begin(client)
        if not run.from_us:
            rejected_rows.forget(client, view)
    entity_index.take_over(client, keys_key(view.project, view.name))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            with contextlib.suppress(Exception):
                now = checkpoint.unfinished(client, view)
                if now is not None:
                    progress(Progress(view.name, len(now.done), now.buckets, sum(r for r, *_ in now.done.values())))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        for bucket, *done in _write(spark, view, root, url, run, tolerance_s, log):
            run.done[bucket] = (done[0], done[1], done[2], done[3])
    finally:
        ended.set()
        watcher.join()
    removed, spared = _remove_stale(client, view, run, 1.0 if rewind else most, rewind)
    rows, entities, rejected = (sum(d[k] for d in run.done.values()) for k in (0, 1, 3))
    newest_us = max((d[2] for d in run.done.values() if d[0]), default=None)
    seconds = time.monotonic() - began
    said: dict[str, Any] = {"seam_us": run.end_us, "at": int(time.time()), "fingerprint": view.fingerprint}
    if not run.from_us:
        said |= {"rows": rows, "entities": entities, "newest_us": newest_us or 0}
        said |= {} if run.resumed else {"seconds": f"{seconds:.3f}"}
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(view_key(view.project, view.name), mapping=said)
        pipe.hdel(view_key(view.project, view.name), "error", "failed_at")
        pipe.execute()
    run.end(client)
    progress(Progress(view.name, run.buckets, run.buckets, rows))
    return Backfilled(view.name, rows, entities, newest_us, seconds, None, removed, run.resumed, False, rejected, spared)


def _events(spark: SparkSession, view: View, root: Path, url: str, run: Journal, tolerance_s: float, log: Log | None) -> DataFrame:
    """What the view's entities are made of: offline events known by the end, live ones known after it."""
    from pyspark.sql import functions as F

    events = read_events(spark, view, root, run.end_us - view.reach_us if view.layout else None, run.end_us).where(
        F.col(KNOWN) <= run.end_us
    )
    nobodys = events.where(F.col(WHY).isNotNull() & (F.col(KNOWN) > run.from_us))
    nobodys = nobodys.where(reduce(or_, (F.col(name).isNull() for name in view.key_names)))
    changed = events.where(F.col(KNOWN) > run.from_us).select(*view.key_names).distinct() if run.from_us else None
    if log is not None and run.position != "0-0":
        later = event_log.frame(spark, view, url, run.end_us, stream_id(run.position), events.drop(WHY), log, tolerance_s)
        events = events.unionByName(later.withColumn(WHY, F.lit(None).cast("string")))
    if changed is not None:
        events = events.join(changed, view.key_names, "left_semi").unionByName(nobodys)
    return events


def _write(
    spark: SparkSession, view: View, root: Path, url: str, run: Journal, tolerance_s: float, log: Log | None
) -> list[tuple[int, ...]]:
    """Write the buckets that are left; `(bucket, rows, entities, newest event time, rows rejected)` of each that had events."""
    from pyspark.sql import functions as F

    events = _events(spark, view, root, url, run, tolerance_s, log)
    names, key, index = events.columns, run.key, run.index
    main, end_us, position = keys_key(view.project, view.name), run.end_us, stream_id(run.position)

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # one partition is one bucket: one connection, and its entities must fit into memory
        from streaming.online.writer import overwrite

        table = pa.Table.from_batches(batches) if (batches := list(batches)) else None  # type: ignore[assignment]
        if table is None or not len(table):
            return
        (bucket,) = table[_BUCKET].unique().to_pylist()
        client = connect(url)
        try:
            later = event_log.since(client, view, end_us, tolerance_s, log) if log is not None else None
            found = rejected_rows.sort_out(view, table.select(names))
            ordered, rejected = canonical(found.table), found.rejected

            def put() -> int:
                return overwrite(view, OnlineStore(client), ordered, (main, index), end_us, position, later)

            try:
                entities = put()
            except Exception as error:
                if of_the_store(error):
                    raise
                found = rejected_rows.culprits(view, ordered)
                if not found.rejected:  # no row is to blame
                    raise
                ordered, rejected = found.table, [*rejected, *found.rejected]
                entities = put()
            rejected_rows.put(client, view, rejected)
            newest = max(ordered[EVENT].to_pylist(), default=0)
            done = (len(ordered), entities, newest, len(rejected))
            checkpoint.note(client, key, index, bucket, done)
        finally:
            client.close()
        yield pa.RecordBatch.from_pydict({"bucket": [bucket], **{name: [n] for name, n in zip(_DONE, done, strict=True)}})

    bucket = F.pmod(F.hash(*view.key_names), F.lit(run.buckets))
    events = events.withColumn(_BUCKET, bucket)
    if run.done:
        events = events.where(F.col(_BUCKET).isin(run.remaining()))
    # Spark partitions by the same hash, so that a partition is a bucket
    split = events.repartition(run.buckets, *view.key_names)
    done = split.mapInArrow(write, ", ".join(f"{name} bigint" for name in ("bucket", *_DONE))).collect()
    return [tuple(d) for d in done]


def _remove_stale(client: redis.Redis, view: View, run: Journal, most: float, rewind: bool) -> tuple[int, str]:
    """Remove the view's fields from entities that neither the offline store nor the stream knows any more. Returns how many lost them.

    If they are more than the share `most` of the entities that hold the view, none is removed, and a sentence says so. An entity that the
    stream has moved on is kept. A rewind deletes the stream's events, so there even an entity that only live events knew is removed.
    """
    if run.from_us:
        return 0, ""
    index, store, position = keys_key(view.project, view.name), OnlineStore(client), stream_id(run.position)

    def moved_on(header: bytes) -> bool:
        try:
            return not rewind and bool(header) and tiles.read_header(header).position > position
        except tiles.TileError:
            return False

    fields, total, stale = view_fields(view), 0, 0
    for keys in entity_index.members(client, index):
        total += len(keys)
    going = []
    for keys in entity_index.members(client, index, run.index):
        headers = [(blob or b"")[: tiles.HEADER_SIZE] for blob in store.read(keys, fields[0])] if keys else []
        going += [key for key, header in zip(keys, headers, strict=True) if not moved_on(header)]
    stale = len(going)
    if stale > most * total:
        return 0, f"{stale:,} of {total:,} entities are unknown to the offline store and were kept"
    return store.drop(index, going, fields, moved_on) if going else 0, ""


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line and not line.startswith(("File", "at "))]
    return (named or lines or [type(error).__name__])[-1][:500]
