"""A prediction's passport."""

from __future__ import annotations

import time
from typing import Any

import httpx
import msgspec
import pytest

from tests.serving.shop import INSTANCE
from tests.serving.shop_server import FEEDBACK, PREDICT, Server, problem


def test_a_passport_says_what_a_prediction_was_made_of_and_how_it_turned_out(server: Server) -> None:
    async def scenario(client: httpx.AsyncClient) -> tuple[dict[str, Any], Any, Any]:
        answer = (await client.post(PREDICT, content=msgspec.json.encode({"instances": [{**INSTANCE, "product": "salt"}]}))).json()
        number = answer["predictions"][0]["prediction_id"]
        before = await client.get(f"/v1/predictions/{number}")
        await client.post(FEEDBACK, content=msgspec.json.encode({"prediction_id": number, "label": 1, "at": 1_700_000_000}))
        return answer["predictions"][0], before, await client.get(f"/v1/predictions/{number}")

    server.clock = lambda: time.time_ns() // 1000  # the log is looked up by the time in the id
    answer, before, after = server.run(scenario)
    assert before.status_code == 200, before.text
    page = before.json()
    assert (page["score"], page["model_version"], page["role"], page["label"]) == (answer["score"], 1, "champion", None)
    assert page["request"] == {**INSTANCE, "product": "salt"}
    ratio = page["features"]["price_ratio"]
    assert page["features"]["mean_price"] | {"definition": None} == {
        "value": 5.0, "served": None, "status": "stale", "age_s": 5.0, "source": "sales:mean_price", "definition": None,
    }  # fmt: skip
    assert (ratio["served"], ratio["status"], ratio["age_s"]) == (None, "request", None)
    assert page["views"]["shelf"]["high_water_mark"]["event_us"]
    assert page["model_sha256"]
    assert after.json()["label"] == {"label": 1, "known_at": "2023-11-14T22:13:20+00:00"}


def test_a_passport_explains_where_the_version_can(server: Server) -> None:
    server.version(2, booster=True)
    server.clock = lambda: time.time_ns() // 1000

    async def scenario(client: httpx.AsyncClient) -> dict[str, Any]:
        answer = (await client.post(PREDICT, content=msgspec.json.encode({"instances": [INSTANCE], "explain": True}))).json()
        page = (await client.get(f"/v1/predictions/{answer['predictions'][0]['prediction_id']}")).json()
        assert page["contributions"] == answer["predictions"][0]["contributions"]
        return dict(page)

    assert len(server.run(scenario)["contributions"]) == 5


@pytest.mark.parametrize("number", ["nothing", "0192f0c1-7a3e-7c5b-9d2e-5f1a2b3c4d5e"])
def test_a_passport_of_nothing_is_not_found(server: Server, number: str) -> None:
    assert "prediction" in problem(server.get(f"/v1/predictions/{number}"), 404)["detail"]
