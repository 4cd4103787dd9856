"""Services: started once, known for certain, stopped to the last child."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.settings import Settings
from infra.supervision import process

pytestmark = pytest.mark.integration

PARENT = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('child', p.pid, flush=True); time.sleep(60)"


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


def child(settings: Settings) -> int | None:
    path = process.log_path(settings, "sleeper")
    words = path.read_text().split() if path.exists() else []
    return int(words[1]) if len(words) == 2 else None


def test_a_service_and_its_children_are_stopped(own: Settings) -> None:
    running = process.start(own, "sleeper", [sys.executable, "-c", PARENT], lambda: child(own) is not None, 20)
    assert process.alive(own, "sleeper") == running
    assert process.start(own, "sleeper", ["false"], lambda: False).pid == running.pid
    assert running.memory_mb > 1
    number = child(own)
    assert number is not None
    assert process.stop(own, "sleeper", grace_s=5)
    assert process.alive(own, "sleeper") is None
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    assert not process.stop(own, "sleeper")


def test_a_pid_that_was_given_to_another_process_is_left_alone(own: Settings) -> None:
    own.run_dir.mkdir(parents=True)
    stranger = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record = {"pid": stranger.pid, "created": stranger.create_time() - 100, "argv": []}
    (own.run_dir / "sleeper.json").write_text(json.dumps(record))
    assert process.alive(own, "sleeper") is None
    assert not process.stop(own, "sleeper")
    assert stranger.is_running()
    stranger.kill()
    stranger.wait()


def test_a_service_that_dies_while_starting_says_its_last_words(own: Settings) -> None:
    with pytest.raises(process.ServiceError, match=r"exit code 3(.|\n)*no such luck"):
        process.start(own, "sleeper", [sys.executable, "-c", "import sys; print('no such luck'); sys.exit(3)"], lambda: False, 20)


def test_a_service_that_is_never_ready_is_stopped(own: Settings) -> None:
    began = time.monotonic()
    with pytest.raises(process.ServiceError, match="not ready within 1 s"):
        process.start(own, "sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], lambda: False, 1)
    assert time.monotonic() - began < 15
    assert process.alive(own, "sleeper") is None


@pytest.mark.parametrize(("folder", "given"), [("/tmp/feast_metrics_x", False), ("/srv/metrics", True)])
def test_a_service_is_not_given_the_folder_that_feast_removes_with_its_parent(
    own: Settings, monkeypatch: pytest.MonkeyPatch, folder: str, given: bool
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROCESS_DIR", folder)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", folder)
    said = "import os, time; print('given', sum('PROMETHEUS_MULTI' in name for name in os.environ), flush=True); time.sleep(60)"
    log = process.log_path(own, "sleeper")
    process.start(own, "sleeper", [sys.executable, "-c", said], lambda: log.exists() and b"given" in log.read_bytes(), 20)
    assert log.read_text().split() == ["given", "2" if given else "0"]
    process.stop(own, "sleeper")


def test_feast_still_names_its_folder_so() -> None:
    source = importlib.util.find_spec("feast.metrics")
    assert source is not None
    assert source.origin is not None
    assert 'mkdtemp(prefix="feast_metrics_")' in Path(source.origin).read_text()
