"""`headrace status`: a process that runs is not yet a part that works."""

from __future__ import annotations

import os
import secrets
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from feature_repo.records.redis_keys import applied_key, events_key, quality_key
from feature_repo.records.source_report import OddSource, SourceReport, report_path
from infra import redis_client
from infra.settings import Settings
from infra.supervision import beat
from infra.supervision.beat import parts_key
from serving import cli
from serving.status import print_status
from streaming import clock
from tests.bikes.generate import REPO as BIKES
from tests.serving.telemetry.test_liveness import record

MODEL = "turned_away"


@pytest.fixture
def own(tmp_path: Path, redis_url: str) -> Any:
    (tmp_path / "repo").mkdir()
    project = f"status_{secrets.token_hex(4)}"
    (tmp_path / "repo" / "feature_store.yaml").write_text(f"project: {project}\nregistry: {tmp_path / 'registry.db'}\n")
    yield Settings(repo=tmp_path / "repo", state=tmp_path / "state", redis_url=redis_url), project
    redis_client.client(redis_url).delete(parts_key(project))


def say(own: Settings, project: str, field: str, ago_s: float = 0.0, failing: str = "") -> None:
    redis_client.client(own.redis()).eval(beat.WRITE, 1, parts_key(project), field, beat.encode(5.0, 1000.0, failing), round(ago_s * 1e6))


def shown(own: Settings) -> list[str]:
    out = StringIO()
    print_status(own, Console(file=out, width=200))
    return out.getvalue().splitlines()


def test_status_says_who_fails_and_why_though_its_process_runs(own: tuple[Settings, str]) -> None:
    settings, project = own
    for name in ("serve", "stream", "watch-m"):
        record(settings, name, os.getpid())
    say(settings, project, "serve/a")
    say(settings, project, "stream", 1, "the stream failed: no [room]")
    say(settings, project, "watch-m", 40)
    say(settings, project, "autopilot-m", 1)
    lines = shown(settings)
    states = {line.split()[0]: line.split()[1] for line in lines[1:5]}
    assert states == {"serve": "unwatched", "stream": "failing", "watch-m": "silent", "autopilot-m": "running"}
    assert any("the supervisor does not run" in line for line in lines)
    assert "stream: failing: the stream failed: no [room]" in lines
    assert "watch-m: silent for 40 s" in lines
    assert not any(line.startswith(("serve:", "autopilot-m:")) for line in lines)


@pytest.mark.parametrize("key", [parts_key, applied_key, events_key, lambda project: quality_key(project, MODEL)])
def test_a_value_of_another_type_costs_its_own_lines_only_and_is_named(own: tuple[Settings, str], key: Any) -> None:
    settings, project = own
    (settings.repo / "models").mkdir()
    shutil.copy(BIKES / "models" / f"{MODEL}.yaml", settings.repo / "models")
    client = redis_client.client(settings.redis())
    say(settings, project, "stream")
    record(settings, "stream", os.getpid())
    client.delete(key(project))
    client.lpush(key(project), "something else")
    try:
        lines = shown(settings)
    finally:
        client.delete(key(project))
    assert any(line.startswith(" stream") for line in lines)
    assert any(line.startswith(f"model {MODEL}: ") for line in lines)
    assert any("cannot be read: WRONGTYPE" in line for line in lines)


def test_a_stopped_service_is_forgotten_however_it_ended(own: tuple[Settings, str]) -> None:
    settings, project = own
    for field in ("serve/a", "serve/b", "stream"):
        say(settings, project, field, 40)
    cli._forget(settings, ["serve"])
    assert list(beat.read(redis_client.client(settings.redis()), project)[1]) == ["stream"]
    cli._quietly(settings, beat.tidy)
    assert beat.read(redis_client.client(settings.redis()), project)[1] == {}


def test_what_parts_say_is_no_reason_for_a_stop_to_fail(tmp_path: Path) -> None:
    cli._forget(Settings(repo=tmp_path / "none", state=tmp_path, redis_url="redis://127.0.0.1:1"), ["serve"])


def test_an_odd_source_has_a_line_and_one_that_only_moved_has_none(own: tuple[Settings, str]) -> None:
    settings, project = own
    say(settings, project, "stream")
    path = report_path(settings.state, project)
    path.parent.mkdir(parents=True)
    odd = [OddSource("tills", "nulls", "price", "unusual", 0, "price is [null]"), OddSource("doors", "level", "wide", "moved", 0, "wider")]
    path.write_bytes(msgspec.json.encode(SourceReport(1, ["tills"], odd, {"lifts": "till is a list"})))
    lines = shown(settings)
    assert "source tills: unusual: nulls since 1970-01-01 00:00: price is [null] (`headrace sources`)" in lines
    assert "source lifts: cannot be read: till is a list" in lines
    assert not any("doors" in line for line in lines)
    client = redis_client.client(settings.redis())
    clock.set_rehearsal(client, project, 0)
    try:
        lines = shown(settings)
    finally:
        clock.end_rehearsal(client, project)
    assert not any("price is" in line for line in lines), "it has not happened yet"
    assert any(line.startswith("the sources were looked at last up to 1970-01-01 00:00") for line in lines)
    path.write_text("no json")
    assert any(line.startswith("what the sources did cannot be read") for line in shown(settings))
