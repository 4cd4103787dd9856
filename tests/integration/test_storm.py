"""The parts of the storm: its inputs, its ledger, and when it calls something recovered."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.settings import ROOT
from tests.bench.storm import recovery
from tests.bench.storm.faults import Fault
from tests.bench.storm.ground import Ground, ground
from tests.bench.storm.storm import Course, Plan, Struck
from tests.bench.storm.traffic.client import CUT, REFUSED, RESET, TIMEOUT, Answer, ask, request
from tests.bench.storm.traffic.hostile_events import FUTURE, MADE, event
from tests.bench.storm.traffic.hostile_requests import KINDS, hostile
from tests.bench.storm.traffic.ledger import Ledger, Outcome
from tests.bench.storm.verdict import Verdict, _memory


@pytest.fixture
def place() -> Iterator[Ground]:
    with ground() as made:
        yield made


def test_every_hostile_event_is_one_of_a_kind_and_says_what_must_become_of_it() -> None:
    made = [event(n) for n in range(3 * len(MADE))]
    assert len({one.data for one in made}) >= len(made) - 3  # a deep one may come again
    assert all((one.row is not None) == (one.expect == "applied") for one in made)
    assert {kind for kind, _, _ in FUTURE} < {kind for kind, _, _ in MADE}
    assert [hostile(n).kind for n in range(KINDS)] == [hostile(n).kind for n in range(KINDS, 2 * KINDS)]


@pytest.mark.parametrize(
    ("answer", "hostile", "verdict"),
    [
        (Answer(200, 0.1), False, "ok"),
        (Answer(200, 0.1), True, "unexpected"),
        (Answer(422, 0.1), True, "refused"),
        (Answer(422, 0.1), False, "unexpected"),
        (Answer(500, 0.1), True, "unexpected"),
        (Answer(503, 0.1, {"retry-after": "1"}), False, "busy"),
        (Answer(503, 0.1), False, "unexpected"),
        (Answer(503, 9.0, {"retry-after": "1"}), False, "late"),
        (Answer(None, 0.1, error=REFUSED), False, "unreached"),
        (Answer(None, 0.1, error=CUT), False, "unreached"),
        (Answer(None, 20.0, error=TIMEOUT), False, "unexpected"),
    ],
)
def test_an_answer_is_judged_by_what_was_asked(answer: Answer, hostile: bool, verdict: str) -> None:
    assert Ledger().note("predict", answer, hostile=hostile).verdict == verdict


def _answers(*spans: tuple[float, float, str]) -> list[Outcome]:
    """Ten answers a second of a verdict from one moment to another."""
    return [
        Outcome(start + i / 10, "predict", verdict, False, "", 0.01)  # type: ignore[arg-type]
        for start, end, verdict in spans
        for i in range(round((end - start) * 10))
    ]


def test_serving_has_recovered_when_answers_stay_right() -> None:
    assert recovery.serving_s(_answers((0, 5, "ok")), 1.0, 10) == 0.0
    outage = _answers((0, 1, "ok"), (1, 3, "busy"), (3, 4, "ok"), (4, 4.5, "busy"), (4.5, 9, "ok"))
    assert recovery.serving_s(outage, 1.0, 10) == pytest.approx(3.4)
    assert recovery.serving_s(_answers((0, 1, "ok"), (1, 3, "busy")), 1.0, 10) is None
    silence = _answers((0, 1, "ok"), (6, 9, "ok"))
    assert recovery.serving_s(silence, 1.0, 10) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("part", "late", "expected"), [("haproxy", 10.5, True), ("haproxy", 13.0, False), ("redis", 10.5, False), ("haproxy", 40.0, False)]
)
def test_a_refusal_is_prompt_from_when_what_listens_goes_on(part: str, late: float, expected: bool) -> None:
    """HAProxy stood still from 6 to 10; the refusal came at `late`, to a request sent 4.5 s before."""
    ledger: Any = Ledger()
    ledger.outcomes.append(Outcome(late, "predict", "late", False, "503", 4.5))
    course = Course(*[None] * 3, ledger, *[None] * 3, 0.0)  # type: ignore[arg-type]
    course.plan = Plan(1.0)
    course.struck.append(Struck(Fault("stop", part, 4.0, 5.0), 6.0, 10.0))
    assert (not course.unexpected()) == expected


@pytest.mark.parametrize(
    ("what", "part", "status", "expected"),
    [
        ("kill", "replica", CUT, True), ("kill", "replica", RESET, False), ("kill", "replica", REFUSED, False), ("stop", "replica", CUT, False),
        ("kill", "haproxy", CUT, True), ("kill", "haproxy", RESET, True), ("kill", "redis", CUT, False),
    ],
)  # fmt: skip
def test_only_what_was_killed_while_it_wrote_an_answer_cuts_it_short(what: Any, part: str, status: str, expected: bool) -> None:
    ledger: Any = Ledger()
    ledger.outcomes.append(Outcome(6.1, "predict", "unreached", False, status, 0.1))
    course = Course(*[None] * 3, ledger, *[None] * 3, 0.0)  # type: ignore[arg-type]
    course.plan = Plan(1.0)
    course.struck.append(Struck(Fault(what, part, 0.0, 5.0), 6.0, 6.0))
    assert (not course.unexpected()) == expected


@pytest.mark.parametrize(
    ("sent", "error"), [(b"", RESET), (b"HTTP/1.1 200 OK\r\ncontent-le", RESET), (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", CUT)]
)
def test_a_client_tells_no_answer_from_one_that_was_cut_short(sent: bytes, error: str) -> None:
    async def meet() -> Answer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            return await ask(server.sockets[0].getsockname()[1], request("GET", "/"), 5)

    found = asyncio.run(meet())
    assert (found.status, found.error) == (None, error)


def test_memory_is_judged_of_a_process_that_has_grown_up() -> None:
    """It grows by 200 MB in its first two minutes, and then stands, or goes on."""
    for goes_on, lives_s, expected in [(False, 300, 0), (True, 300, 1), (True, 170, None)]:
        monitor: Any = SimpleNamespace(memory=[])
        for at in range(0, lives_s, 5):
            monitor.memory.append((float(at), {("autopilot", 1): 100 + min(at, 120) * 5 / 3 + goes_on * 2 * max(0, at - 120)}))
        course = Course(*[None] * 6, monitor, 0.0)  # type: ignore[arg-type]
        verdict = Verdict()
        _memory(course, verdict)
        assert len(verdict.memory) == (expected is not None)
        assert [row.value for row in verdict.rows if row.name == "processes whose memory grew"] == [expected or 0]


def test_a_stream_has_recovered_when_it_keeps_up() -> None:
    lags: list[tuple[float, float | None]] = [(0, 0.1), (1, None), (2, 9.0), (3, 0.5), (5, 0.5), (7, 0.5)]
    assert recovery.stream_s(lags, 1.0) == 1.0
    assert recovery.stream_s(lags[:4], 1.0) is None


def test_a_full_disk_is_freed_again(place: Ground) -> None:
    if not place.own_disk:
        pytest.skip("mounting a file system takes a right that this user does not have")
    assert not place.is_full()
    assert place.fill() > 0
    assert place.is_full()
    place.free()
    assert not place.is_full()


@pytest.mark.integration
@pytest.mark.timed
def test_a_short_storm_loses_doubles_and_falsifies_nothing(tmp_path: Path) -> None:
    """A minute of it, on the whole platform. How fast all works again is a matter of the machine: `headrace bench storm` measures that."""
    report, words = tmp_path / "storm.json", "replica killed,haproxy killed,ray driver killed,redis killed"
    argv = [sys.executable, str(ROOT / "headrace.py"), "bench", "storm", "--minutes", "1", "--only", words, "--report", str(report)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert report.is_file(), done.stdout + done.stderr
    said = json.loads(report.read_text())
    exact = [row for row in said["rows"] if row["bar"] == 0 and not any(w in row["name"] for w in ("recoveries", "memory", "unexpected"))]
    assert {"predictions lost", "predictions doubled", "cells wrong", "events lost"} <= {row["name"] for row in exact}
    assert not [row for row in exact if not row["held"]], done.stdout
    assert not [told for told in said["examples"] if any(f": {status} after" in told for status in (404, 500, 502))]
    assert len({fault["what"] for fault in said["faults"]}) >= 3, done.stdout
