"""The services of one checkout: what each is started with, when it is ready, and in which order they come and go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from infra import files
from infra.ports import port
from infra.settings import ROOT, Settings
from infra.supervision import process, redis_server
from infra.supervision.supervisor import Supervisor, SupervisorError


@dataclass(frozen=True)
class Service:
    """
    Attributes:
        command: arguments of `headrace`; the service is that command in the background.
        says: what its log says once it is ready.
        env: settings of its own.
        port: name of the port it listens on, if any.
    """

    name: str
    command: tuple[str, ...]
    says: str
    timeout_s: float = 120.0
    env: tuple[tuple[str, str], ...] = ()
    port: str | None = None


def stream() -> Service:
    # the stream's driver holds no data of its own: the state is in Redis
    return Service("stream", ("stream",), "ready", env=(("HEADRACE_SPARK_MEMORY", "700m"),))


def serve() -> Service:
    return Service("serve", ("serve",), "ready", timeout_s=180, port="http")


def watch(model: str) -> Service:
    return Service(f"watch-{model}", ("watch", model), "watching")


def autopilot(model: str) -> Service:
    return Service(f"autopilot-{model}", ("autopilot", model), "autopilot of")


def start(settings: Settings, service: Service) -> process.Running:
    """Start a service of ours in the background and wait until its log says that it is ready.

    Raises:
        ServiceError: it died or was not ready in time.
    """
    path = process.log_path(settings, service.name)
    offset = path.stat().st_size if path.exists() else 0

    def ready() -> bool:
        try:
            with open(path, "rb") as log:
                log.seek(offset if path.stat().st_size >= offset else 0)  # a full log is moved aside
                return any(line.startswith(service.says.encode()) for line in log)
        except FileNotFoundError:
            return False

    argv = [sys.executable, str(ROOT / "headrace.py"), *service.command]
    return process.start(settings, service.name, argv, ready, service.timeout_s, dict(service.env))


@contextmanager
def alone(settings: Settings, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One `up` or `down` at a time: the next waits for the one before, and finds what that has left.

    Args:
        waiting: called where there is another to wait for.
    """
    with files.alone(settings.run_dir / "services.lock", waiting=waiting):
        yield


def names(settings: Settings, left: Sequence[str] = ()) -> list[str]:
    """Services that have been started, in starting order.

    Args:
        left: more of them, in any order.
    """
    known = {*left} | {p.stem for p in (*settings.run_dir.glob("*.json"), *settings.run_dir.glob("supervisor/*.ini"))}
    order = [redis_server.NAME, "serve", "stream"]
    return [n for n in order if n in known] + sorted(known - set(order))


def stop_all(
    settings: Settings, told: Callable[[str], None] = lambda _: None, ended: Callable[[list[str]], None] = lambda _: None
) -> list[str]:
    """Stop everything this checkout has started, last started first: Redis at the end. Returns what was running.

    What runs is known by the processes too, where the files about them were removed.

    Args:
        told: called with each service before it is told to end.
        ended: called when all have ended but Redis.
    """
    Supervisor(settings).end_lost()
    stopped, known = [], names(settings, process.recover(settings))
    others = [name for name in known if name != redis_server.NAME]
    for name in reversed(known):
        told(name)
        if process.stop(settings, name, grace_s=40):
            stopped.append(name)
        if others and name == others[0]:
            ended(others)
    return stopped


def status(settings: Settings) -> list[dict[str, object]]:
    """A row per service.

    Returns:
        name; whether it runs; its state in words (`running`, `starting`, `failing`: it ends and is started again, `stopped`, `unwatched`:
        it runs, and its supervisor does not); pid; start time (seconds since the epoch); resident memory (MB); port; restarts by the
        supervisor; how it ended last, such as `exit status 1`, or why the supervisor ended it.
    """
    rows: list[dict[str, object]] = []
    process.recover(settings)
    try:
        kept = {one.name: one for one in Supervisor(settings).kept()}
    except SupervisorError:
        kept = {}
    for name in names(settings):
        running, known = process.alive(settings, name), kept.get(name)
        where = {"redis": "redis", "serve": "http"}.get(name)
        rows.append(
            {
                "name": name,
                "running": running is not None,
                "state": _state(running is not None, known.state if known else ""),
                "pid": running.pid if running else None,
                "started": running.started if running else None,
                "memory_mb": running.memory_mb if running else 0.0,
                "port": port(settings.state, where) if where else None,
                "restarts": process.restarts(settings, name),
                "last_end": process.why_ended(settings, name) or (known.last_end if known else ""),
            }
        )
    return rows


def _state(running: bool, kept: str) -> str:
    if running:
        return "running" if kept else "unwatched"
    return {"": "stopped", "STARTING": "starting", "BACKOFF": "failing", "STOPPING": "stopping"}.get(kept, "starting")
