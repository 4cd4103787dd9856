"""What Ray, Serve, HAProxy and the replicas read at import time: put into the environment before Ray is imported.

All ports, sockets and files are this checkout's own.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import sys
from pathlib import Path

from infra import private
from infra.ports import port
from infra.settings import ROOT, Settings
from serving.deployment import leftovers
from serving.deployment.application import NAME
from serving.deployment.haproxy import BINARY, Ingress, connections


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
        raise ServeError("ray was imported before serving.deployment.environment.configure(): its settings are read at import")
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
