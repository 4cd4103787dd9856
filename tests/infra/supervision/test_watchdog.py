"""Who hangs is ended and started again, and nobody else: not who stands still for a moment, starts for long, or has no Redis."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import ROOT, Settings
from infra.supervision import process, redis_server, supervisor, watchdog
from infra.supervision.launch import MARK, SELF, asked_path, watched_path
from infra.supervision.redis_probe import Probe, Probes
from infra.supervision.watchdog import Patience, Watchdog
from tests.infra.supervision.test_supervisor import own as _own
from tests.infra.supervision.test_supervisor import row, within

pytestmark = pytest.mark.integration

own = _own
BOUND_S = 8.0
# a part of the platform, with a Redis that is away for ever
PART = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from infra.supervision.beat import Pulse
with Pulse("redis://127.0.0.1:1", "p", "part", 0.2) as pulse:
    time.sleep(float(sys.argv[1]))
    print("up", flush=True)
    while True:
        time.sleep(0.1)
        pulse.beat("Redis does not answer")
"""


def begin(settings: Settings, starts_s: float = 0.0, name: str = "part") -> process.Running:
    log = process.log_path(settings, name)
    argv = [sys.executable, "-c", PART, str(starts_s)]
    return process.start(settings, name, argv, lambda: log.exists() and "up" in log.read_text(), 60)


def test_one_that_hangs_is_started_again_with_its_cause_and_the_others_are_left_alone(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HUNG_S", BOUND_S)
    hangs, pauses, starts = begin(own), begin(own, name="pauses"), begin(own, 1.5 * BOUND_S, name="starts")
    psutil.Process(pauses.pid).suspend()
    time.sleep(4)
    psutil.Process(pauses.pid).resume()
    assert psutil.Process(hangs.pid).status() != psutil.STATUS_STOPPED
    began = time.monotonic()
    os.kill(hangs.pid, signal.SIGSTOP)
    again = within(60, lambda: (found := process.alive(own, "part")) and found.pid != hangs.pid and found)
    assert time.monotonic() - began > BOUND_S
    found = within(30, lambda: (r := row(own, "part"))["state"] == "running" and r)
    assert (found["restarts"], found["last_end"][:11]) == (1, "silent for "), found
    log = process.log_path(own, "part").read_text()
    assert "started again: the run before was silent for" in log
    within(30, lambda: process.log_path(own, "part").read_text().count("up") == 2)
    time.sleep(1.2 * BOUND_S)
    assert process.alive(own, "part") == again, "it works again, and nobody ends it"
    assert [process.alive(own, n) for n in ("pauses", "starts")] == [pauses, starts]
    psutil.Process(again.pid).kill()
    within(30, lambda: (r := row(own, "part"))["restarts"] == 2 and r["state"] == "running")
    assert row(own, "part")["last_end"] == "terminated by SIGKILL", "the cause of the time before is not said of this one"


def test_one_that_outlived_its_supervisor_is_watched_again(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HUNG_S", BOUND_S)
    first = begin(own)
    keeper = supervisor.Supervisor(own).record
    assert keeper is not None
    psutil.Process(keeper.pid).kill()
    within(30, lambda: supervisor.Supervisor(own).record is None)
    assert begin(own) == first
    os.kill(first.pid, signal.SIGSTOP)
    within(60, lambda: (found := process.alive(own, "part")) and found.pid != first.pid)


def test_a_redis_that_hangs_is_started_again_and_one_that_stands_still_for_a_moment_is_not(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HUNG_S", BOUND_S)
    redis_server.up(own)
    first = process.alive(own, "redis")
    assert first is not None
    with redis.Redis.from_url(own.redis()) as client:
        client.set("kept", "1")
    psutil.Process(first.pid).suspend()
    time.sleep(4)
    psutil.Process(first.pid).resume()
    time.sleep(BOUND_S)
    assert process.alive(own, "redis") == first
    psutil.Process(first.pid).suspend()
    within(60, lambda: (found := process.alive(own, "redis")) and found.pid != first.pid)
    within(30, lambda: redis_server.ping(own))
    assert row(own, "redis")["last_end"][:11] == "silent for "
    with redis.Redis.from_url(own.redis()) as client:
        assert client.get("kept") == b"1"


@pytest.mark.parametrize("port", [70_000, -1, 2**70, 0])
def test_a_port_that_there_cannot_be_answers_nothing(port: int) -> None:
    assert [Probe(port).look(), Probe(port).look()] == [False, False]


def test_only_the_service_itself_feeds_its_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv(MARK, f"{tmp_path}:stream")
    monkeypatch.setenv(SELF, str(os.getpid() + 1))
    Watchdog(5).feed()
    assert not watched_path(tmp_path / "run", "stream").exists()
    monkeypatch.setenv(SELF, str(os.getpid()))
    dog = Watchdog(5)
    for now in (0.0, 61.0, 62.0):
        dog.feed()
        assert Patience().look(tmp_path / "run", ["stream"], now) == {}
    dog.close()
    patience = Patience()
    for now in range(0, 1000, 5):
        assert patience.look(tmp_path / "run", ["stream", "absent"], float(now)) == {}, "its loop has ended"


def test_one_that_computes_is_given_ten_times_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an honest round takes minutes; who is killed in the middle of it begins it again, for ever."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv(MARK, f"{tmp_path}:watch")
    monkeypatch.setenv(SELF, str(os.getpid()))
    used = 100.0
    monkeypatch.setattr(watchdog, "cpu_s", lambda pid: used)
    dog = Watchdog(5)
    dog.feed()
    for share, bound_s in ((0.0, 60), (0.04, 60), (0.06, 600), (1.0, 600)):
        patience, hung = Patience(), []
        for now in range(0, 700, 2):
            used = 100.0 + share * now
            hung.append(bool(patience.look(tmp_path / "run", ["watch"], float(now))))
        assert hung.index(True) == bound_s // 2 + 1, share
    dog.close()


def test_the_cpu_of_a_process_is_what_it_has_used() -> None:
    before = watchdog.cpu_s(os.getpid())
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        pass
    assert 0.1 < watchdog.cpu_s(os.getpid()) - before < 5
    assert watchdog.cpu_s(2**22 + 1) == watchdog.cpu_s(2**80) == 0.0


@given(st.lists(st.tuples(st.floats(0, 200), st.booleans()), max_size=60), st.floats(0.1, 60))
def test_a_part_hangs_once_it_was_not_fed_for_the_bound_and_no_pause_of_the_looker_counts(
    looks: list[tuple[float, bool]], every_s: float
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        run = Path(folder) / "run"
        run.mkdir()
        patch.setenv(MARK, f"{folder}:stream")
        patch.setenv(SELF, str(os.getpid()))
        dog, patience, now, quiet = Watchdog(every_s), Patience(), 0.0, 0.0
        armed = False
        for passed, fed in looks:
            now += passed
            if fed:
                dog.feed()
                quiet, armed = 0.0, True
            elif armed:
                quiet += min(passed, 10.0)
            hung = patience.look(run, ["stream"], now)
            assert bool(hung) == (armed and quiet > max(60.0, 6 * every_s))
        dog.close()


@given(st.binary(max_size=40))
def test_what_is_no_watchdog_is_passed_over(raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        watched_path(Path(folder), "stream").write_bytes(raw)
        patience = Patience()
        for now in range(0, 200, 10):
            for pid, quiet_s in patience.look(Path(folder), ["stream"], float(now)).values():
                assert pid > 0
                assert quiet_s > 60


def test_a_redis_whose_port_file_was_lost_is_asked_on_and_one_that_nobody_asks_any_more_is_left_alone(own: Settings) -> None:
    redis_server.up(own)
    record, fed, asked = process.alive(own, "redis"), watched_path(own.run_dir, "redis"), asked_path(own.run_dir, "redis")
    assert record is not None
    psutil.Process(supervisor.Supervisor(own).record.pid).suspend()  # type: ignore[union-attr]
    try:
        probes, port = Probes(), asked.read_text()
        for _ in range(3):
            probes.look(own.run_dir, ["redis"])
            time.sleep(0.1)
        asked.unlink()
        before = fed.read_bytes()
        for _ in range(3):
            probes.look(own.run_dir, ["redis"])
            time.sleep(0.1)
        assert fed.read_bytes() != before
        assert asked.read_text() == port
        asked.unlink()
        Probes().look(own.run_dir, ["redis"])
        patience = Patience()
        for now in range(0, 2000, 5):
            assert patience.look(own.run_dir, ["redis"], float(now)) == {}
    finally:
        psutil.Process(supervisor.Supervisor(own).record.pid).resume()  # type: ignore[union-attr]
