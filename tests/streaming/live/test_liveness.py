"""What the stream says of itself: a process that runs is not yet a stream that works."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_repo.records.redis_keys import applied_key, events_key
from infra.settings import Settings
from infra.supervision import beat
from streaming.online.store import connect
from tests.streaming.test_survival import SEAM, Engine, own, project, seen
from tests.streaming.world import wait_applied

__all__ = ["own", "project"]


def part(client: Any, project: str) -> beat.Part | None:
    return next((p for p in beat.judge(*beat.read(client, project)) if p.name == "stream"), None)


def within(seconds: float, found: Callable[[], Any], said: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert value, said()
    return value


@pytest.mark.integration
def test_a_stream_whose_batches_fail_for_ever_is_failing_until_they_do_not(own: Settings, project: str, tmp_path: Path) -> None:
    client = connect(own.redis())

    def now() -> beat.Part | None:
        return part(client, project)

    engine = Engine(own, "stream", tmp_path, project, SEAM)
    engine.wait_ready()
    client.xadd(events_key(project), {"source": "things", "data": seen(1, 16)})
    wait_applied(client, project)
    within(10, lambda: (p := now()) and p.state == "well", now)
    # whatever the reason: what each batch writes last can no longer be written
    held = client.hgetall(applied_key(project))
    client.set(applied_key(project), "what somebody else put here")
    client.xadd(events_key(project), {"source": "things", "data": seen(2, 16)})
    found = within(60, lambda: (p := now()) and p.state == "failing" and p, now)
    assert found.detail.startswith("failing: the stream failed: ")
    assert "WRONGTYPE" in found.detail
    for forbidden in ("Traceback", "\n", "JVM", "SQLSTATE", "\tat "):
        assert forbidden not in found.detail
    deadline = time.monotonic() + 12  # several tries: a query that was started again has shown nothing yet
    while time.monotonic() < deadline:
        again = now()
        assert again is not None
        assert again.state == "failing"
        time.sleep(0.1)
    pauses = [float(s) for s in re.findall(r"next try in ([\d.]+) s", engine.log.read_text())]
    assert len(pauses) > 3
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3 * pauses[0], "ever more slowly"
    client.delete(applied_key(project))
    client.hset(applied_key(project), mapping=held)
    wait_applied(client, project)
    within(20, lambda: (p := now()) and p.state == "well", now)
    engine.child.send_signal(signal.SIGSTOP)
    within(30, lambda: (p := now()) and p.state == "silent", now)
    engine.child.send_signal(signal.SIGCONT)
    within(10, lambda: (p := now()) and p.state == "well", now)
    engine.child.terminate()
    engine.end()
    assert now() is None, "it was told to stop"
