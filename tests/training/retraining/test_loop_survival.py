"""The loop's processes and its Redis, killed while requests and truths come in: nothing is lost, doubled or half done."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.records import contract, release
from feature_repo.records.decisions import Journal
from feature_repo.records.prediction import Label, Prediction
from feature_repo.records.redis_keys import label_log_key, prediction_log_key, tallies_key
from feature_repo.records.replica_tally import Count, Tally
from feature_repo.records.verdict import history
from infra.settings import ROOT, Settings
from infra.supervision import process, redis_server
from streaming.offline.archive import of
from streaming.online.store import connect
from tests.bikes.platform import Bikes
from training.gates.record import Checked, Gates, write_gates
from training.retraining.retrain import TRIGGER

MODEL, SECONDS = "turned_away", 40
LEARNING = """
learning:
  triggers: {schedule_days: 0.02, cooldown_days: 0, budget: 1000}
  stages:
    shadow: {samples: 20, labelled: 10, hours: 0}
    canary: {samples: 5, labelled: 5, hours: 0}
    share: 0.5
    probation: {samples: 10, labelled: 5, hours: 0}
"""


REACHED = {"triggered", "trained", "shadow", "canary", "promoted"}


@pytest.fixture
def own(bikes: Bikes, tmp_path: Path) -> Iterator[Settings]:
    """A checkout's state of its own, with the second use case's live version, and a Redis that may be killed."""
    shutil.copytree(bikes.case.folder, tmp_path / "repo")
    spec = tmp_path / "repo" / "models" / f"{MODEL}.yaml"
    spec.write_text(spec.read_text() + LEARNING)
    made = bikes.settings.model_copy(update={"state": tmp_path / "state", "repo": tmp_path / "repo", "redis_url": ""})
    shutil.copytree(bikes.settings.model_root / MODEL / str(bikes.contract.version), made.model_root / MODEL / "1")
    contract.write(made.model_root / MODEL / "1", msgspec.structs.replace(bikes.contract, version=1))
    release.promote(made.model_root, MODEL, 1)
    redis_server.up(made)
    yield made
    process.stop(made, redis_server.NAME)


class World:
    """Requests and truths that go on as the serving's log does: sent again until Redis has taken them."""

    def __init__(self, own: Settings, rows: Any) -> None:
        self.own, self.rows = own, rows
        self.names = contract.load(own.model_root / MODEL / "1").names
        self.sent: list[str] = []
        self.counted: dict[int, tuple[int, int]] = {}
        self.ended = threading.Event()
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            # their time goes by faster than ours, and what is ahead of the clock is refused: so it begins two months ago
            client, at = connect(self.own.redis()), time.time_ns() // 1000 - 60 * 86_400_000_000
            while not self.ended.is_set():
                at += 60_000_000  # a minute of their time
                self._until(lambda at=at: self._send(client, at))
                time.sleep(0.02)
        except BaseException as error:
            self.errors.append(error)

    def _until(self, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
                return
            except redis.RedisError:
                time.sleep(0.1)

    def _send(self, client: Any, at: int) -> None:
        now = release.read(self.own.model_root, MODEL)
        assert now is not None
        i = at // 60_000_000 % self.rows.num_rows
        row = self.rows.slice(i, 1).to_pylist()[0]
        values = [None if row[n] is None else float(row[n]) for n in self.names]
        number = f"{at // 1000:012x}"
        number = f"{number[:8]}-{number[8:]}-7000-8000-000000000000"
        version = now.answers(str(i).encode())
        entries = [Prediction(number, MODEL, version, at, at, {}, values, "f" * len(values), {}, 0.3)]
        if version != now.champion:
            entries[0] = msgspec.structs.replace(entries[0], role="canary")
        if now.shadow is not None:
            shadow = {"id": number[:-1] + "1", "version": now.shadow, "role": "shadow", "of": number}
            entries.append(msgspec.structs.replace(entries[0], **shadow))
        with client.pipeline(transaction=False) as pipe:
            for one in entries:
                pipe.xadd(prediction_log_key("bikes"), {"p": msgspec.json.encode(one)})
            pipe.hset(tallies_key("bikes"), "replica", self._tally(now, entries))
            pipe.xadd(label_log_key("bikes"), {"l": msgspec.json.encode(Label(MODEL, number, int(row["turned_away"]), at + 1))})
            pipe.execute()
        self.sent += [one.id for one in entries if one.id not in self.sent[-4:]]

    def _tally(self, now: release.Release, entries: list[Prediction]) -> bytes:
        """As a replica counts; a step that is sent again counts again, which a real one never does, and harms nobody here."""
        for one in entries:
            n, shadow = self.counted.get(one.version, (0, 0)), one.role == "shadow"
            self.counted[one.version] = (n[0] + (not shadow), n[1] + shadow)
        counts = {v: Count(n, n, 0, [n, n], shadows) for v, (n, shadows) in self.counted.items()}
        return msgspec.json.encode(Tally("test", 0, time.time_ns() // 1000, [1.0], {MODEL: counts}))


class Loop:
    """`headrace autopilot` and `headrace watch` as processes; a training is a copy of the live version, made in no time."""

    def __init__(self, own: Settings) -> None:
        self.environment = os.environ | {
            "HEADRACE_STATE": str(own.state),
            "HEADRACE_REPO": str(own.repo),
            "HEADRACE_DETECTOR": "scipy",
            "HEADRACE_EQUALITY_EVERY_S": "0",
        }
        self.environment.pop("HEADRACE_REDIS_URL", None)
        self.commands = {
            "autopilot": [sys.executable, "-m", "tests.training.retraining.test_loop_survival"],
            "watch": [sys.executable, str(ROOT / "headrace.py"), "watch", MODEL, "--window", "120", "--step", "40"],
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.log = own.state / "loop.log"

    def start(self, name: str) -> None:
        with self.log.open("ab") as log:
            command = self.commands[name]
            self.running[name] = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> None:
        os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running[name].wait()

    def stop(self) -> None:
        for child in self.running.values():
            child.terminate()
        for child in self.running.values():
            child.wait(90)


def test_processes_and_redis_killed_at_random_lose_and_double_nothing(own: Settings, bikes: Bikes) -> None:
    rows = pq.read_table(bikes.training_set.path)
    rows = rows.filter(pc.is_valid(rows["turned_away"]))
    world, loop, choose = World(own, rows), Loop(own), random.Random(4)
    for name in loop.commands:
        loop.start(name)
    feeder = threading.Thread(target=world.run)
    feeder.start()
    kills, deadline = {"autopilot": 0, "watch": 0, "redis": 0}, time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            time.sleep(choose.uniform(2.0, 5.0))
            victim = choose.choice(list(kills))
            kills[victim] += 1
            if victim == "redis":
                running = process.alive(own, redis_server.NAME)
                assert running is not None
                os.kill(running.pid, signal.SIGKILL)
                time.sleep(0.5)
                redis_server.up(own)
            else:
                loop.kill(victim)
                loop.start(victim)
            now = release.read(own.model_root, MODEL)
            assert now is not None
            for version in now.versions:
                contract.load(own.model_root / MODEL / str(version))  # whatever has a role is whole
        # and left alone, it gets where it was going, on however slow a machine
        steps, deadline = set[str](), time.monotonic() + 240
        while not (steps >= REACHED and history(own, MODEL)) and time.monotonic() < deadline:
            time.sleep(1)
            steps = {d.step for d in Journal(own.state, MODEL).read()}
    finally:
        world.ended.set()
        feeder.join()
        loop.stop()
    assert not world.errors
    assert min(kills.values()) >= 1, kills
    client = connect(own.redis())
    archive = of(own, "bikes")
    archive.run(client)
    kept = archive.predictions(MODEL)["prediction_id"].to_pylist()
    assert sorted(kept) == sorted(world.sent), (len(kept), len(world.sent))
    answered = {number for number in world.sent if number.endswith("0")}
    truths = archive.labels(MODEL)["prediction_id"].to_pylist()
    assert sorted(truths) == sorted(answered)
    verdicts = [v.id for v in history(own, MODEL)]
    assert verdicts, loop.log.read_text()[-3000:]
    assert len(set(verdicts)) == len(verdicts)
    decisions = [d.id for d in Journal(own.state, MODEL).read()]
    assert len(set(decisions)) == len(decisions)
    assert steps >= REACHED, loop.log.read_text()[-3000:]
    now = release.read(own.model_root, MODEL)
    assert now is not None
    assert len(now.history) == len({(s.at, s.what) for s in now.history})


def _autopilot() -> None:
    """The autopilot's process, with a training that takes no time."""
    from feature_repo.spec.use_case import UseCase
    from infra.cli import own_settings
    from training.retraining.autopilot import Autopilot, run
    from training.retraining.retrain import find
    from training.retraining.triggers import Reason

    own = own_settings()

    def train(reason: Reason, as_of_us: int, left_out: Any) -> Gates:
        root, version = own.model_root / MODEL, find(own, MODEL, reason.id)
        if version is None:
            version = 1 + max(int(p.name) for p in root.iterdir() if p.name.isdigit())
            partial = root / f".new{version}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(root / "1", partial)
            made = contract.load(partial)
            training_set = {**made.training_set, "known_upto_us": as_of_us}
            changed = {"version": version, "provenance": {TRIGGER: reason.id}, "training_set": training_set}
            contract.write(partial, msgspec.structs.replace(made, **changed))
            partial.rename(root / str(version))
        gates = Gates(version, release.champion(own.model_root, MODEL), [Checked("test", True, "by the test")])
        write_gates(own, MODEL, gates)
        return gates

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run(Autopilot(connect(own.redis()), own, UseCase(own.repo), MODEL, train), 0.2, stop)


if __name__ == "__main__":
    _autopilot()
