"""Killed, raced and repeated: what lies in the store afterwards is what the oracle says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pyarrow as pa
import pytest

from feature_repo.records.redis_keys import events_key, journal_key, keys_key, view_key
from infra.settings import ROOT, Settings
from infra.supervision import process, redis_server
from infra.timestamps import moment_at
from streaming import clock
from streaming.aggregation.windows import DAY, HOUR
from streaming.backfill.run import backfill, plan
from streaming.live import dead_letters, event_log
from streaming.live.connectors import put
from streaming.live.event_log import SCHEMA
from streaming.live.share import Share
from streaming.live.sink import apply_batch, merge
from streaming.online import entity_index
from streaming.online.entities import key_function
from streaming.online.lease import HeldError, hold
from streaming.online.retention import Swept, sweep
from streaming.online.store import OnlineStore, connect
from streaming.online.unfilled import unfilled_views
from streaming.schema.json_row import moment_us
from tests.indexed import indexed
from tests.streaming.world import START, World, produce, views, wait_applied

SEAM = START + 2 * DAY
END = START + 3 * DAY + 2 * HOUR


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    made, root = World(rows=30_000, users=400), tmp_path_factory.mktemp("world")
    made.write(root, SEAM)
    return made, root


@pytest.fixture
def project() -> str:
    return f"w{uuid.uuid4().hex[:10]}"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """A Redis and a state folder of the test's own, which it may kill."""
    made = Settings(state=tmp_path / "state", redis_url="")
    redis_server.up(made)
    yield made
    for child in Engine.started:
        if child.poll() is None:
            child.kill()
            child.wait()
    Engine.started.clear()
    process.stop(made, redis_server.NAME)


class Engine:
    """One engine in a process of its own; `Engine.started` is what a failed test leaves behind."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, own: Settings, what: str, root: Path, project: str, end: int = SEAM, tasks: int = 1) -> None:
        environment = os.environ | {"HEADRACE_STATE": str(own.state), "HEADRACE_SPARK_MEMORY": "600m", "PYTHONPATH": str(ROOT)}
        environment["HEADRACE_STREAM_TASKS"] = str(tasks)
        argv = [sys.executable, "-m", "tests.streaming.world", what, own.redis(), str(root), project, str(end)]
        self.log = own.state / f"{what}-{uuid.uuid4().hex[:6]}.log"
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        Engine.started.append(self.child)

    def wait_ready(self) -> None:
        self.wait_for("ready")

    def wait_for(self, word: str, timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while word not in self.log.read_text():
            assert self.child.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of the driver; its JVM and workers notice and end."""
        family = psutil.Process(self.child.pid).children(recursive=True)
        self.child.kill()
        self.child.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, alive

    def end(self) -> str:
        self.child.wait(timeout=180)
        return self.log.read_text()


def both(world: World, client: Any, project: str, upto_us: int) -> None:
    for view in views(project):
        world.check(client, view, upto_us, upto_us)
        world.check(client, view, upto_us, upto_us + 5 * HOUR)


def test_a_backfill_killed_at_any_moment_goes_on_and_ends_as_if_it_had_not_been(
    own: Settings, world: tuple[World, Path], project: str, redis_url: str
) -> None:
    made, root = world
    client = connect(own.redis())
    first = Engine(own, "backfill", root, project)
    while len(client.hgetall(journal_key(project, "latest"))) < 7:  # two parts are done
        assert first.child.poll() is None, first.end()
        time.sleep(0.005)
    first.kill()
    done = len([k for k in client.hgetall(journal_key(project, "latest")) if k.startswith(b"done:")])  # type: ignore[union-attr]
    assert done >= 1
    second = Engine(own, "backfill", root, project)
    second.wait_ready()
    time.sleep(1.5)
    if second.child.poll() is None:
        second.kill()
    said = Engine(own, "backfill", root, project).end()
    assert "error=None" in said
    assert "held=True" not in said
    both(made, client, project, SEAM)
    assert not client.exists(journal_key(project, "latest"), journal_key(project, "windows"))


@pytest.mark.integration
def test_of_two_backfills_at_once_one_works_and_the_other_says_so(own: Settings, world: tuple[World, Path], project: str) -> None:
    made, root = world
    client = connect(own.redis())
    engines = [Engine(own, "backfill", root, project) for _ in range(2)]
    said = "".join(e.end() for e in engines)
    assert said.count("error=None") >= 2, said
    both(made, client, project, SEAM)
    view = views(project)[0]
    with hold(client, view), pytest.raises(HeldError, match=f"process {os.getpid()} "), hold(client, view):
        pass


def batch(rows: list[bytes], first: int) -> Any:
    n = len(rows)
    return pa.table([[first + i for i in range(n)], [0] * n, ["things"] * n, rows, [""] * n], schema=SCHEMA)


def test_a_backfill_beside_the_running_stream_loses_and_doubles_nothing(
    redis_url: str, spark: Any, world: tuple[World, Path], project: str
) -> None:
    """The stream runs ahead of, during and after the backfill; the store ends as if there had only ever been one of them."""
    made, root = world
    client = connect(redis_url)
    store, compiled = OnlineStore(connect(redis_url)), views(project)
    live = list(made.rows_known(SEAM, END))
    pipe, first = client.pipeline(transaction=False), 1_000_000

    def stream() -> None:
        at = 0
        while at < len(live):
            some = live[at : at + 200]
            for i, data in enumerate(some):
                pipe.xadd(events_key(project), {"source": "things", "data": data}, id=f"{first + at + i}-0")
            pipe.execute()
            for task in range(2):
                apply_batch(compiled, store, batch(some, first + at), share=Share(task, 2))
            at += len(some)
            time.sleep(0.01)

    thread = threading.Thread(target=stream)
    thread.start()
    time.sleep(0.3)
    results = backfill(spark, compiled, root, redis_url, SEAM)
    again = backfill(spark, compiled, root, redis_url, SEAM)
    thread.join()
    assert not [r.error for r in (*results, *again) if r.error]
    both(made, client, project, END)
    # once more when all is quiet: nothing changes, and nothing of what the stream brought is lost
    backfill(spark, compiled, root, redis_url, SEAM)
    both(made, client, project, END)
    client.delete(events_key(project))


@pytest.mark.parametrize("victim", ["driver", "worker", "redis"])
def test_the_stream_survives_the_death_of(victim: str, own: Settings, world: tuple[World, Path], project: str, redis_url: str) -> None:
    made, root = world
    client = connect(own.redis())
    engine = Engine(own, "stream", root, project, tasks=2)
    # the offline half comes through the stream too: everything from the beginning
    rows = list(made.rows_known(0, END))[:20_000]
    producer = threading.Thread(target=produce, args=(client, project, iter(rows)))
    engine.wait_ready()
    producer.start()
    for _ in range(2):
        time.sleep(2.5)
        if victim == "driver":
            engine.kill()
            engine = Engine(own, "stream", root, project, tasks=2)
            engine.wait_ready()
        elif victim == "worker":
            workers: list[psutil.Process] = []
            while not workers:
                assert engine.child.poll() is None
                workers = [p for p in psutil.Process(engine.child.pid).children(recursive=True) if "python" in p.name()]
            for worker in workers:
                worker.kill()
        else:
            running = process.alive(own, redis_server.NAME)
            assert running is not None
            os.kill(running.pid, signal.SIGKILL)
            time.sleep(0.5)
            redis_server.up(own)
    producer.join()
    wait_applied(client, project)
    engine.child.terminate()
    said = engine.end()
    assert engine.child.returncode == 0, said[-2000:]
    if victim == "worker":
        assert "next try in" in said
    both(made, client, project, moment_us(json.loads(rows[-1])["known"], "known"))


def test_a_rewind_forgets_entities_that_only_live_events_knew(redis_url: str, spark: Any, world: tuple[World, Path], project: str) -> None:
    """What they had would be taken for had already when the same days are played again."""
    _, root = world
    client, compiled = connect(redis_url), views(project)

    def held() -> dict[str, set[bytes]]:
        return {v.name: indexed(client, keys_key(project, v.name)) for v in compiled}  # type: ignore[misc]

    backfill(spark, compiled, root, redis_url, SEAM)
    before = held()
    at = moment_at(SEAM + HOUR).isoformat()
    apply_batch(
        compiled,
        OnlineStore(client),
        batch([json.dumps({"user": 1_234_567, "kind": "a", "at": at, "known": at, "x": 1.5, "label": "l"}).encode()], 1_000_000),
    )
    assert all(len(now) == len(before[name]) + 1 for name, now in held().items())
    done = backfill(spark, compiled, root, redis_url, SEAM, rewind=True)
    assert [(d.error, d.removed) for d in done] == [(None, 1)] * len(compiled)
    assert held() == before


def test_a_rejected_event_is_kept_once_and_replayed_only_to_who_refused_it(redis_url: str, project: str) -> None:
    client, compiled = connect(redis_url), views(project)
    store = OnlineStore(client)
    good = b'{"user": 1, "kind": "a", "at": "2020-09-13T00:00:00Z", "known": "2020-09-13T00:00:01Z", "x": 1.5, "label": "l"}'
    bad = b'{"user": 1, "kind": "a", "at": "2020-09-13T00:01:00Z", "known": "2020-09-13T00:01:01Z", "x": "much", "label": "l"}'
    for _ in range(2):  # the same batch again, as after a crash
        apply_batch(compiled, store, batch([good, bad], 1_000))
    (letter,) = dead_letters.read(client, project)
    assert (letter.source, letter.data, set(letter.why)) == ("things", bad, {"latest", "windows"})
    assert dead_letters.replay(client, project) == 1
    assert dead_letters.count(client, project) == 0
    ((_, fields),) = client.xrange(events_key(project))  # type: ignore[misc]
    assert (fields[b"data"], fields[b"only"]) == (bad, b"latest,windows")
    client.delete(events_key(project))


def test_events_from_a_file_read_twice_are_on_the_stream_once(redis_url: str, project: str) -> None:
    client = connect(redis_url)
    rows = [(i, "things", b'{"i": %d}' % i) for i in range(1_200)]
    assert put(client, project, "file-1", rows[:700]) == 700
    assert put(client, project, "file-1", rows) == 500
    assert put(client, project, "file-1", rows) == 0
    assert put(client, project, "file-2", rows[:3]) == 3
    assert client.xlen(events_key(project)) == 1_203
    client.delete(events_key(project))


def seen(user: int, day: int) -> bytes:
    return b'{"user": %d, "kind": "a", "at": "2020-09-%dT00:00:00Z", "x": 1.5, "label": "l"}' % (user, day)


def test_silent_entities_are_forgotten_and_read_the_same(redis_url: str, project: str) -> None:
    client, compiled = connect(redis_url), views(project)
    apply_batch(compiled, OnlineStore(client), batch([seen(1, 10), seen(2, 15), seen(3, 16), seen(2, 16)], 1_000))
    now = moment_us("2020-09-16T01:00:00Z", "now")
    assert sweep(client, compiled, now_us=now, dry_run=True) == [Swept("windows", 3, 1, 0)]
    assert sweep(client, compiled, now_us=now) == [Swept("windows", 3, 1, 1)]  # the latest-value view has no ttl: kept for ever
    assert entity_index.count(client, keys_key(project, "windows"))[0] == 2
    assert entity_index.count(client, keys_key(project, "latest"))[0] == 3
    assert sweep(client, compiled, now_us=now) == [Swept("windows", 2, 0, 0)]


@pytest.mark.parametrize("ahead", ["2031-01-01T00:00:00Z", "2020-09-20T00:00:00Z", 1_600_000_000_000])
def test_an_event_dated_ahead_of_the_clock_costs_no_entity_anything(redis_url: str, project: str, ahead: Any) -> None:
    """Its own entity keeps its windows, and the sweep forgets nobody."""
    client, compiled = connect(redis_url), views(project)
    store, windows = OnlineStore(client), compiled[1]
    now = moment_us("2020-09-16T00:10:00Z", "now")
    apply_batch(compiled, store, batch([seen(n, 16) for n in range(12)], 1_000), now_us=now)
    before = [client.hgetall(key_function(windows)(["a", n])) for n in range(12)]
    wrong = json.dumps({"user": 3, "kind": "a", "at": ahead, "x": 1.5, "label": "l"}).encode()
    newest = apply_batch(compiled, store, batch([wrong], 2_000), now_us=now)
    assert (newest, dead_letters.count(client, project)) == ({}, 1)
    assert sweep(client, compiled, now_us=now) == [Swept("windows", 12, 0, 0)]
    assert [client.hgetall(key_function(windows)(["a", n])) for n in range(12)] == before


def test_most_of_a_view_is_never_forgotten_at_once_unless_told_to(redis_url: str, project: str) -> None:
    client, compiled = connect(redis_url), views(project)
    apply_batch(compiled, OnlineStore(client), batch([seen(n, 10) for n in range(11)] + [seen(11, 16)], 1_000))
    now = moment_us("2020-09-16T01:00:00Z", "now")
    (left,) = sweep(client, compiled, now_us=now)
    assert (left, left.refused, str(left)) == (Swept("windows", 12, 11, 0), True, "windows: 11 of 12 entities are silent")
    assert entity_index.count(client, keys_key(project, "windows"))[0] == 12
    assert sweep(client, compiled, 1.0, now_us=now) == [Swept("windows", 12, 11, 11)]


def test_a_rehearsals_clock_counts_until_it_reaches_the_wall_clock(redis_url: str, project: str) -> None:
    client, compiled = connect(redis_url), views(project)
    apply_batch(compiled, OnlineStore(client), batch([seen(n, 10) for n in range(4)] + [seen(n, 16) for n in range(4, 10)], 1_000))
    assert [one.silent for one in sweep(client, compiled, dry_run=True)] == [10], "by the wall clock 2020 is long ago"
    clock.set_rehearsal(client, project, moment_us("2020-09-16T01:00:00Z", "now"))
    assert sweep(client, compiled) == [Swept("windows", 10, 4, 4)]
    clock.set_rehearsal(client, project, clock.wall_us() * 2)
    assert clock.now_us(client, project) <= clock.wall_us()


def test_a_rehearsal_ends_with_a_backfill_that_names_no_moment(spark: Any, redis_url: str, project: str, world: tuple[World, Path]) -> None:
    """Its clock would stand still for ever: of what comes later, nothing would be forgotten any more."""
    client, compiled, root = connect(redis_url), views(project), world[1]
    backfill(spark, compiled, root, redis_url, SEAM, rewind=True)
    backfill(spark, compiled, root, redis_url, SEAM, from_us=SEAM - HOUR)
    assert clock.rehearsal_us(client, project) == clock.now_us(client, project) == SEAM
    backfill(spark, compiled, root, redis_url, lookback_us=HOUR)
    assert clock.rehearsal_us(client, project) is None
    assert clock.wall_us() - clock.now_us(client, project) < 10_000_000


def test_a_store_that_has_lost_what_a_backfill_wrote_is_said_to(redis_url: str, project: str, tmp_path: Path) -> None:
    """Live events go on, and make windows that look whole: nobody else would tell."""
    client, both = connect(redis_url), views(project)
    assert unfilled_views(client, both, tmp_path) == [], "no offline table: there is nothing to be filled with"
    (tmp_path / "things").mkdir()
    assert unfilled_views(client, both, tmp_path) == [], "nor in an empty one"
    (tmp_path / "things" / "part-0.parquet").touch()
    assert unfilled_views(client, both, tmp_path) == ["latest", "windows"]
    elsewhere = [replace(view, path=str(tmp_path / "things")) for view in both]
    assert unfilled_views(client, elsewhere, tmp_path / "root") == ["latest", "windows"], "a table lies where its source says"
    for view in both:
        client.hset(view_key(project, view.name), mapping={"seam_us": 1, "fingerprint": view.fingerprint})
    assert unfilled_views(client, both, tmp_path) == []
    client.delete(view_key(project, "windows"))
    assert unfilled_views(client, both, tmp_path) == ["windows"]
    client.set(view_key(project, "windows"), "of another type")
    assert unfilled_views(client, both, tmp_path) == ["windows"], "something else in its place is no backfill"
    client.delete(*(view_key(project, view.name) for view in both))


def test_trimming_needs_two_clocks_that_agree(redis_url: str, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock jumps ahead takes no applied event off the stream."""
    client, now_ms = connect(redis_url), time.time_ns() // 1_000_000
    key, hour = events_key(project), 3_600_000
    for i in range(300):
        client.xadd(key, {"source": "things", "data": seen(i, 16)}, id=f"{now_ms - 100 * hour + i * hour // 3}-0")
    entries = next(event_log.entries(client, key, "0-0", "+"))
    monkeypatch.setattr(time, "time_ns", lambda: (now_ms + 24 * 3650 * hour) * 1_000_000)
    merge(client, views(project), [entries.slice(0, 10)], keep_s=48 * 3600)
    assert client.xlen(key) == 300
    merge(client, views(project), [entries.slice(10)], keep_s=48 * 3600)
    assert 140 <= client.xlen(key) < 300, "only what is older than two days by the clock of Redis too"
    client.delete(key)


def test_a_backfill_to_a_moment_ahead_of_the_clock_is_refused(redis_url: str, project: str, tmp_path: Path) -> None:
    """Its seam would make the stream pass over everything until then."""
    planned = plan(views(project), tmp_path, connect(redis_url), clock.wall_us() + 400_000_000)
    assert all("ahead of the clock" in str(p.error) for p in planned)
