"""What is found of a source is in the watch's log though no window drifts: once, and once when it is over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feature_repo.records.source_report import OddSource, SourceReport, report_path
from infra.settings import Settings
from serving.monitoring import source_news, watch
from streaming import clock
from tests.serving.monitoring.pump import MODEL, Log, register, rows

pytestmark = pytest.mark.integration
PROOF = OddSource("readings", "silent", "", "proof", 5, "has been silent for 34.0 h", ["the last row"])
UNIT = OddSource("readings", "unit", "temp", "unusual", 5, "temp leaps from 60 to 16")
OTHERS = [OddSource("readings", "nulls", "flow", "unusual", 5, "x"), OddSource("readings", "unit", "wide", "moved", 5, "x")]


def found(settings: Settings, project: str, *odd: OddSource, upto_us: int = 9, unreadable: str = "others") -> Path:
    path = report_path(settings.state, project)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(SourceReport(upto_us, [], list(odd), {unreadable: "a list is no key"})))
    return path


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    said = [msgspec.json.decode(r.message) for r in caplog.records if r.name == "headrace.watch" and r.message.startswith("{")]
    return [one for one in said if one["event"].startswith("source")]


def test_a_finding_is_logged_once_and_once_when_it_is_over(
    settings: Settings, project: str, log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_news, "EVERY_S", 0.0)
    caplog.set_level(logging.INFO, "headrace.watch")
    register(settings, 1, rows(3000, 0))
    own = watch.Watch(log.client, settings, project, MODEL, 400, 100)
    log.write(rows(50, 1))
    own.poll(None)
    assert events(caplog) == [], "nobody has looked yet"
    found(settings, project, PROOF, UNIT, *OTHERS)
    for _ in range(3):
        own.poll(None)
    said = events(caplog)
    assert sorted((one["event"], one["kind"], one["says"]) for one in said) == [
        ("source", "silent", "proof"),
        ("source", "unit", "unusual"),
    ]
    assert next(one for one in said if one["kind"] == "silent")["rows"] == ["the last row"]
    found(settings, project, UNIT, unreadable="readings")
    own.poll(None)
    assert len(events(caplog)) == 2, "what cannot be read is not over"
    path = found(settings, project, UNIT)
    own.poll(None)
    assert [(one["event"], one.get("finding")) for one in events(caplog)[2:]] == [("source over", "readings/silent")]
    path.write_text("{")
    own.poll(None)
    assert "cannot be read" in str(events(caplog)[3:]) or str(path) in str(events(caplog)[3:])


def test_what_lies_beyond_a_rehearsals_clock_is_not_told(
    settings: Settings, project: str, log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_news, "EVERY_S", 0.0)
    caplog.set_level(logging.INFO, "headrace.watch")
    own = watch.Watch(log.client, settings, project, MODEL, 400, 100)
    clock.set_rehearsal(log.client, project, 1_000)
    found(settings, project, PROOF, upto_us=2_000)
    own.poll(None)
    assert events(caplog) == []
    clock.set_rehearsal(log.client, project, 2_000)
    own.poll(None)
    assert [one["event"] for one in events(caplog)] == ["source"]
