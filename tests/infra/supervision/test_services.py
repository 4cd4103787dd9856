"""Services that are commands of ours: started in the background, listed, stopped in reverse order."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from infra.settings import Settings
from infra.supervision import process, services

pytestmark = pytest.mark.integration


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A checkout whose `headrace.py` is a stand-in: it says what it is told, and sleeps."""
    (tmp_path / "headrace.py").write_text("import sys, time\nprint(sys.argv[1], flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(services, "ROOT", tmp_path)
    return Settings(state=tmp_path / "state")


def test_a_service_is_ready_when_its_log_says_so(own: Settings) -> None:
    try:
        running = services.start(own, services.Service("one", ("ready",), "ready", timeout_s=30))
        assert running.argv[0] == sys.executable
        assert process.log_path(own, "one").read_text().splitlines()[-1] == "ready"
    finally:
        services.stop_all(own)


def test_what_an_earlier_run_said_does_not_count(own: Settings) -> None:
    own.log_dir.mkdir(parents=True)
    process.log_path(own, "one").write_text("ready\n")
    with pytest.raises(process.ServiceError, match="not ready within"):
        services.start(own, services.Service("one", ("something-else",), "ready", timeout_s=0.5))


def test_services_stop_in_reverse_order_and_status_says_so(own: Settings) -> None:
    for name in ("redis", "serve", "stream", "watch-peaks"):
        services.start(own, services.Service(name, ("ready",), "ready", timeout_s=30))
    assert [(r["name"], r["running"]) for r in services.status(own)] == [(n, True) for n in ("redis", "serve", "stream", "watch-peaks")]
    told: list[str] = []
    assert services.stop_all(own, told.append) == told == ["watch-peaks", "stream", "serve", "redis"]
    assert services.status(own) == []


def test_a_service_that_died_is_listed_as_stopped(own: Settings) -> None:
    own.run_dir.mkdir(parents=True)
    (own.run_dir / "stream.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0.0, "argv": []}))
    (row,) = services.status(own)
    assert (row["name"], row["running"], row["pid"]) == ("stream", False, None)
