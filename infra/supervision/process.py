"""Background services of one checkout: kept running by a supervisor, known by pid *and* start time, stopped to the last child."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra import files
from infra.settings import Settings
from infra.supervision.launch import MARK, SELF, Record, end, families, hung_path, itself, marked, read_record, watched_path, write
from infra.supervision.supervisor import SUPERVISOR, Supervisor, SupervisorError

_SETTLES_S = {"redis": 3}
"""Seconds after which a service that ends is started again at once; before, after a pause that grows. Default: 10."""


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
    record = _read(settings, name)
    if record is None or not record.lives:
        return None
    return Running(name, record.pid, record.created, record.argv)


def _read(settings: Settings, name: str) -> Record | None:
    """Who runs as the service. A record that is broken is put aside, and written anew from the process that carries the service's mark."""
    path = _record(settings, name)
    record = read_record(path)
    if record is not None or not path.exists():
        return record
    with suppress(FileNotFoundError):  # another command did
        files.put_aside(path, f"{path} cannot be read: who runs as {name} is known by the process itself")
    return _remember(settings, name, marked(_mark(settings, name)))


def _remember(settings: Settings, name: str, family: set[psutil.Process]) -> Record | None:
    """Note down anew who runs as the service, by the processes that carry its mark."""
    process, path = itself(family), _record(settings, name)
    if process is not None:
        with suppress(psutil.Error, ProcessLookupError):
            said = {"pid": process.pid, "created": process.create_time(), "argv": process.cmdline(), "session": os.getsid(process.pid)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, said | {"starts": 1})
            return read_record(path)
    return None


def recover(settings: Settings) -> list[str]:
    """Note down anew what runs and is not noted any more: somebody has removed the files.

    Returns:
        every service of which a process is left, also where the service itself has ended.
    """
    found = families(str(settings.state))
    found.pop(SUPERVISOR, None)
    for name, family in found.items():
        if alive(settings, name) is None:
            with suppress(files.HeldError), _alone(settings, name, waits=False):  # it is being started or stopped this moment
                if alive(settings, name) is None:
                    _remember(settings, name, family)
    return list(found)


def restarts(settings: Settings, name: str) -> int:
    """How often the supervisor has started the service again since someone asked for it; also of one that is down at this moment."""
    record = _read(settings, name)
    return record.starts - 1 if record is not None else 0


def why_ended(settings: Settings, name: str) -> str:
    """Why the supervisor has ended the run before the one that runs; empty: it did not."""
    record = _read(settings, name)
    return record.why if record is not None and record.lives else ""


def _mark(settings: Settings, name: str) -> str:
    return f"{settings.state}:{name}"


@contextmanager
def _alone(settings: Settings, name: str, waits: bool = True) -> Iterator[None]:
    """One starter or stopper at a time: a second starter waits, and finds the service running.

    Raises:
        HeldError: there is another, and this one does not wait.
    """
    with files.alone(settings.run_dir / f"{name}.starting", refusal=None if waits else files.HeldError(name)):
        yield


def start(
    settings: Settings,
    name: str,
    argv: Sequence[str],
    ready: Callable[[], bool],
    timeout_s: float = 60.0,
    env: dict[str, str] | None = None,
    before: Callable[[], Sequence[str]] | None = None,
) -> Running:
    """Start a service and wait until it is ready; one that runs already is left as it is.

    Args:
        before: called where the service is to be started indeed, alone; gives its arguments in place of `argv`.

    Raises:
        ServiceError: it died or was not ready in time (it is stopped then); ends with its last log lines.
    """
    with _alone(settings, name):
        try:
            return _start(settings, name, argv, ready, timeout_s, env or {}, before)
        except SupervisorError as error:
            raise ServiceError(str(error)) from None


def environment() -> dict[str, str]:
    """This process's environment, for one that may outlive it: without the folder of metrics that Feast makes where it is imported, and
    removes when this process ends, and without the word that it is a service itself."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != SELF and not (name in _FEAST_METRICS and os.path.basename(value).startswith("feast_metrics_"))
    }


_FEAST_METRICS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


def _start(
    settings: Settings,
    name: str,
    argv: Sequence[str],
    ready: Callable[[], bool],
    timeout_s: float,
    env: dict[str, str],
    before: Callable[[], Sequence[str]] | None,
) -> Running:
    supervisor, deadline = Supervisor(settings), time.monotonic() + timeout_s
    if alive(settings, name) is None:  # or its files were removed
        _remember(settings, name, marked(_mark(settings, name)))
    kept = supervisor.kept(name)
    while kept and kept[0].state in ("STARTING", "RUNNING", "EXITED"):  # it runs, or is being started again this moment
        if running := alive(settings, name):
            return running
        if time.monotonic() > deadline:
            raise ServiceError(f"{name} is started again and again. {tail(settings, name)}")
        time.sleep(0.1)
        kept = supervisor.kept(name)
    if kept:  # it pauses between two tries: the next is made now
        supervisor.quiet(name)
    outlived = alive(settings, name) is not None  # its supervisor, which was killed
    wanted = list(argv if before is None or outlived else before())
    if not outlived:
        _record(settings, name).unlink(missing_ok=True)
    supervisor.add(name, wanted, {**environment(), "PYTHONUNBUFFERED": "1", **env, MARK: _mark(settings, name)}, _SETTLES_S.get(name, 10))
    try:
        while not outlived and not (alive(settings, name) and ready()):
            _check_start(settings, supervisor, name)
            if time.monotonic() > deadline:
                raise ServiceError(f"{name} was not ready within {timeout_s:.0f} s. {tail(settings, name)}")
            time.sleep(0.1)
    except BaseException:
        _stop(settings, name)  # also on Ctrl-C: nothing half-started stays behind
        raise
    running = alive(settings, name)
    if running is None:
        raise ServiceError(f"{name} ended as soon as it was ready. {tail(settings, name)}")
    return running


def _check_start(settings: Settings, supervisor: Supervisor, name: str) -> None:
    """
    Raises:
        ServiceError: the service has ended since it was started.
    """
    (kept,) = supervisor.kept(name)
    record = read_record(_record(settings, name))
    if kept.state not in ("STARTING", "RUNNING") or (record is not None and record.starts > 1):
        code = kept.last_end.replace("exit status", "exit code") or "an unknown end"
        raise ServiceError(f"{name} ended ({code}) while starting. {tail(settings, name)}")


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
    with _alone(settings, name):
        return _stop(settings, name, grace_s)


def _stop(settings: Settings, name: str, grace_s: float = 20.0) -> bool:
    running, supervisor = alive(settings, name), Supervisor(settings)
    family: set[psutil.Process] = set()
    root: psutil.Process | None = None
    if running is not None:
        with suppress(psutil.NoSuchProcess):  # it may end between any two lines here
            root = psutil.Process(running.pid)
            family = {root, *root.children(recursive=True)} - _others(settings, name)
    told = 0
    with suppress(SupervisorError):  # one that hangs is no reason to leave the service running
        told = supervisor.signal_stop(name)
    if root is not None:
        with suppress(psutil.NoSuchProcess):
            if told != root.pid:
                root.terminate()
        psutil.wait_procs([root], timeout=grace_s)
        # children that outlive a clean shutdown of their parent are nobody's any more; most end by themselves
        _, left = psutil.wait_procs(family, timeout=1.0)
        end(set(left))
    end(marked(_mark(settings, name)))
    supervisor.remove(name)
    end(marked(_mark(settings, name)))  # one that was about to become the service while it was stopped
    for path in (_record(settings, name), watched_path(settings.run_dir, name), hung_path(settings.run_dir, name)):
        path.unlink(missing_ok=True)
    return running is not None


def _others(settings: Settings, name: str) -> set[psutil.Process]:
    """The processes of the checkout's other services: one started by this service is no child of it to be ended with it."""
    found: set[psutil.Process] = set()
    for record in settings.run_dir.glob("*.json"):
        running = alive(settings, record.stem) if record.stem != name else None
        if running is not None:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(running.pid)
                found |= {root, *root.children(recursive=True)}
    keeper = Supervisor(settings).record
    if keeper is not None:
        with suppress(psutil.NoSuchProcess):
            found.add(psutil.Process(keeper.pid))
    return found
