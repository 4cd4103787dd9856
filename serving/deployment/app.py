"""The shell around the application for one machine: a one-node Ray with its HAProxy ingress, of this checkout alone, in the foreground.

`serving.deployment.environment` comes first (Ray reads it at import); `run` starts, announces readiness, waits for SIGTERM or SIGINT, and leaves no process behind. Where it is killed, Ray and what runs in it go
on (`serving.deployment.ray_head`), and the next `run` takes them over.

All ports, sockets and files are this checkout's own. Nothing binds another address than `settings.host` (`serving.deployment.haproxy`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import psutil

from infra import files, private
from infra.cause import cause_of
from infra.ports import port
from infra.settings import Settings, load_settings
from infra.supervision.launch import SELF
from serving.deployment import leftovers, ray_head, readiness
from serving.deployment.application import NAME, bound
from serving.deployment.environment import ServeError, configure, ingress
from serving.deployment.haproxy import Ingress, IngressError, read
from serving.deployment.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)


def _most(settings: Settings) -> int:
    return max(settings.replicas, settings.replicas_max) + int(settings.spare)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; prints one line when ready.

    Where the run before was killed, its Ray goes on serving, and this run takes it over.

    Raises:
        ServeError: this checkout serves already, the application was not up within `START_S` seconds, or Ray died.
    """
    refusal = ServeError(f"this checkout serves already on http://{settings.host}:{port(settings.state, 'http')}; stop that first")
    with files.alone(settings.run_dir / "serve.lock", refusal=refusal):
        stopping = Event()
        _heed(stopping)
        _serve(settings, stopping)


def _heed(stopping: Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


def _serve(settings: Settings, stopping: Event) -> None:
    private.folder(leftovers.scratch(settings))
    folder, before = configure(settings), {k: v for k, v in os.environ.items() if k != SELF}
    made = ray_head.made_of({k: v for k, v in before.items() if k.startswith(("HEADRACE_", "RAY_", "PYTHON"))})
    try:
        _deploy(settings, folder, made, stopping)
    except (ray_head.HeadError, _DeployError) as error:
        if stopping.is_set():
            return
        print(f"not up yet: {error}; once more, from the start", flush=True)
        try:
            _deploy(settings, folder, made, stopping)
        except (ray_head.HeadError, _DeployError) as again:
            raise ServeError(f"{again}; see {folder / 'r' / 'session_latest' / 'logs'}") from None


class _DeployError(RuntimeError):
    """Ray runs, and the application could not be brought into it."""


def _deploy(settings: Settings, folder: Path, made: str, stopping: Event) -> None:
    """Start or find Ray, deploy where that is not done, and stay until told to stop."""
    import ray
    from ray import serve

    started: set[psutil.Process] = set()
    try:
        found = ray_head.find(settings, made)
        facing = _facing(folder) if found is not None else None
        if found is None or facing is None:
            clear(settings)
            # the logs of the last run stay until now
            shutil.rmtree(folder / "r", ignore_errors=True)
            port(settings.state, "http", claim=True)
            if settings.grpc and not settings.grpc_port:
                port(settings.state, "grpc", claim=True)
            ingress(settings).write()
            found = ray_head.start(
                settings, folder, max(2, os.cpu_count() or 2, math.ceil(_most(settings) * settings.replica_cpus)), made, stopping
            )
            facing = read(folder)
        with StandIn(facing, port(settings.state, "http")):
            try:
                ray.init(address=found.address, log_to_driver=False, logging_level=logging.WARNING)
                _heed(stopping)  # Ray has put its own handlers there
                _application(settings)
            except Exception as error:
                raise _DeployError(f"Ray Serve did not start: {cause_of(error)}") from error
            if readiness.wait(settings, stopping):
                print(f"ready http://{settings.host}:{port(settings.state, 'http')}", flush=True)
            while not stopping.is_set():
                leftovers.note(settings, started, found.pid)
                if not found.wait(1.0):
                    raise ServeError("Ray's head process died, and with it all that it served; another start begins anew")
    finally:
        with contextlib.suppress(Exception):  # of a Ray that died nothing is left to shut down
            leftovers.note(settings, started, found.pid if found else None)
            if ray.is_initialized() and found and found.lives():
                serve.shutdown()  # type: ignore[no-untyped-call]
        with contextlib.suppress(Exception):
            ray.shutdown()
        clear(settings, started)


def _facing(folder: Path) -> Ingress | None:
    """The ingress of a head that was left; None where its file is broken: all begins anew then."""
    try:
        return read(folder)
    except IngressError as error:
        log.warning("%s", error)
        return None


def _application(settings: Settings) -> None:
    """Start Serve and the application, unless both are there: a driver that was killed has left them."""
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import ApplicationStatus, LoggingConfig

    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.start(
        proxy_location=ProxyLocation.EveryNode,
        http_options=HTTPOptions(host=settings.host, port=port(settings.state, "http")),
        logging_config=quiet,
    )
    there = serve.status().applications.get(NAME)
    if there is None or there.status not in (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING):
        serve.run(bound(settings, wait_for_models=False), name=NAME, route_prefix="/", blocking=False, logging_config=quiet)


def clear(settings: Settings, started: Iterable[psutil.Process] = ()) -> None:
    """End Ray's head and whatever a run of this checkout has left."""
    ray_head.stop(settings)
    leftovers.end(settings, {*started, *leftovers.left(settings, leftovers.scratch(settings))})


if __name__ == "__main__":
    os.umask(private.UMASK)
    from serving.deployment.app import run as _run

    _run(load_settings())
