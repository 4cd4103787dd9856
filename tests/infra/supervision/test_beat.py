"""Who lives and works is well, who fails says why, who hangs or is dead is silent, and who was told to stop is missed by nobody."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import redis_client
from infra.settings import ROOT
from infra.supervision import beat
from infra.supervision.beat import LATE, Beat, Part, Pulse, judge, parts_key

NOW = 1_700_000_000_000_000
SHORT = 0.2
LIMIT = SHORT * LATE


def said(ago_s: float = 0.0, failing: str = "", up_s: float = 1000.0, every_s: float = 5.0) -> Beat:
    return Beat(NOW - round(ago_s * 1e6), 1, every_s, up_s, failing)


def test_a_part_is_well_failing_or_silent() -> None:
    found = judge(NOW, {"a": said(14), "b": said(3, "no room"), "c": said(40), "d": said(200, "no room")})
    assert found == [
        Part("a", "well", "", 14.0),
        Part("b", "failing", "failing: no room", 3.0),
        Part("c", "silent", "silent for 40 s", 40.0),
        Part("d", "silent", "silent for 3 min; failing before: no room", 200.0),
    ]
    assert [p.degraded for p in found] == [False, True, True, True]


def test_the_worst_of_several_members_counts() -> None:
    beats = {"serve/a": said(1), "serve/b": said(40), "serve/c": said(2, "model m: refused")}
    assert judge(NOW, beats) == [Part("serve", "silent", "2 of 3: silent for 40 s", 40.0)]


def test_a_dead_member_is_missed_until_another_began() -> None:
    beats = {"serve/a": said(40), "serve/b": said(1, up_s=1000)}
    assert judge(NOW, beats)[0].state == "silent"
    assert beat.replaced(NOW, beats) == []
    later = {**beats, "serve/c": said(1, up_s=30)}
    assert judge(NOW, later) == [Part("serve", "well", "", 1.0)]
    assert beat.replaced(NOW, later) == ["serve/a"]
    assert judge(NOW, {"watch-a": said(40), "watch-b": said(1, up_s=30)})[0].state == "silent", "another part is no member"


def test_a_word_from_the_future_is_no_sign_of_life() -> None:
    assert judge(NOW, {"a": said(-3600)}) == [Part("a", "silent", "silent: its last word is dated 60 min ahead", 0.0)]
    assert judge(NOW, {"a": said(-1)}) == [Part("a", "well", "", 0.0)]


@given(
    st.dictionaries(
        st.text("ab/", min_size=1, max_size=3),
        st.builds(said, st.floats(-1e5, 1e5), st.sampled_from(["", "x"]), st.floats(0, 1e5), st.floats(0.1, 60)),
    )
)
def test_every_part_is_judged_and_only_those_in_time_are_well(beats: dict[str, Beat]) -> None:
    found = judge(NOW, beats)
    assert [p.name for p in found] == sorted({f.partition("/")[0] for f in beats})
    for part in found:
        mine = [b for f, b in beats.items() if f.partition("/")[0] == part.name and f not in beat.replaced(NOW, beats)]
        well = all(abs(NOW - b.at_us) / 1e6 <= LATE * b.every_s and not b.failing for b in mine)
        assert part.degraded != well
        assert bool(part.detail) == part.degraded


NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, 2**53, 2**63, 1e308, -1e308, "1"]))


@given(
    st.one_of(st.binary(max_size=60), st.fixed_dictionaries(dict.fromkeys(("at_us", "pid", "every_s", "up_s"), NUMBERS)).map(json.dumps))
)
def test_what_is_no_beat_is_passed_over(raw: bytes | str) -> None:
    content = raw if isinstance(raw, bytes) else raw.encode()
    now_us, beats = beat.parse([str(NOW).encode(), [b"a", content, b"a/b", content, b"b", msgspec.json.encode(said(1)), b"\xff", b"{}"]])
    assert "b" in beats
    assert {p.name for p in judge(now_us, beats)} == {f.partition("/")[0] for f in beats}


@pytest.fixture
def place(redis_url: str) -> Iterator[tuple[str, str, Any]]:
    """URL, project and client."""
    project = f"beat_{secrets.token_hex(4)}"
    client = redis_client.client(redis_url)
    yield redis_url, project, client
    client.delete(parts_key(project))
    client.close()


def within(seconds: float, found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert value, "not in time"
    return value


def parts(client: Any, project: str) -> dict[str, Part]:
    return {p.name: p for p in judge(*beat.read(client, project))}


def test_a_part_that_works_is_well_and_a_cause_shows_at_once(place: tuple[str, str, Any]) -> None:
    url, project, client = place
    with Pulse(url, project, "stream", every_s=60) as pulse:
        within(5, lambda: parts(client, project)["stream"].state == "well" if parts(client, project) else False)
        (one,) = beat.read(client, project)[1].values()
        assert (one.pid, one.every_s) == (os.getpid(), 60)
        assert abs(one.at_us / 1e6 - time.time()) < 5
        pulse.beat("it is 100% broken: 'x' \udcff")
        within(5, lambda: parts(client, project)["stream"].detail == "failing: it is 100% broken: 'x' ?")
        pulse.beat()
        within(5, lambda: parts(client, project)["stream"].state == "well")
    assert parts(client, project) == {}, "it was told to stop"


def test_a_loop_that_hangs_is_silent_and_one_that_is_long_at_work_is_not(place: tuple[str, str, Any]) -> None:
    url, project, client = place
    with Pulse(url, project, "watch-m", SHORT) as pulse:
        within(5, lambda: parts(client, project))
        for _ in range(10):
            time.sleep(SHORT)
            pulse.touch()
            assert parts(client, project)["watch-m"].state == "well"
        within(5, lambda: parts(client, project)["watch-m"].state == "silent")
        assert parts(client, project)["watch-m"].age_s > LIMIT  # type: ignore[operator]
        pulse.beat()
        within(5, lambda: parts(client, project)["watch-m"].state == "well")


def test_the_last_word_of_one_that_ends_by_an_error_is_its_cause(place: tuple[str, str, Any]) -> None:
    url, project, client = place
    with pytest.raises(KeyError), Pulse(url, project, "stream", SHORT):
        raise KeyError("speed")
    (part,) = parts(client, project).values()
    assert part.detail.startswith("failing: KeyError: there is no 'speed'")
    within(5, lambda: parts(client, project)["stream"].detail.startswith("silent for"))


@pytest.mark.parametrize(("number", "silent"), [(signal.SIGKILL, True), (signal.SIGSTOP, True), (signal.SIGTERM, False)])
def test_a_process_that_is_killed_or_stands_still_is_silent_and_one_that_is_stopped_is_absent(
    number: signal.Signals, silent: bool, place: tuple[str, str, Any]
) -> None:
    url, project, client = place
    code = f"""
import signal, sys, threading
from infra.supervision.beat import Pulse
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with Pulse(sys.argv[1], sys.argv[2], "stream", {SHORT}) as pulse:
    while not stop.wait(0.05):
        pulse.beat()
"""
    child = subprocess.Popen([sys.executable, "-c", code, url, project], cwd=ROOT)
    try:
        within(30, lambda: parts(client, project))
        child.send_signal(number)
        if silent:
            within(5, lambda: parts(client, project)["stream"].state == "silent")
            beat.forget(client, project, ["stream"])
        assert child.wait(10) == 0 if not silent else True
        assert parts(client, project) == {}
    finally:
        child.kill()
        child.wait()


def test_a_part_goes_on_where_no_redis_answers() -> None:
    began = time.monotonic()
    with Pulse("redis://127.0.0.1:1", "p", "stream", SHORT) as pulse:
        for _ in range(100):
            pulse.beat(str(time.monotonic()))
    assert time.monotonic() - began < 5


def test_a_start_forgets_the_silent_and_a_stop_its_own(place: tuple[str, str, Any]) -> None:
    _, project, client = place
    for field, ago_s in (("stream", 1), ("serve/a", 1), ("serve/b", 2), ("watch-m", 100)):
        client.eval(beat.WRITE, 1, parts_key(project), field, beat.encode(5, 1000, ""), ago_s * 1_000_000)
    beat.tidy(client, project)
    assert parts(client, project).keys() == {"stream", "serve"}
    beat.forget(client, project, ["serve"])
    assert parts(client, project).keys() == {"stream"}
