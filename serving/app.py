"""The Ray Serve application: a one-node Ray with its HAProxy ingress, of this checkout alone, in the foreground.

`configure` puts everything Ray and Serve read at import time into the environment (so it must run before Ray is imported);
`run` starts, announces readiness, waits for SIGTERM or SIGINT, and leaves no process behind; `stop` ends a run from outside.

All ports, sockets and files are this checkout's own. Nothing binds another address than `settings.host` (`serving.ingress`).
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
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

import msgspec
import psutil

from infra import private
from infra.ports import port
from infra.settings import ROOT, Settings, settings
from serving.ingress import Ingress, connections, read
from serving.stand_in import StandIn

if TYPE_CHECKING:
    from serving.api import Front

NAME = "headrace"
START_S = 120.0
STOP_S = 30.0
MAX_ONGOING, MAX_QUEUED = 256, 512
OBJECT_STORE_BYTES = 100 * 1024 * 1024
_PROCESSES = ("raylet", "gcs_server", "haproxy", "python", "ray")
log = logging.getLogger(__name__)


class ServeError(RuntimeError):
    """The application did not start, or runs already; the message says what to do."""


def scratch(settings: Settings) -> Path:
    """Where Ray and HAProxy keep sockets and session files.

    Unix socket paths end at 107 bytes, a checkout's own path may be longer: so a short folder of its own, named by the state's hash.
    """
    digest = hashlib.sha256(str(settings.state).encode()).hexdigest()[:10]
    return Path("/tmp") / f"headrace-{digest}"


def configure(settings: Settings) -> Path:
    """Set the environment that Ray, Serve, HAProxy and the replicas start with.

    Returns:
        the scratch folder.

    Raises:
        ServeError: Ray was imported already, so that it would not see this.
        NotOursError: the scratch folder is another user's.
    """
    if "ray" in sys.modules:
        raise ServeError("ray was imported before serving.app.configure(): its settings are read at import")
    folder = scratch(settings)
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
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(ingress(settings).write()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(port(settings, "haproxy-metrics")),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(port(settings, "haproxy-stats")),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a log line per request, parsed in Python; replicas measure better
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",  # a replica that takes no connection is down now, not after its next health check
        "RAY_SERVE_HAPROXY_MAXCONN": str(connections()),
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine takes its time; Ray's 5 s and 30 s end in a restart
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(port(settings, "fallback-proxy")),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(port(settings, "fallback-proxy-grpc")),
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
    return Ingress(str(scratch(settings)), settings.host, f"http-{NAME}", settings.max_at_once, spare)


def _token(settings: Settings) -> Path:
    """A secret of this checkout's own: no other local process may run code in its Ray."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    path = settings.run_dir / "ray-token"
    private.secret(path)
    return path


def build() -> Front:
    """The replica's application; called by Serve in the replica, with the environment of `configure`."""
    from serving.api import Front, build_app
    from serving.plane import DataPlane

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

    Raises:
        ServeError: this checkout serves already, or the application was not up within `START_S` seconds.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with open(settings.run_dir / "serve.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServeError(f"this checkout serves already on http://{settings.host}:{port(settings, 'http')}; stop that first") from None
        _end(_leftovers(settings))
        shutil.rmtree(
            private.folder(scratch(settings)) / "r", ignore_errors=True
        )  # sessions of runs before; the last one's logs stay until now
        stopping = Event()
        pid_file = settings.run_dir / "serve.pid"
        pid_file.write_text(str(os.getpid()))
        try:
            _serve(settings, stopping)
        finally:
            pid_file.unlink(missing_ok=True)


def _serve(settings: Settings, stopping: Event) -> None:
    port(settings, "http", claim=True)
    if settings.grpc:
        port(settings, "grpc", claim=True)
    folder = configure(settings)
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    started: set[psutil.Process] = set()
    try:
        ray.init(
            address="local",
            num_cpus=max(2, os.cpu_count() or 2, math.ceil(_most(settings) * settings.replica_cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address=settings.host,
            _temp_dir=str(folder / "r"),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=settings.host, port=port(settings, "http")),
            logging_config=quiet,
        )
        serve.run(application(settings), name=NAME, route_prefix="/", blocking=False, logging_config=quiet)
        with StandIn(read(folder), port(settings, "http")):
            if _await_ready(settings, stopping):
                print(f"ready http://{settings.host}:{port(settings, 'http')}", flush=True)
            while not stopping.wait(2.0):
                _remember(settings, started)
    finally:
        _remember(settings, started)
        try:
            if ray.is_initialized():
                serve.shutdown()  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()
            _end(started | _leftovers(settings))
            _children(settings).unlink(missing_ok=True)


def _children(settings: Settings) -> Path:
    return settings.run_dir / "serve.children"


def _remember(settings: Settings, started: set[psutil.Process]) -> None:
    """Add this process's descendants to `started`, and to a file: should this process be killed, the next can end what it left."""
    now = set(psutil.Process().children(recursive=True))
    if now - started:
        started |= now
        _children(settings).write_bytes(msgspec.json.encode([(p.pid, p.create_time()) for p in started if p.is_running()]))


def _await_ready(settings: Settings, stopping: Event) -> bool:
    """Wait until HAProxy itself reaches a replica (not Serve's slow Python proxy) and the replica is ready; False when told to stop."""
    reason = "no replica is up"
    deadline = time.monotonic() + START_S
    told = False
    while not stopping.wait(0.1):
        status, answer = _get(f"http://{settings.host}:{port(settings, 'haproxy-stats')}/stats;csv")
        if status == 200 and _replica_up(answer):
            status, answer = _get(f"http://{settings.host}:{port(settings, 'http')}/readyz")
            if status == 200:
                return True
            reason = _detail(answer)
            if not told and time.monotonic() > deadline - START_S + 30:
                print(f"not ready yet: {reason}", flush=True)
                told = True
        elif time.monotonic() > deadline:
            raise ServeError(
                f"serving did not start within {START_S:.0f} s: {reason}; see {scratch(settings) / 'r' / 'session_latest' / 'logs'}"
            )
    return False


def _get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def _replica_up(statistics: bytes) -> bool:
    """Whether HAProxy's statistics show a replica up (`act` 1: a server in use; Serve's fallback proxy is `bck`)."""
    rows = csv.DictReader(io.StringIO(statistics.decode(errors="replace").lstrip("# ")))
    return any(row["status"] == "UP" and row["act"] == "1" and row["svname"] not in ("BACKEND", "FRONTEND") for row in rows)


def _detail(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "the replica does not answer"


def _leftovers(settings: Settings) -> set[psutil.Process]:
    """What a killed run of this checkout left: the processes it noted down, and those whose command line names its scratch folder."""
    found = set()
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        for pid, created in msgspec.json.decode(_children(settings).read_bytes(), type=list[tuple[int, float]]):
            with contextlib.suppress(psutil.Error):
                if abs((process := psutil.Process(pid)).create_time() - created) < 0.01:
                    found.add(process)
    mark = f"{scratch(settings)}/"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.name().startswith(_PROCESSES) and process.pid != os.getpid()
            if ours and any(mark in part for part in process.cmdline()):
                found.add(process)
    return found


def _end(processes: set[psutil.Process]) -> None:
    """End exactly these: TERM, and KILL after five seconds."""
    for process in (alive := [p for p in processes if p.is_running()]):
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(alive, timeout=5)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def stop(settings: Settings) -> bool:
    """End this checkout's run, wherever it was started; True where there was one.

    Raises:
        ServeError: it did not end.
    """
    pid_file = settings.run_dir / "serve.pid"
    running = False
    if pid_file.is_file():
        try:
            process = psutil.Process(int(pid_file.read_text()))
            if process.create_time() <= pid_file.stat().st_mtime + 1:
                running = True
                process.terminate()
                process.wait(STOP_S + 30)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            raise ServeError(f"process {pid_file.read_text()} does not end; end it by hand") from None
        pid_file.unlink(missing_ok=True)
    leftovers = _leftovers(settings)
    _end(leftovers)
    return running or bool(leftovers)


if __name__ == "__main__":
    os.umask(private.UMASK)
    from serving.app import run as _run  # not __main__'s: Serve pickles `build` by the name of its module

    _run(settings())
