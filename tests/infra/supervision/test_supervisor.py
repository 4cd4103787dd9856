"""What dies comes back: restarts with a pause, counted and shown; small logs; and a supervisor that may be killed itself."""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.ports import port
from infra.settings import Settings
from infra.supervision import process, redis_server, services, supervisor
from infra.supervision.launch import marked
from infra.supervision.supervisor import LOG_BYTES, LOG_FILES, Supervisor
from tests.bench.storm.ground import ground

pytestmark = pytest.mark.integration

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(state=tmp_path / "a folder; 100% odd [name]", redis_url="")
    yield made
    services.stop_all(made)
    assert Supervisor(made).record is None


def within(seconds: float, found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert value, "not in time"
    return value


def row(settings: Settings, name: str = "sleeper") -> dict[str, Any]:
    return next(r for r in services.status(settings) if r["name"] == name)


def start(settings: Settings, name: str = "sleeper", argv: list[str] = SLEEPER) -> process.Running:
    return process.start(settings, name, argv, lambda: True)


def keeper(settings: Settings) -> psutil.Process:
    record = Supervisor(settings).record
    assert record is not None
    return psutil.Process(record.pid)


def test_a_service_that_is_killed_is_started_again_and_counted(own: Settings) -> None:
    first = start(own)
    assert (row(own)["state"], row(own)["restarts"], row(own)["last_end"]) == ("running", 0, "")
    psutil.Process(first.pid).kill()
    within(30, lambda: (again := process.alive(own, "sleeper")) and again.pid != first.pid)
    assert (row(own)["state"], row(own)["restarts"]) == ("running", 1)
    assert row(own)["last_end"] == "terminated by SIGKILL"


def test_one_that_ends_at_once_is_tried_ever_more_slowly_and_says_so(own: Settings, tmp_path: Path) -> None:
    flag, tries = tmp_path / "broken", tmp_path / "tries"
    code = f"import pathlib, sys, time; p = pathlib.Path({str(tries)!r}); p.open('a').write(f'{{time.time()}}\\n'); sys.exit(7) if pathlib.Path({str(flag)!r}).exists() else time.sleep(600)"
    running = start(own, argv=[sys.executable, "-c", code])
    within(30, lambda: tries.exists() and tries.read_text())
    flag.touch()
    psutil.Process(running.pid).kill()
    within(60, lambda: len(tries.read_text().split()) >= 5)
    times = [float(t) for t in tries.read_text().split()][1:]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[-1] > pauses[0] > 0.9
    within(60, lambda: (found := row(own))["state"] == "failing" and not found["running"] and found["last_end"] == "exit status 7")
    assert row(own)["restarts"] >= 4
    flag.unlink()
    assert within(60, lambda: process.alive(own, "sleeper") and row(own)["state"] == "running")


def test_the_pause_between_two_tries_grows_and_has_an_end(own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 2)
    flag, tries = tmp_path / "broken", tmp_path / "tries"
    code = f"import pathlib, sys, time; p = pathlib.Path({str(tries)!r}); p.open('a').write(f'{{time.time()}}\\n'); sys.exit(7) if pathlib.Path({str(flag)!r}).exists() else time.sleep(600)"
    running = start(own, argv=[sys.executable, "-c", code])
    within(30, lambda: tries.exists() and tries.read_text())
    flag.touch()
    psutil.Process(running.pid).kill()
    within(60, lambda: len(tries.read_text().split()) >= 7)
    states = {row(own)["state"] for _ in range(5)}
    assert states <= {"failing", "starting", "running"}
    times = [float(t) for t in tries.read_text().split()][2:]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert min(pauses[1:]) > 1.9, pauses
    assert max(pauses) < 5, pauses


def test_starting_one_that_pauses_between_two_tries_tries_now(own: Settings, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    code = f"import pathlib, sys, time; sys.exit(7) if pathlib.Path({str(flag)!r}).exists() else time.sleep(600)"
    running = start(own, argv=[sys.executable, "-c", code])
    flag.touch()
    psutil.Process(running.pid).kill()
    within(60, lambda: row(own)["restarts"] >= 3 and row(own)["state"] == "failing")
    flag.unlink()
    assert start(own, argv=[sys.executable, "-c", code]).pid
    assert row(own)["restarts"] == 0


def test_logs_stay_small(own: Settings) -> None:
    code = "import sys, time\nfor _ in range(60_000): print('x' * 999)\nprint('end'); time.sleep(600)"
    log = process.log_path(own, "sleeper")
    process.start(own, "sleeper", [sys.executable, "-c", code], lambda: log.exists() and log.read_text()[-4:] == "end\n", 120)
    sizes = [p.stat().st_size for p in own.log_dir.glob("sleeper.log*")]
    assert len(sizes) == LOG_FILES + 1
    assert max(sizes) <= LOG_BYTES + 100_000


def test_a_killed_supervisor_costs_no_service_and_the_next_start_takes_all_over(own: Settings) -> None:
    both = [start(own), start(own, "second")]
    keeper(own).kill()
    within(30, lambda: Supervisor(own).record is None)
    assert [(r["name"], r["state"]) for r in services.status(own)] == [("second", "unwatched"), ("sleeper", "unwatched")]
    assert start(own) == both[0], "it never stopped"
    within(30, lambda: all(row(own, n)["state"] == "running" for n in ("sleeper", "second")))
    assert [process.alive(own, n) for n in ("sleeper", "second")] == both
    for before in both:
        psutil.Process(before.pid).kill()
    for name, before in zip(("sleeper", "second"), both, strict=True):
        within(30, lambda name=name, before=before: (again := process.alive(own, name)) and again.pid != before.pid)  # type: ignore[misc]
    assert process.stop(own, "second")
    assert process.alive(own, "second") is None


def test_a_service_that_prints_outlives_its_supervisor_and_goes_on_in_its_log(own: Settings) -> None:
    code = f"import itertools, sys, time\nfor n in itertools.count():\n  print(n, {'x' * 2000!r}, file=[sys.stdout, sys.stderr][n % 2], flush=True); time.sleep(0.005)"
    first, log = start(own, argv=[sys.executable, "-c", code]), process.log_path(own, "sleeper")

    def count() -> int:
        return int(log.read_text().rstrip("\n").rpartition("\n")[2].split()[0]) if log.exists() and log.read_text() else 0

    within(30, lambda: count() > 50)
    keeper(own).kill()
    within(30, lambda: Supervisor(own).record is None)
    before = count()
    within(60, lambda: count() > before + 100)  # many times what a pipe holds
    assert start(own, "second").pid
    assert start(own) == first, "the next start finds it, and leaves it as it is"
    before = count()
    within(60, lambda: count() > before + 100)
    numbers = [int(line.split()[0]) for line in log.read_text(errors="replace").splitlines()[:-1] if line[:1].isdigit()]
    missing = set(range(numbers[-1])) - set(numbers)
    assert len(missing) < 50, "what the supervisor had read and not yet written when it was killed"
    assert not missing or max(missing) - min(missing) < 50, "and nothing after that"
    readers = [p for p in psutil.Process(first.pid).children() if "outlet.py" in " ".join(p.cmdline())]
    assert len(readers) == 1
    psutil.Process(first.pid).kill()
    again = within(30, lambda: (found := process.alive(own, "sleeper")) and found.pid != first.pid and found)
    assert not psutil.wait_procs(readers, timeout=10)[1], "it ends with its service"
    assert process.stop(own, "sleeper")
    assert not psutil.pid_exists(again.pid)


def test_what_a_killed_supervisor_left_is_stopped_to_the_last_process(own: Settings) -> None:
    running = start(own)
    keeper(own).kill()
    within(30, lambda: Supervisor(own).record is None)
    assert services.stop_all(own) == ["sleeper"]
    assert not psutil.pid_exists(running.pid)
    assert services.status(own) == []


def test_what_was_taken_over_is_stopped_as_anything_else(own: Settings, tmp_path: Path) -> None:
    note = tmp_path / "clean"
    code = f"import signal, sys, time, pathlib; signal.signal(15, lambda *_: (pathlib.Path({str(note)!r}).touch(), sys.exit())); print('up', flush=True); time.sleep(600)"
    log = process.log_path(own, "sleeper")
    process.start(own, "sleeper", [sys.executable, "-c", code], lambda: log.exists() and "up" in log.read_text())
    keeper(own).kill()
    within(30, lambda: Supervisor(own).record is None)
    start(own)
    assert process.stop(own, "sleeper")
    assert note.exists(), "it was told to end, not killed"


def test_starts_and_stops_from_everywhere_at_once_leave_nothing_without_an_owner(own: Settings) -> None:
    choose = random.Random(1)

    def one(number: int) -> None:
        name = f"s{number % 3}"
        if choose.random() < 0.5:
            start(own, name)
        else:
            process.stop(own, name, grace_s=5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(24)))

    def owned(name: str) -> bool:
        running = process.alive(own, name)
        return {p.pid for p in marked(f"{own.state}:{name}")} == ({running.pid} if running else set())

    for name in ("s0", "s1", "s2"):
        deadline = time.monotonic() + 10  # one that is started again this moment has noted itself down, and carries its mark a moment later
        while not owned(name):
            assert time.monotonic() < deadline, name
            time.sleep(0.05)
    services.stop_all(own)
    for name in ("s0", "s1", "s2", "supervisor"):
        assert not marked(f"{own.state}:{name}")


@pytest.mark.integration
def test_a_redis_that_is_asked_for_from_everywhere_at_once_has_one_owner_and_one_port(own: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: redis_server.up(own), range(4)))
    running = process.alive(own, redis_server.NAME)
    assert running is not None
    before = port(own.state, "redis")
    psutil.Process(running.pid).kill()
    with ThreadPoolExecutor(4) as pool:  # while the supervisor starts it again
        list(pool.map(lambda _: redis_server.up(own), range(4)))
    assert redis_server.ping(own)
    assert port(own.state, "redis") == before
    servers = [p for p in psutil.process_iter(["cmdline"]) if str(own.state / "redis") in (p.info["cmdline"] or [])]
    again = process.alive(own, redis_server.NAME)
    assert again is not None
    servers += [p for p in psutil.process_iter(["name"]) if p.pid == again.pid]
    assert again.pid != running.pid
    assert {c.laddr.port for c in psutil.Process(again.pid).net_connections("inet") if c.status == "LISTEN"} == {before}


def test_a_process_that_does_not_hear_that_it_should_end_is_dropped_all_the_same(own: Settings) -> None:
    """So is one that is told between supervisord's fork and exec: the signal is lost."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    log = process.log_path(own, "sleeper")
    running = process.start(own, "sleeper", [sys.executable, "-c", code], lambda: log.exists() and "up" in log.read_text())
    began = time.monotonic()
    Supervisor(own).remove("sleeper")
    assert time.monotonic() - began < 10
    assert not psutil.pid_exists(running.pid)
    assert Supervisor(own).record is None


def test_one_that_is_stopped_in_the_moment_of_its_start_is_stopped(own: Settings) -> None:
    for _ in range(5):
        start(own)
        keeper(own).kill()
        within(30, lambda: Supervisor(own).record is None)
        start(own)  # it has a stand-in from this moment on
        assert process.stop(own, "sleeper")
        assert services.status(own) == []


def test_one_up_or_down_at_a_time(own: Settings) -> None:
    order: list[str] = []

    def second() -> None:
        with services.alone(own, lambda: order.append("waits")):
            order.append("second")

    with ThreadPoolExecutor(1) as pool, services.alone(own):
        waiting = pool.submit(second)
        within(10, lambda: order == ["waits"])
        order.append("first")
    waiting.result()
    assert order == ["waits", "first", "second"]


def test_a_full_disk_stops_no_service(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"""
import pathlib, time
for i in range(10**6):
    print("x" * 10_000, flush=True)
    pathlib.Path({str(seen)!r}).write_text(str(i))
    time.sleep(0.01)
"""

    def count() -> int:
        return int(seen.read_text() or 0) if seen.exists() else 0

    with ground() as place:
        if not place.own_disk:
            pytest.skip("mounting a file system takes a right that this user does not have")
        own = Settings(state=place.folder / "state", redis_url="")
        started = start(own, argv=[sys.executable, "-c", code])
        try:
            within(60, lambda: count() > 5)
            place.fill()
            before = count()
            within(60, lambda: count() > before + 50)  # many times what a pipe holds
            place.free()
            assert process.alive(own, "sleeper") == started
            assert row(own)["restarts"] == 0
            size = process.log_path(own, "sleeper").stat().st_size
            within(60, lambda: process.log_path(own, "sleeper").stat().st_size > size)
        finally:
            place.free()
            services.stop_all(own)
