"""The services of one checkout: what each is started with, when it is ready, and in which order they come and go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from infra import process, redis_server
from infra.ports import port
from infra.settings import ROOT, Settings


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
                log.seek(offset)
                return any(line.startswith(service.says.encode()) for line in log)
        except FileNotFoundError:
            return False

    argv = [sys.executable, str(ROOT / "headrace.py"), *service.command]
    return process.start(settings, service.name, argv, ready, service.timeout_s, dict(service.env))


def names(settings: Settings) -> list[str]:
    """Services that have been started, in starting order."""
    known = {p.stem for p in settings.run_dir.glob("*.json")}
    order = [redis_server.NAME, "serve", "stream"]
    return [n for n in order if n in known] + sorted(known - set(order))


def stop_all(settings: Settings, told: Callable[[str], None] = lambda _: None) -> list[str]:
    """Stop everything this checkout has started, last started first. Returns what was running."""
    stopped = []
    for name in reversed(names(settings)):
        told(name)
        if process.stop(settings, name, grace_s=40):
            stopped.append(name)
    return stopped


def status(settings: Settings) -> list[dict[str, object]]:
    """A row per service: name, whether it runs, pid, start time (seconds since the epoch), resident memory (MB), port."""
    rows: list[dict[str, object]] = []
    for name in names(settings):
        running = process.alive(settings, name)
        where = {"redis": "redis", "serve": "http"}.get(name)
        rows.append(
            {
                "name": name,
                "running": running is not None,
                "pid": running.pid if running else None,
                "started": running.started if running else None,
                "memory_mb": running.memory_mb if running else 0.0,
                "port": port(settings, where) if where else None,
            }
        )
    return rows
