"""The stream over one task and over several, by turns: events a second, and the CPU time an event takes, by who spends it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import psutil

from feature_repo.records.redis_keys import applied_key, events_key
from infra.settings import Settings
from streaming.online.store import connect, stream_id
from streaming.schema.feature_view import View
from tests.bench.report import Measurement

TASKS = (1, 2, 4)
ROUNDS = 3
QUEUED = 300_000
WHO = ("tasks", "Spark", "Redis")


Put = Callable[[Any, str, int, int], None]
"""Puts so many events on the stream, from a number on."""


def compare_tasks(own: Settings, spark: Any, views: list[View], put: Put, scale: float, told: Callable[[str], None]) -> list[Measurement]:
    client, queued = connect(own.redis()), max(100_000, round(QUEUED * scale) // 10_000 * 10_000)
    rates, costs = defaultdict(list), defaultdict(list)
    for number in range(ROUNDS):
        for tasks in TASKS:
            told(f"round {number + 1} of {ROUNDS}: {queued:,} events, {tasks} tasks")
            rate, cost = _catch_up(own, spark, views, client, queued, tasks, put)
            rates[tasks].append(rate)
            for who in WHO:
                costs[tasks, who].append(cost[who])
    made = []
    for tasks in TASKS:
        ratio = median(several / one for several, one in zip(rates[tasks], rates[1], strict=True))
        spent = {who: median(costs[tasks, who]) for who in WHO}
        shown = ", ".join(f"{who} {us:.1f}" for who, us in spent.items())
        what = f"{tasks} task{'s' * (tasks > 1)}"
        said = f"{ratio:.2f} x one task, the median of {ROUNDS} rounds by turns" if tasks > 1 else f"{queued:,} events"
        made += [
            Measurement(f"catching up, {what}", "events/s", median(rates[tasks]), more=True, note=said),
            Measurement(f"CPU of an event, {what}", "us", sum(spent.values()), note=shown),
        ]
    return made


def _catch_up(
    own: Settings, spark: Any, views: list[View], client: Any, queued: int, tasks: int, put: Put
) -> tuple[float, dict[str, float]]:
    """Events a second and microseconds of CPU an event, from the first batch's end on: what a start costs is no matter here."""
    from streaming.live.query import start

    key, project = events_key("bench"), applied_key("bench")
    for at in range(0, queued, 10_000):
        put(client, key, 10_000, at)
    last = stream_id(client.xrevrange(key, count=1)[0][0])
    before = int(client.hget(project, "events") or 0)
    query = start(spark, own.redis(), views, str(own.state / "checkpoint"), tasks=tasks)
    try:
        while (first := int(client.hget(project, "events") or 0)) == before:
            time.sleep(0.005)
        began, spent = time.monotonic(), _cpu(client)
        while stream_id(client.hget(project, "id")) < last:
            time.sleep(0.005)
            if time.monotonic() - began > 300:
                raise TimeoutError("the stream does not catch up")
        seconds, after = time.monotonic() - began, _cpu(client)
    finally:
        query.stop()
    events = int(client.hget(project, "events")) - first
    return events / seconds, {who: (after[who] - spent[who]) / events * 1e6 for who in WHO}


def _cpu(client: Any) -> dict[str, float]:
    """Seconds of CPU so far."""
    found = dict.fromkeys(WHO, 0.0)
    for process in _below(psutil.Process()):
        try:
            spent, name = process.cpu_times(), process.name()
        except psutil.NoSuchProcess:
            continue
        found["Spark" if "java" in name else "tasks"] += spent.user + spent.system
    said = client.info("cpu")
    found["Redis"] = said["used_cpu_user"] + said["used_cpu_sys"]
    return found


def _below(me: psutil.Process) -> Iterator[psutil.Process]:
    for process in me.children(recursive=True):
        if "redis" not in process.name():
            yield process
