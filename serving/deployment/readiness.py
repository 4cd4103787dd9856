"""Waiting until a request that comes in is answered."""

from __future__ import annotations

import csv
import http.client
import io
import time
import urllib.error
import urllib.request
from threading import Event
from typing import Any

from infra import files
from infra.ports import port
from infra.settings import Settings
from serving.deployment import leftovers
from serving.deployment.environment import ServeError

START_S = 120.0


def wait(settings: Settings, stopping: Event) -> bool:
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
