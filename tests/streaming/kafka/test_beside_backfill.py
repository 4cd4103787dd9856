"""The streaming query that reads Kafka, with a backfill beside it: together they hold every event once."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from feature_repo.records.redis_keys import applied_kafka_key
from streaming.aggregation.windows import DAY
from streaming.backfill.run import backfill
from streaming.kafka import cuts, turn
from streaming.kafka.client import Topics
from streaming.kafka.kafka_log import KafkaLog
from streaming.live.workers import forget_dead
from streaming.online.store import connect
from streaming.status import kafka_state, view_states
from tests.streaming.kafka.test_turn import END, put
from tests.streaming.world import START, World, views


def events_applied(client: Any, project: str) -> int:
    return int(client.hget(applied_kafka_key(project), "events") or 0)


@pytest.mark.integration
def test_a_backfill_beside_the_stream_counts_every_event_once(kafka: Any, spark: Any, redis_url: str, tmp_path: Path) -> None:
    """Its worker is killed in between, as by a machine that runs out of memory."""
    project = f"k{uuid.uuid4().hex[:10]}"
    world, client, seam = World(1200, 30, seed=9), connect(redis_url), START + 3 * DAY // 2
    world.write(tmp_path / "tables", seam)
    known = [us // 1000 for us in world.table["known"].cast("int64").to_pylist()]
    rows = list(zip(known, world.rows_known(0, 2**60), strict=True))
    users = world.table["user"].to_pylist()
    kafka.make(project, 2)
    parts = [[row for row, user in zip(rows, users, strict=True) if user % 2 == part] for part in (0, 1)]
    topics = Topics({"bootstrap.servers": kafka.address}, {"things": project})
    for part in (0, 1):
        put(kafka, project, parts[part][:400], part)

    def wait(n: int) -> None:
        deadline = time.monotonic() + 90
        while events_applied(client, project) < n and time.monotonic() < deadline:
            time.sleep(0.1)
        assert events_applied(client, project) >= n

    def begin() -> Any:
        return turn.start(spark, redis_url, views(project), topics, str(tmp_path / "checkpoint"))

    query = begin()
    wait(sum(len(part[:400]) for part in parts))
    (first,) = [d for d in backfill(spark, views(project)[:1], tmp_path / "tables", redis_url, topics=topics) if not d.error]
    for part in (0, 1):
        put(kafka, project, parts[part][400:], part)
    mine = {p.pid for p in psutil.Process().children(recursive=True)}
    named = [(p, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"]) if p.pid in mine]
    workers = [p for p, line in named if "pyspark.worker" in line or "pyspark.daemon" in line or "streaming.live.worker" in line]
    assert workers
    for one in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    time.sleep(1)
    forget_dead(spark)
    if not query.isActive:  # `streaming.live.query.run` starts it again
        query = begin()
    wait(1200)
    log = KafkaLog(project, topics)
    assert sum(len(b) for b in log.read(client, (0, 0), log.last(client))) == 1200
    done = backfill(spark, views(project), tmp_path / "tables", redis_url, topics=topics)
    assert [d.error for d in done] == [None, None]
    query.stop()
    assert first.view == "latest"
    for view in views(project):
        world.check(client, view, END, END, entities=30)
    state = kafka_state(client, project)
    assert state is not None
    assert (state.events, state.waiting) == (1200, 0)
    assert [v.newest_us for v in view_states(client, views(project))] == [max(world.table["at"].cast("int64").to_pylist())] * 2
    backfill(spark, views(project), tmp_path / "tables", redis_url, end_us=seam, rewind=True, topics=topics)
    for view in views(project):
        world.check(client, view, seam, seam, entities=30)
    assert cuts.applied(client, project) == cuts.place(client, project).number
