"""The Ray Serve application: a one-node Ray with its HAProxy ingress, of this checkout alone, in the foreground.

`configure` puts everything Ray and Serve read at import time into the environment (so it must run before Ray is imported);
`run` starts, announces readiness, waits for SIGTERM or SIGINT, and leaves no process behind. Where it is killed, Ray and what runs in it go
on (`serving.deployment.ray_head`), and the next `run` takes them over.

All ports, sockets and files are this checkout's own. Nothing binds another address than `settings.host` (`serving.deployment.haproxy`).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.client
import io
import ipaddress
import logging
import math
import os
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import psutil

from infra import files, private
from infra.cause import cause
from infra.ports import port
from infra.settings import ROOT, Settings, settings
from infra.supervision.launch import SELF
from serving.deployment import leftovers, ray_head
from serving.deployment.haproxy import BINARY, Ingress, IngressError, connections, read
from serving.deployment.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving.http.app import Front

NAME = "headrace"
START_S = 120.0
MAX_ONGOING, MAX_QUEUED = 256, 512
log = logging.getLogger(__name__)


class ServeError(RuntimeError):
    """The application did not start, or runs already; the message says what to do."""


def configure(settings: Settings) -> Path:
    """Set the environment that Ray, Serve, HAProxy and the replicas start with.

    Returns:
        the scratch folder.

    Raises:
        ServeError: Ray was imported already, so that it would not see this.
        NotOursError: the scratch folder is another user's.
    """
    if "ray" in sys.modules:
        raise ServeError("ray was imported before serving.deployment.app.configure(): its settings are read at import")
    folder = leftovers.scratch(settings)
    haproxy = folder / "h"
    private.folder(folder)
    private.folder(haproxy)
    settings.export()
    own = int(hashlib.sha256(str(settings.state).encode()).hexdigest(), 16)
    replicas = 20_000 + 64 * (own % 150)  # below the kernel's ephemeral ports; Serve takes the next where one is in use
    environment = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        BINARY: str(ingress(settings).launcher),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(port(settings.state, "haproxy-metrics")),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(port(settings.state, "haproxy-stats")),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a log line per request, parsed in Python; replicas measure better
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",  # a replica that takes no connection is down now, not after its next health check
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",  # the second for what only reads (serving/deployment/haproxy.py)
        "RAY_SERVE_HAPROXY_MAXCONN": str(connections()),
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine takes its time; Ray's 5 s and 30 s end in a restart
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(port(settings.state, "fallback-proxy")),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(port(settings.state, "fallback-proxy-grpc")),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas + 31),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(replicas + 32),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(replicas + 63),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "0.25,0.5,0.75,1,1.5,2,3,5,7.5,10,15,25,50,100,250,500,1000,2500",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(settings)),
        "RAY_DEDUP_LOGS": "0",
        # Ray's own metrics servers ask nobody for a token, and two of them bind every interface; a port below 0 is not opened
        "RAY_enable_metrics_collection": "0",
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])),
    }
    if ipaddress.ip_address(socket.gethostbyname(settings.host)).is_loopback:
        # Ray turns a loopback address into the machine's own, and listens everywhere, unless it is told that there is no cluster
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.update(settings.environment() | environment | {"HEADRACE_REDIS_URL": settings.redis()})
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_SERVE_DEFAULT_HTTP_HOST"):
        os.environ.pop(name, None)
    return folder


def ingress(settings: Settings) -> Ingress:
    """What HAProxy is to do, and where its files are."""
    spare = settings.spare and settings.replicas == 1 and settings.replicas_max <= 1
    return Ingress(str(leftovers.scratch(settings)), settings.host, f"http-{NAME}", settings.max_at_once, spare)


def _token(settings: Settings) -> Path:
    """A secret of this checkout's own: no other local process may run code in its Ray."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    path = settings.run_dir / "ray-token"
    private.secret(path)
    return path


def build() -> Front:
    """The replica's application; called by Serve in the replica, with the environment of `configure`."""
    from serving.handlers.data_plane import DataPlane
    from serving.http.app import Front, build_app

    logging.getLogger("serving").setLevel(logging.INFO)
    own = settings()
    own.export()
    plane = DataPlane(own)
    return Front(build_app(plane), plane)


def application(settings: Settings) -> Any:
    """The bound Serve application: one fused deployment (a second hop would cost more than the prediction)."""
    from ray import serve
    from ray.serve.config import BackpressureConfig

    class Headrace:
        pass

    return serve.deployment(
        name=NAME,
        **_replicas(settings),
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    )(serve.ingress(build)(Headrace)).bind()


def _replicas(settings: Settings) -> dict[str, Any]:
    """How many replicas: a number, or from the one to the other as the requests that are being answered ask for."""
    spare = int(settings.spare)
    if settings.replicas_max <= settings.replicas:
        return {"num_replicas": settings.replicas + spare}
    return {
        "autoscaling_config": {
            "min_replicas": settings.replicas + spare,
            "initial_replicas": settings.replicas + spare,
            "max_replicas": settings.replicas_max + spare,
            "target_ongoing_requests": settings.max_at_once / 4,
            "upscale_delay_s": 3.0,
            "downscale_delay_s": 60.0,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 3.0,
        }
    }


def _most(settings: Settings) -> int:
    return max(settings.replicas, settings.replicas_max) + int(settings.spare)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; prints one line when ready.

    Where the run before was killed, its Ray goes on serving, and this run takes it over.

    Raises:
        ServeError: this checkout serves already, the application was not up within `START_S` seconds, or Ray died.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(files.alone(settings.run_dir / "serve.lock", wait=False))
        except files.HeldError:
            raise ServeError(
                f"this checkout serves already on http://{settings.host}:{port(settings.state, 'http')}; stop that first"
            ) from None
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
            if settings.grpc:
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
                raise _DeployError(f"Ray Serve did not start: {cause(error)}") from error
            if _await_ready(settings, stopping):
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
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=settings.host, port=port(settings.state, "http")),
        logging_config=quiet,
    )
    there = serve.status().applications.get(NAME)
    if there is None or there.status not in (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING):
        serve.run(application(settings), name=NAME, route_prefix="/", blocking=False, logging_config=quiet)


def clear(settings: Settings, started: Iterable[psutil.Process] = ()) -> None:
    """End Ray's head and whatever a run of this checkout has left."""
    ray_head.stop(settings)
    leftovers.end(settings, {*started, *leftovers.left(settings, leftovers.scratch(settings))})


def _await_ready(settings: Settings, stopping: Event) -> bool:
    """Wait until HAProxy itself reaches a replica (not Serve's slow Python proxy) and the replica is ready; False when told to stop."""
    reason = "no replica is up"
    deadline = time.monotonic() + START_S
    told = False
    while not stopping.wait(0.1):
        status, answer = _get(f"http://{settings.host}:{port(settings.state, 'haproxy-stats')}/stats;csv")
        if status == 200 and _replica_up(answer):
            status, answer = _get(f"http://{settings.host}:{port(settings.state, 'http')}/readyz")
            if status == 200:
                return True
            reason = detail(answer)
            if not told and time.monotonic() > deadline - START_S + 30:
                print(f"not ready yet: {reason}", flush=True)
                told = True
        elif time.monotonic() > deadline:
            raise ServeError(
                f"serving did not start within {START_S:.0f} s: {reason}; see {leftovers.scratch(settings) / 'r' / 'session_latest' / 'logs'}"
            )
    return False


def _get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, http.client.HTTPException):  # cut off in the middle, by what was killed meanwhile
        return 0, b""


def _replica_up(statistics: bytes) -> bool:
    """Whether HAProxy's statistics show a replica up (`act` 1: a server in use; Serve's fallback proxy is `bck`)."""
    rows = csv.DictReader(io.StringIO(statistics.decode(errors="replace").lstrip("# ")))
    return any(row["status"] == "UP" and row["act"] == "1" and row["svname"] not in ("BACKEND", "FRONTEND") for row in rows)


def detail(answer: bytes) -> str:
    """What a problem object says in words."""
    try:
        return str(files.parse(answer, dict[str, Any])["detail"])
    except (ValueError, KeyError):
        return "the replica does not answer"


if __name__ == "__main__":
    os.umask(private.UMASK)
    from serving.deployment.app import run as _run  # not __main__'s: Serve pickles `build` by the name of its module

    _run(settings())
