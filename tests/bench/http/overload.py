"""What happens beyond capacity: requests of a hundred instances at half to three times what the server can answer, due at fixed moments."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
import time
from collections.abc import Callable
from statistics import median

import httpx

from infra.ports import port
from infra.settings import ROOT, Settings
from infra.supervision import redis_server
from tests.bench.http import scalars
from tests.bench.http.load import paced, wrk
from tests.bench.http.targets import running
from tests.bench.report import Measurement

LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
ROWS = 100


def run(own: Settings, scale: float, rounds: int, told: Callable[[str], None]) -> list[Measurement]:
    told("features and a model")
    redis_server.up(own)
    scalars.make(own, own.state / "repo")
    bodies = scalars.predict_bodies(100, ROWS)
    path = scalars.write_bodies(own.state / "heavy.jsonl", bodies)
    url = f"http://127.0.0.1:{port(own.state, 'http')}"
    predict, seconds = f"{url}/v1/models/{scalars.MODEL}/predict", max(2.0, 8 * scale)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HEADRACE_REPO": str(own.state / "repo"), "HEADRACE_REDIS_URL": own.redis()}
    environment |= {"HEADRACE_MAX_AT_ONCE": "8", "HEADRACE_REPLICAS_MAX": "2", "HEADRACE_REPLICAS": "1", "HEADRACE_REPLICA_CPUS": "0.5"}
    found = []
    fixed = environment | {"HEADRACE_REPLICAS_MAX": "0"}
    with running(own, [sys.executable, "-m", "serving.deployment.app"], fixed, "ours", f"{url}/readyz"):
        told("capacity")
        wrk(predict, path, 4, 2)
        capacity = wrk(predict, path, 4, seconds).rate
        found.append(Measurement(f"capacity, requests of {ROWS} instances", "1/s", capacity))
        for load in LOADS:
            told(f"{load:.1f} times capacity")
            curve = [paced(predict, bodies, load * capacity, seconds) for _ in range(rounds)]
            accepted = sorted(x for c in curve for x in c.accepted)
            refused = sorted(x for c in curve for x in c.refused)
            total = len(accepted) + len(refused) + sum(c.failed for c in curve)
            name = f"at {load:.1f} times capacity"
            found.append(Measurement(f"{name}: accepted, p50", "ms", accepted[len(accepted) // 2]))
            found.append(Measurement(f"{name}: accepted, p99", "ms", accepted[int(len(accepted) * 0.99)]))
            found.append(Measurement(f"{name}: answered with predictions", "1/s", median(len(c.accepted) / c.seconds for c in curve)))
            found.append(Measurement(f"{name}: share refused (503)", "", len(refused) / total))
            if refused:
                found.append(Measurement(f"{name}: refused within, p99", "ms", refused[int(len(refused) * 0.99)]))
            found.append(Measurement(f"{name}: failed in another way", "", sum(c.failed for c in curve)))
    with running(own, [sys.executable, "-m", "serving.deployment.app"], environment, "ours", f"{url}/readyz"):
        told("autoscaling")
        began, replicas = time.monotonic(), 1
        while replicas < 2 and time.monotonic() - began < 90:
            wrk(predict, path, 8, 2)
            replicas = _replicas(own)
        found.append(Measurement("replicas in service under load, from one", "", replicas))
        found.append(Measurement("until the second one served", "s", time.monotonic() - began))
    return found


def _replicas(own: Settings) -> int:
    with contextlib.suppress(httpx.HTTPError):
        text = httpx.get(f"http://127.0.0.1:{port(own.state, 'haproxy-stats')}/stats;csv").text
        rows = csv.DictReader(io.StringIO(text.lstrip("# ")))
        return sum(r["status"] == "UP" and r["act"] == "1" and r["svname"] not in ("BACKEND", "FRONTEND") for r in rows)
    return 0
