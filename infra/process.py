"""Background services of one checkout: started into a session of their own, known by pid *and* start time, stopped to the last child."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.settings import ROOT, Settings

MARK = "HEADRACE_SERVICE"
"""Environment variable that every process of a service inherits: what is left of a dead service is found by it."""


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
        # the kernel reckons start times from a boot time that it may correct by a second; so 2 s, and the leader of its own session
        same = abs(process.create_time() - said["created"]) < 2.0 and os.getsid(said["pid"]) == said["pid"]
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return Running(name, said["pid"], said["created"], said["argv"])
    except (FileNotFoundError, ProcessLookupError, psutil.Error, json.JSONDecodeError, KeyError):
        pass
    return None


def _mark(settings: Settings, name: str) -> str:
    return f"{settings.state}:{name}"


@contextmanager
def _alone(settings: Settings, name: str) -> Iterator[None]:
    """One starter at a time: the second waits, and finds the service running."""
    with open(settings.run_dir / f"{name}.starting", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
    for folder in (settings.run_dir, settings.log_dir):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(settings, name):
        return alive(settings, name) or _start(settings, name, argv, ready, timeout_s, env or {})


def _start(settings: Settings, name: str, argv: Sequence[str], ready: Callable[[], bool], timeout_s: float, env: dict[str, str]) -> Running:
    _end(_marked(settings, name))  # an earlier run that was killed may have left children with its ports
    with open(log_path(settings, name), "ab") as log:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env, MARK: _mark(settings, name)},
        )
    created = psutil.Process(child.pid).create_time()
    partial = _record(settings, name).with_suffix(".new")
    partial.write_text(json.dumps({"pid": child.pid, "created": created, "argv": list(argv)}))
    partial.replace(_record(settings, name))
    deadline = time.monotonic() + timeout_s
    try:
        while not ready():
            if child.poll() is not None:
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
    """Stop a service and every process it started: SIGTERM, and after `grace_s` SIGKILL. Returns whether it was running.

    What a service left behind that died by itself is ended as well.
    """
    running = alive(settings, name)
    if running is not None:
        family: set[psutil.Process] = set()
        with suppress(psutil.NoSuchProcess):  # it may end between any two lines here
            root = psutil.Process(running.pid)
            family = {root, *root.children(recursive=True)} - _others(settings, name)
            root.terminate()
            psutil.wait_procs([root], timeout=grace_s)
        # children that outlive a clean shutdown of their parent are nobody's any more; most end by themselves
        _, left = psutil.wait_procs(family, timeout=1.0)
        _end(set(left))
    _end(_marked(settings, name))
    _record(settings, name).unlink(missing_ok=True)
    return running is not None


def _end(processes: set[psutil.Process]) -> None:
    """SIGTERM, and after 3 s SIGKILL."""
    left = list(processes)
    for signal_all, wait_s in ((psutil.Process.terminate, 3.0), (psutil.Process.kill, 5.0)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                signal_all(process)
        _, left = psutil.wait_procs(left, timeout=wait_s)


def _marked(settings: Settings, name: str) -> set[psutil.Process]:
    """The processes that carry the service's mark, but for this one."""
    wanted, found = _mark(settings, name), set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or just gone
            if process.pid != os.getpid() and process.environ().get(MARK) == wanted:
                found.add(process)
    return found


def _others(settings: Settings, name: str) -> set[psutil.Process]:
    """The processes of the checkout's other services: one started by this service is no child of it to be ended with it."""
    found: set[psutil.Process] = set()
    for record in settings.run_dir.glob("*.json"):
        running = alive(settings, record.stem) if record.stem != name else None
        if running is not None:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(running.pid)
                found |= {root, *root.children(recursive=True)}
    return found
