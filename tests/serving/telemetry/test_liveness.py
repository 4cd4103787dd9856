"""Predictions are made without the stream, the watch and the autopilot; who asks is told which of them does not do its work, and why."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from infra import redis_client
from infra.settings import Settings
from infra.supervision import beat, launch
from infra.supervision.beat import Part, parts_key
from serving.telemetry import liveness
from serving.telemetry.liveness import Kept, parts
from tests.serving.shop import INSTANCE
from tests.serving.shop_server import PREDICT, Server, problem


@pytest.fixture
def server(tmp_path: Path, redis_url: str) -> Any:
    made = Server(tmp_path, redis_url)
    made.version()
    yield made
    made.redis.delete(parts_key(made.project))


def say(server: Server, field: str, ago_s: float = 0.0, failing: str = "", every_s: float = 5.0) -> None:
    said = beat.encode(every_s, 1000.0, failing)
    server.redis.eval(beat.WRITE, 1, parts_key(server.project), field, said, round(ago_s * 1e6))


def record(settings: Settings, name: str, pid: int, starts: int = 1) -> None:
    """As the supervisor's launcher notes down who runs."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    created = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 0.0
    session = os.getsid(pid) if psutil.pid_exists(pid) else pid
    launch.write(settings.run_dir / f"{name}.json", {"pid": pid, "created": created, "argv": [], "session": session, "starts": starts})


async def asked(client: httpx.AsyncClient) -> tuple[httpx.Response, ...]:
    return tuple([await client.get(f"/readyz{query}") for query in ("", "?strict", "?strict=1", "?strict=false")])


def samples(text: str) -> dict[tuple[str, str], float]:
    found = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name.startswith("headrace_part_")]
    return {(s.name.removeprefix("headrace_part_"), s.labels["part"]): s.value for s in found}


def test_a_platform_that_works_is_ready_however_it_is_asked(server: Server) -> None:
    say(server, "stream")
    say(server, "watch-sells_out", 4)
    for answer in server.run(asked):
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "degraded": []})


def test_what_is_degraded_is_named_with_its_cause_and_fails_only_who_asks_strictly(server: Server) -> None:
    say(server, "stream", 1, "the stream failed: ResponseError: WRONGTYPE")
    say(server, "watch-sells_out", 40)
    say(server, "autopilot-sells_out", 40, every_s=60)
    plain, bare, strict, not_strict = server.run(asked)
    expected = [
        {"part": "stream", "detail": "failing: the stream failed: ResponseError: WRONGTYPE"},
        {"part": "watch-sells_out", "detail": "silent for 40 s"},
    ]
    assert (plain.status_code, plain.json()) == (200, {"status": "ready", "degraded": expected})
    assert not_strict.json() == plain.json()
    for answer in (bare, strict):
        assert problem(answer, 503)["degraded"] == expected
        assert "watch-sells_out: silent for 40 s" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "5"


def test_a_replica_that_cannot_keep_its_answers_says_so(server: Server) -> None:
    (server.settings.state / "spool").write_text("a file is in its place")

    async def scenario(client: httpx.AsyncClient) -> tuple[httpx.Response, str]:
        assert (await client.post(PREDICT, json={"instances": [INSTANCE]})).status_code == 200
        await server.plane._tally.write()
        return await client.get("/readyz"), (await client.get("/metrics")).text

    answer, metrics = server.run(scenario)
    (one,) = answer.json()["degraded"]
    assert one["part"].startswith("serve")
    assert f"answers are not kept in {server.settings.state / 'spool'} until Redis has them (" in one["detail"]
    assert re.search(r"^headrace_log_unspooled_total\{replica=\S+\} 1\.0$", metrics, re.MULTILINE)


def test_a_part_that_was_stopped_on_purpose_is_missed_by_nobody(server: Server) -> None:
    say(server, "stream")
    with beat.Pulse(server.settings.redis_url, server.project, "watch-sells_out"):
        pass
    beat.forget(server.redis, server.project, ["stream"])
    plain, strict, *_ = server.run(asked)
    assert (plain.json()["degraded"], strict.status_code) == ([], 200)


def test_the_same_stands_in_the_metrics(server: Server) -> None:
    say(server, "stream", 1, "no room")
    say(server, "watch-sells_out", 40)
    record(server.settings, "stream", os.getpid(), starts=4)
    record(server.settings, "autopilot-sells_out", 2**22 + 1, starts=2)
    found = samples(server.get("/metrics").text)
    up = {"stream": 0, "watch-sells_out": 0, "autopilot-sells_out": 0, "redis": 1}
    assert {part: n for (name, part), n in found.items() if name == "up" and part != "serve"} == up
    assert {part: n for (name, part), n in found.items() if name == "restarts_total"} == {"stream": 3, "autopilot-sells_out": 1}
    assert 40 <= found["beat_age_seconds", "watch-sells_out"] < 60
    assert 1 <= found["beat_age_seconds", "stream"] < 20


def test_replicas_speak_for_themselves_and_one_that_ends_is_gone(server: Server) -> None:
    async def scenario(client: httpx.AsyncClient) -> Any:
        await server.plane._tally.write()
        return samples((await client.get("/metrics")).text)

    found = server.run(scenario)
    assert found["up", "serve"] == 1
    assert beat.read(server.redis, server.project)[1] == {}, "it was told to stop"


def test_a_dead_replica_is_buried_by_the_one_that_took_its_place(server: Server) -> None:
    say(server, "serve/dead", 60)

    async def scenario(client: httpx.AsyncClient) -> Any:
        await server.plane._tally.write()
        await server.plane._tally._bury()
        return (await client.get("/readyz")).json(), list(beat.read(server.redis, server.project)[1])

    ready, fields = server.run(scenario)
    assert ready["degraded"] == []
    assert fields == [f"serve/{server.plane._tally.start_id}"]


def test_a_model_that_is_refused_is_degraded_while_another_answers(server: Server) -> None:
    folder = server.settings.model_root / "other"
    folder.mkdir()
    (folder / "release.json").write_text("{")

    async def scenario(client: httpx.AsyncClient) -> Any:
        await server.plane._tally.write()
        return (await client.get("/readyz")).json()

    (found,) = server.run(scenario)["degraded"]
    assert found["part"] == "serve"
    assert found["detail"].startswith("failing: model other: ")
    assert "release.json cannot be read" in found["detail"]


def test_what_else_lies_where_the_parts_speak_costs_no_readiness(server: Server) -> None:
    server.redis.set(parts_key(server.project), "junk")
    plain, strict, *_ = server.run(asked)
    assert (plain.status_code, strict.status_code) == (200, 503)
    assert plain.json()["degraded"][0]["detail"].startswith("how the parts fare cannot be read: WRONGTYPE")
    assert server.get("/metrics").status_code == 200


def test_a_redis_that_answers_and_takes_no_writes_is_degraded(tmp_path: Path) -> None:
    from infra.supervision import process, redis_server

    own = Settings(state=tmp_path / "own", redis_url="")
    redis_server.up(own)
    try:
        server = Server(tmp_path, own.redis())
        server.version()

        async def scenario(client: httpx.AsyncClient) -> Any:
            reader = redis_client.client(own.redis())
            reader.config_set("min-replicas-to-write", 1)
            with pytest.raises(redis.RedisError):
                await server.plane._tally.write()
            answers = [(await client.post(PREDICT, json={"instances": [INSTANCE]})).status_code, (await client.get("/readyz")).json()]
            reader.config_set("min-replicas-to-write", 0)
            await server.plane._tally.write()
            return *answers, (await client.get("/readyz")).json()

        predicted, refusing, again = server.run(scenario)
        assert predicted == 200
        (found,) = [one for one in refusing["degraded"] if one["part"] == "redis"]
        assert found["detail"].startswith("it takes no writes: NOREPLICAS")
        assert len(found["detail"]) < 200
        assert again["degraded"] == []
    finally:
        process.stop(own, redis_server.NAME)


def test_what_was_started_and_never_said_a_word_is_starting_and_then_silent() -> None:
    kept = Kept({"redis": 1000.0, "stream": 20.0, "watch-a": 240.0, "watch-b": None}, {}, True)
    assert parts(0, {}, kept) == [
        Part("stream", "starting"),
        Part("supervisor", "well"),
        Part("watch-a", "silent", "no word since its start 4 min ago"),
        Part("watch-b", "silent", "it does not run"),
    ]


def test_a_supervisor_that_was_killed_is_degraded(tmp_path: Path) -> None:
    own = Settings(state=tmp_path)
    assert liveness.kept(own) == Kept()
    (own.run_dir / "supervisor").mkdir(parents=True)
    launch.write(own.run_dir / "supervisor" / "supervisord.json", {"pid": 2**22 + 1, "created": 0.0, "argv": [], "session": 1})
    (part,) = parts(0, {}, liveness.kept(own))
    assert (part.name, part.degraded) == ("supervisor", True)
    assert "`headrace up` brings it back" in part.detail
