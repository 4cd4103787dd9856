"""The live stream: from an event's acceptance to the moment it can be read, at a steady rate; how fast it catches up; what it needs."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from feature_repo.records.redis_keys import applied_key, events_key
from infra.settings import Settings
from infra.supervision import redis_server
from streaming.online.store import connect, stream_id
from tests.bench.features.data import latest_view, whole, windowed_view
from tests.bench.features.stream_tasks import compare_tasks
from tests.bench.measure import memory
from tests.bench.report import Measurement

RATE = 2_000
ENTITIES = 10_000
WARM_S = 8.0
LOOKED = 40
"""Events a second of which the time to being readable is taken."""
QUEUED = 500_000


def run(own: Settings, scale: float, seconds: float, told: Callable[[str], None]) -> list[Measurement]:
    from streaming.live.query import start
    from streaming.offline.spark import session

    redis_server.up(own)
    views = [windowed_view("windows", "things", 5, "things"), latest_view("latest", 1, "things")]
    spark = session(own, quick=True)
    told("starting the query")
    query = start(spark, own.redis(), views, str(own.state / "checkpoint"), tasks=own.tasks_of_stream)
    client, key = connect(own.redis()), events_key("bench")
    _put(client, key, 200, 0)
    _caught_up(client, key)
    with memory() as used:
        _steady(own, views, WARM_S, told)  # not measured: the JVM compiles, the workers start
        first = used.sample()
        latencies = _steady(own, views, seconds, told)
        last = used.sample()
        queued = round(QUEUED * scale)
        told(f"catching up with {queued:,} events")
        query.stop()
        for at in range(0, queued, 10_000):
            _put(client, key, 10_000, at)
        query = start(spark, own.redis(), views, str(own.state / "checkpoint"), tasks=own.tasks_of_stream)
        began = time.monotonic()
        _caught_up(client, key)
        rate = queued / (time.monotonic() - began)
    query.stop()
    by_tasks = compare_tasks(own, spark, views, _put, scale, told)
    percentiles = np.quantile(latencies, [0.5, 0.99, 1.0])
    what = f"{RATE:,} events/s for {seconds:.0f} s, {ENTITIES:,} entities, a windowed view of {len(views[0].features)} features and a latest-value one"
    return [
        Measurement(f"accepted -> readable, p50; {what}", "s", float(percentiles[0]), note=f"{len(latencies):,} events looked for"),
        Measurement("accepted -> readable, p99", "s", float(percentiles[1])),
        Measurement("accepted -> readable, longest", "s", float(percentiles[2])),
        Measurement(f"catching up, {queued:,} events into both views, start of the query included", "events/s", rate, more=True),
        Measurement("memory at the start of the steady load, all processes", "GiB", first),
        Measurement("memory at its end", "GiB", last),
        Measurement("memory, peak", "GiB", used.peak),
        *by_tasks,
    ]


def _event(user: int, x: float) -> bytes:
    now = datetime.now(UTC).isoformat()
    return json.dumps({"user_id": user, "event_timestamp": now, "created_timestamp": now, "f0": x}).encode()


def _put(client: object, key: str, n: int, at: int) -> None:
    users = np.random.default_rng(at).integers(0, ENTITIES, n).tolist()
    with client.pipeline(transaction=False) as pipe:  # type: ignore[attr-defined]
        for i, user in enumerate(users):
            pipe.xadd(key, {"source": "things", "data": _event(user, float(at + i))})
        pipe.execute()


def _caught_up(client: object, key: str, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    last = client.xrevrange(key, count=1)[0][0]  # type: ignore[attr-defined]
    while time.monotonic() < deadline:
        done = client.hget(applied_key("bench"), "id")  # type: ignore[attr-defined]
        if done and stream_id(done) >= stream_id(last):
            return
        time.sleep(0.01)
    raise TimeoutError("the stream does not catch up")


def _steady(own: Settings, views: list, seconds: float, told: Callable[[str], None]) -> list[float]:  # type: ignore[type-arg]
    """Put events at the rate; of some, look with the online reader until their value is there."""
    from serving.features.reader import OnlineReader

    ended, latencies = threading.Event(), []
    wanted: list[tuple[float, int, float]] = []

    def produce() -> None:
        client, key = connect(own.redis()), events_key("bench")
        random, began, sent, looked = np.random.default_rng(7), time.monotonic(), 0, -RATE
        while time.monotonic() - began < seconds:
            due = int((time.monotonic() - began) * RATE)
            if due <= sent:
                time.sleep(0.005)
                continue
            users = random.integers(0, ENTITIES, due - sent).tolist()
            with client.pipeline(transaction=False) as pipe:
                for i, user in enumerate(users):
                    pipe.xadd(key, {"source": "things", "data": _event(user, float(sent + i))})
                # an entity of its own, so that nothing comes after what is looked for
                pipe.xadd(key, {"source": "things", "data": _event(ENTITIES + sent, float(sent))})
                pipe.execute()
            if sent - looked >= RATE / LOOKED:  # the looking must not be what is measured
                wanted.append((time.monotonic(), ENTITIES + sent, float(sent)))
                looked = sent
            sent = due
        ended.set()

    async def look() -> None:
        reader = OnlineReader([whole(views[1])], own.redis(), 2.0)
        pending: list[tuple[float, int, float]] = []
        quiet = 0.0
        while not (ended.is_set() and not wanted and not pending):
            pending += [wanted.pop(0) for _ in range(len(wanted))]
            if pending:
                rows = await reader.read([{"user_id": user} for _, user, _ in pending], time.time_ns() // 1000)
                now = time.monotonic()
                there = rows.values[:, 0] == np.array([x for _, _, x in pending])
                latencies.extend(now - at for (at, _, _), ok in zip(pending, there, strict=True) if ok)
                pending = [p for p, ok in zip(pending, there, strict=True) if not ok]
                quiet = 0.0 if there.any() else quiet + 0.01
                if quiet > 60:
                    raise TimeoutError("events do not become readable")
            await asyncio.sleep(0.01)
        await reader.close()

    told(f"{RATE:,} events/s for {seconds:.0f} s")
    thread = threading.Thread(target=produce)
    thread.start()
    asyncio.run(look())
    thread.join()
    return latencies
