"""Background services of one checkout: started into a session of their own, known by pid *and* start time, stopped to the last child."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.settings import ROOT, Settings


class ServiceError(RuntimeError):
    """A service did not start, or died while starting; the message carries the end of its log."""


@dataclass(frozen=True)
class Running:
    """A live service."""

    name: str
    pid: int
    started: float  # seconds since the epoch
    argv: list[str]

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        try:
            root = psutil.Process(self.pid)
            return sum(p.memory_info().rss for p in [root, *root.children(recursive=True)]) / 1e6
        except psutil.Error:
            return 0.0


def _record(settings: Settings, name: str) -> Path:
    return settings.run_dir / f"{name}.json"


def log_path(settings: Settings, name: str) -> Path:
    return settings.log_dir / f"{name}.log"


def alive(settings: Settings, name: str) -> Running | None:
    """The service if the very process we started still runs; a pid that was given to another process is not it."""
    path = _record(settings, name)
    try:
        said = json.loads(path.read_text())
        process = psutil.Process(said["pid"])
        if abs(process.create_time() - said["created"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE:
            return Running(name, said["pid"], said["created"], said["argv"])
    except (FileNotFoundError, psutil.Error, json.JSONDecodeError, KeyError):
        pass
    return None


def start(
    settings: Settings,
    name: str,
    argv: Sequence[str],
    ready: Callable[[], bool],
    timeout_s: float = 60.0,
    env: dict[str, str] | None = None,
) -> Running:
    """Start a service and wait until it is ready; one that runs already is left as it is.

    Raises:
        ServiceError: it died or was not ready in time (it is stopped then); ends with its last log lines.
    """
    running = alive(settings, name)
    if running:
        return running
    for folder in (settings.run_dir, settings.log_dir):
        folder.mkdir(parents=True, exist_ok=True)
    with open(log_path(settings, name), "ab") as log:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
    created = psutil.Process(child.pid).create_time()
    partial = _record(settings, name).with_suffix(".new")
    partial.write_text(json.dumps({"pid": child.pid, "created": created, "argv": list(argv)}))
    partial.replace(_record(settings, name))
    deadline = time.monotonic() + timeout_s
    try:
        while not ready():
            if child.poll() is not None:
                _record(settings, name).unlink(missing_ok=True)
                raise ServiceError(f"{name} ended with exit code {child.returncode} while starting. {tail(settings, name)}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{name} was not ready within {timeout_s:.0f} s. {tail(settings, name)}")
            time.sleep(0.1)
    except BaseException:
        stop(settings, name)  # also on Ctrl-C: nothing half-started stays behind
        raise
    return Running(name, child.pid, created, list(argv))


def tail(settings: Settings, name: str, lines: int = 12) -> str:
    path = log_path(settings, name)
    try:
        last = path.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return f"The end of {path}:\n" + "\n".join(last)


def stop(settings: Settings, name: str, grace_s: float = 20.0) -> bool:
    """Stop a service and every process it started: SIGTERM, and after `grace_s` SIGKILL. Returns whether it was running."""
    running = alive(settings, name)
    if running is None:
        _record(settings, name).unlink(missing_ok=True)
        return False
    root = psutil.Process(running.pid)
    try:
        family = [root, *root.children(recursive=True)]
        root.terminate()
        psutil.wait_procs([root], timeout=grace_s)
        # children that outlive a clean shutdown of their parent are nobody's any more
        _, left = psutil.wait_procs(family, timeout=1.0)
        for process in left:
            process.terminate()
        _, left = psutil.wait_procs(left, timeout=3.0)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5.0)
    except psutil.NoSuchProcess:
        pass
    _record(settings, name).unlink(missing_ok=True)
    return True
