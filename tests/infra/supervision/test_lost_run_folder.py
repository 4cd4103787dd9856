"""With `<state>/run` gone, nobody remembers what was started: the processes themselves say whose they are, and as what they run."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from infra.ports import port
from infra.settings import Settings
from infra.supervision import process, redis_server, services
from infra.supervision.launch import itself, marked
from infra.supervision.supervisor import Supervisor
from tests.infra.supervision.test_process_endings import PARENT
from tests.infra.supervision.test_supervisor import SLEEPER, keeper, row, start, within
from tests.infra.supervision.test_supervisor import own as _own

pytestmark = pytest.mark.integration

own = _own


def lose(settings: Settings, what: str) -> None:
    for record in settings.run_dir.glob("*.json"):  # one that is noted down is about to become the service
        within(10, lambda name=record.stem: process.alive(settings, name) is None or itself(marked(f"{settings.state}:{name}")))  # type: ignore[misc]
    match what:
        case "all of it":
            shutil.rmtree(settings.run_dir)
        case "the supervisor's folder":
            shutil.rmtree(settings.run_dir / "supervisor")
        case "the records":
            for path in settings.run_dir.glob("*.json"):
                path.unlink()


WAYS = pytest.mark.parametrize("what", ["all of it", "the supervisor's folder", "the records"])


@WAYS
def test_down_ends_all_that_is_ours_and_nothing_of_another_state(own: Settings, tmp_path: Path, what: str) -> None:
    other = Settings(state=Path(f"{own.state}:sleeper"), redis_url="")  # a mark of it begins as ours do
    theirs = start(other)
    try:
        mine, family = start(own), tmp_path / "child"
        process.start(own, "parent", [SLEEPER[0], "-c", PARENT, str(family)], lambda: family.exists() and family.read_text() != "")
        was = keeper(own)
        lose(own, what)
        assert services.stop_all(own) == ["sleeper", "parent"]
        for pid in (mine.pid, was.pid, int(family.read_text())):
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert process.alive(other, "sleeper") == theirs
        assert row(other)["restarts"] == 0
        assert services.stop_all(own) == []
    finally:
        services.stop_all(other)


@WAYS
def test_status_tells_what_runs(own: Settings, what: str) -> None:
    running = start(own)
    lose(own, what)
    for _ in range(2):
        found = row(own)
        assert (found["running"], found["pid"]) == (True, running.pid)
        assert found["state"] == ("running" if what == "the records" else "unwatched")


@WAYS
def test_a_start_takes_over_what_runs_and_keeps_it(own: Settings, what: str) -> None:
    running, was = start(own), keeper(own)
    lose(own, what)
    assert start(own) == running
    assert marked(f"{own.state}:sleeper") == {psutil.Process(running.pid)}
    within(30, lambda: row(own)["state"] == "running")
    psutil.Process(running.pid).kill()
    again = within(30, lambda: (found := process.alive(own, "sleeper")) and found.pid != running.pid and found)
    assert marked(f"{own.state}:sleeper") == {psutil.Process(again.pid)}
    if what != "the records":
        assert not psutil.pid_exists(was.pid) or was.status() == psutil.STATUS_ZOMBIE, "one supervisor"
    assert Supervisor(own).record is not None


def test_what_a_dead_service_left_is_not_taken_for_it(own: Settings, tmp_path: Path) -> None:
    note = tmp_path / "child"
    parent = process.start(own, "parent", [SLEEPER[0], "-c", PARENT, str(note)], lambda: note.exists() and note.read_text() != "")
    keeper(own).kill()
    psutil.Process(parent.pid).kill()
    within(30, lambda: process.alive(own, "parent") is None)
    lose(own, "all of it")
    assert [r for r in services.status(own) if r["running"]] == []
    assert services.stop_all(own) == []
    assert not psutil.pid_exists(int(note.read_text())) or psutil.Process(int(note.read_text())).status() == psutil.STATUS_ZOMBIE


@pytest.mark.integration
def test_no_second_redis_is_started_on_the_same_data(own: Settings) -> None:
    redis_server.up(own)
    running, number = process.alive(own, "redis"), port(own.state, "redis")
    assert running is not None
    lose(own, "all of it")
    redis_server.up(own)
    assert process.alive(own, "redis") == running
    assert port(own.state, "redis") == number
    lose(own, "all of it")
    assert services.stop_all(own) == ["redis"]
    assert not psutil.pid_exists(running.pid)
