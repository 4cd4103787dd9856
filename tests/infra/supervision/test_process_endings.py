"""However a service ends: nothing foreign is ever signalled, nothing of ours is ever left behind."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from infra.settings import ROOT, Settings
from infra.supervision import process

pytestmark = pytest.mark.integration

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
# a service with a child in a session of its own, as Ray and Spark start theirs
PARENT = """
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(state=tmp_path)
    yield made
    for record in made.run_dir.glob("*.json"):
        process.stop(made, record.stem, grace_s=1)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def _written(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text() != ""


def test_starting_from_four_places_at_once_starts_one(own: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: process.start(own, "sleeper", SLEEPER, ready=lambda: True), range(4)))
    assert len({one.pid for one in started}) == 1


def test_a_process_that_leads_no_session_of_its_own_is_not_taken_for_a_service(own: Settings) -> None:
    stranger = psutil.Popen(SLEEPER)  # in this session: not something `start` made
    try:
        own.run_dir.mkdir(parents=True)
        record = {"pid": stranger.pid, "created": stranger.create_time(), "argv": SLEEPER}
        (own.run_dir / "sleeper.json").write_text(json.dumps(record))
        assert process.alive(own, "sleeper") is None
        assert not process.stop(own, "sleeper")
        assert stranger.is_running()
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupt_while_starting_leaves_nothing_behind(own: Settings) -> None:
    pids: list[int] = []

    def interrupted() -> bool:
        found = process.alive(own, "sleeper")
        assert found is not None
        pids.append(found.pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.start(own, "sleeper", SLEEPER, ready=interrupted)
    assert _gone(pids[0])


def test_stopping_ends_children_that_left_the_session(own: Settings, tmp_path: Path) -> None:
    note = tmp_path / "child"
    process.start(own, "parent", [sys.executable, "-c", PARENT, str(note)], ready=_written(note))
    process.stop(own, "parent")
    assert _gone(int(note.read_text()))


@pytest.mark.parametrize("then", ["stop", "start"])
def test_children_of_a_service_that_was_killed_are_ended(own: Settings, tmp_path: Path, then: str) -> None:
    note = tmp_path / "child"
    running = process.start(own, "parent", [sys.executable, "-c", PARENT, str(note)], ready=_written(note))
    psutil.Process(running.pid).kill()
    assert _within(30, lambda: process.alive(own, "parent") is None)
    child = int(note.read_text())
    assert not _gone(child)
    if then == "stop":
        assert not process.stop(own, "parent")
    else:
        process.start(own, "parent", SLEEPER, ready=lambda: True)
    assert _gone(child)


def test_a_service_deaf_to_sigterm_is_killed_after_its_grace(own: Settings, tmp_path: Path) -> None:
    note = tmp_path / "deaf"
    code = f"import signal, time, pathlib; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(note)!r}).write_text('x'); time.sleep(60)"
    running = process.start(own, "deaf", [sys.executable, "-c", code], ready=_written(note))
    began = time.monotonic()
    assert process.stop(own, "deaf", grace_s=0.3)
    assert _gone(running.pid)
    assert time.monotonic() - began < 15


def test_stopping_one_service_spares_another_that_it_started(own: Settings, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"""
import pathlib, sys, time
from infra.supervision import process
from infra.settings import Settings
made = process.start(Settings(state={str(tmp_path)!r}), "inner", [sys.executable, "-c", "import time; time.sleep(60)"], lambda: True)
pathlib.Path({str(note)!r}).write_text(str(made.pid))
time.sleep(60)
"""
    process.start(own, "outer", [sys.executable, "-c", code], ready=_written(note), env={"PYTHONPATH": str(ROOT)})
    process.stop(own, "outer")
    inner = process.alive(own, "inner")
    assert inner is not None
    assert inner.pid == int(note.read_text())
