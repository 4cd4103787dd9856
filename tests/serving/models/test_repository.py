"""Several versions in one replica: canary, shadow, promotion and roll-back, over HTTP in this process."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from feature_repo.records import release
from feature_repo.records.prediction import Prediction
from feature_repo.records.redis_keys import prediction_log_key
from serving.models import repository
from tests.serving.shop import INSTANCE, make_contract
from tests.serving.shop_server import PREDICT, Server

MODEL = "sells_out"


@pytest.fixture
def server(tmp_path: Path, redis_url: str) -> Server:
    server = Server(tmp_path, redis_url)
    server.version(1)
    for version in (2, 3):
        server.version(version, promote=False)
    return server


def body(store: int) -> bytes:
    return msgspec.json.encode({"instances": [{**INSTANCE, "store": store}]})


async def until(client: httpx.AsyncClient, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(200):
        (summary,) = (await client.get("/v1/models")).json()["models"]
        if true(summary["traffic"]):
            return dict(summary["traffic"])
        await asyncio.sleep(0.02)
    raise AssertionError(summary)


def logged(server: Server) -> list[Prediction]:
    entries: Any = server.redis.xrange(prediction_log_key(server.project))
    return [msgspec.json.decode(fields[b"p"], type=Prediction) for _, fields in entries]


def test_a_canary_answers_its_share_of_entities_always_the_same_ones(server: Server) -> None:
    release.canary(server.settings.model_root, MODEL, 2, 0.3)

    async def scenario(client: httpx.AsyncClient) -> tuple[list[int], list[int], int]:
        await until(client, lambda t: t["canary"] is not None)
        first = [(await client.post(PREDICT, content=body(i))).json()["model_version"] for i in range(200)]
        again = [(await client.post(PREDICT, content=body(i))).json()["model_version"] for i in range(200)]
        keyed = {(await client.post(PREDICT, content=body(i), headers={"X-Route-Key": "me"})).json()["model_version"] for i in range(20)}
        return first, again, len(keyed)

    first, again, keyed = server.run(scenario)
    assert first == again
    assert 30 <= first.count(2) <= 90
    assert keyed == 1, "the caller's own key decides where it gives one"
    roles = {(p.version, p.role) for p in logged(server)}
    assert roles == {(1, "champion"), (2, "canary")}


def test_a_shadow_is_scored_and_logged_and_never_answers(server: Server) -> None:
    release.shadow(server.settings.model_root, MODEL, 3)

    async def scenario(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        await until(client, lambda t: t["shadow"] == 3)
        answers = [(await client.post(PREDICT, content=body(i))).json() for i in range(50)]
        for _ in range(100):
            text = (await client.get("/metrics")).text
            if f'headrace_shadow_total{{model="{MODEL}",outcome="scored",version="3"}} 50.0' in text:
                break
            await asyncio.sleep(0.02)
        return answers

    answers = server.run(scenario)
    assert {a["model_version"] for a in answers} == {1}
    entries = logged(server)
    shadows = {p.of: p for p in entries if p.role == "shadow"}
    champions = {p.id: p for p in entries if p.role == "champion"}
    assert set(shadows) == set(champions) == {a["predictions"][0]["prediction_id"] for a in answers}
    for number, shadow in shadows.items():
        champion = champions[str(number)]
        assert (shadow.version, shadow.values, shadow.request, shadow.at_us) == (3, champion.values, champion.request, champion.at_us)
        assert shadow.score != champion.score


def test_a_candidate_with_other_request_fields_is_refused_and_can_still_be_promoted(server: Server) -> None:
    request = [*make_contract().request[:-1], msgspec.structs.replace(make_contract().request[-1], name="another")]
    server.version(4, promote=False, request=request)
    release.shadow(server.settings.model_root, MODEL, 4)

    async def scenario(client: httpx.AsyncClient) -> dict[str, Any]:
        return await until(client, lambda t: bool(t["refused"]))

    traffic = server.run(scenario)
    assert "other request fields" in traffic["refused"]["4"] or "reads" in traffic["refused"]["4"]
    assert traffic["shadow"] is None


def test_a_candidate_whose_data_had_other_examples_and_bounds_is_no_other_request(server: Server) -> None:
    request = [msgspec.structs.replace(f, example=None, minimum=None, maximum=f.maximum and f.maximum + 1) for f in make_contract().request]
    server.version(4, promote=False, request=request)
    release.shadow(server.settings.model_root, MODEL, 4)

    async def scenario(client: httpx.AsyncClient) -> dict[str, Any]:
        return await until(client, lambda t: t["shadow"] == 4)

    assert not server.run(scenario)["refused"]


def test_a_release_that_is_gone_is_said_and_what_answered_goes_on(server: Server) -> None:
    path = server.settings.model_root / MODEL / release.RELEASE
    text = path.read_bytes()

    async def scenario(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        found = []
        for change in (lambda: path.write_text("{"), path.unlink, lambda: path.write_bytes(text)):
            change()
            await asyncio.sleep(0.6)
            found += (await client.get("/v1/models")).json()["models"]
            assert (await client.post(PREDICT, content=body(1))).status_code == 200
        return found

    broken, gone, back = server.run(scenario)
    assert "cannot be read" in broken["reason"]
    assert "release.json is gone" in gone["reason"]
    assert (gone["status"], back["status"], back["reason"]) == ("degraded", "live", None)


def test_a_look_at_the_releases_that_does_not_end_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "LOOK_S", 0.5)
    monkeypatch.setattr(repository, "_releases", lambda _: time.sleep(2) or {})

    async def scenario(client: httpx.AsyncClient) -> str:
        await asyncio.sleep(1)
        return server.plane.models.stuck

    assert "were not looked at for" in server.run(scenario)


def test_promotion_and_roll_back_take_less_than_a_second_and_no_request_fails(server: Server) -> None:
    root = server.settings.model_root
    release.promote(root, MODEL, 2)

    async def scenario(client: httpx.AsyncClient) -> tuple[set[int], list[float]]:
        statuses: set[int] = set()
        took = []
        ended = asyncio.Event()

        async def load() -> None:
            while not ended.is_set():
                statuses.add((await client.post(PREDICT, content=body(1))).status_code)

        callers = [asyncio.create_task(load()) for _ in range(4)]
        await asyncio.sleep(0.5)
        for step, version in 3 * [(lambda: release.roll_back(root, MODEL), 1), (lambda: release.promote(root, MODEL, 2), 2)]:
            began = time.perf_counter()
            step()
            while (await client.post(PREDICT, content=body(1))).json()["model_version"] != version:
                await asyncio.sleep(0.005)
            took.append(time.perf_counter() - began)
        ended.set()
        await asyncio.gather(*callers)
        return statuses, took

    statuses, took = server.run(scenario)
    assert statuses == {200}
    assert statistics.median(took) < 1.0, took
