"""The application over real Redis, called in this process, and a request of each kind that it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.records.redis_keys import events_key
from infra.settings import Settings
from serving.handlers import open_inference
from serving.handlers.data_plane import DataPlane
from serving.http.app import Front, build_app
from streaming.online.store import connect
from tests.serving.shop import IDS, INSTANCE, NOW_US, make_contract

PREDICT, FEEDBACK, INFER = "/v1/models/sells_out/predict", "/v1/models/sells_out/feedback", "/v2/models/sells_out/infer"
ASKED = {"instances": [INSTANCE, INSTANCE], "explain": False, "features": True, "now": 1_700_000_000}
TRUTH = {"prediction_id": IDS.make("sells_out", NOW_US)[0], "label": 1, "at": "2023-11-14T22:00:00Z"}
TENSORS = open_inference.example(make_contract(), INSTANCE)
REFUSED = {400, 404, 405, 409, 413, 415, 422}


class House:
    """The application over real Redis, called in this process from plain functions.

    Args:
        loads: how models are loaded; None: as they are in production.
    """

    def __init__(self, settings: Settings, loads: Any = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.plane = DataPlane(settings, lambda: NOW_US, loads)
        app = build_app(self.plane)
        self._life = app.router.lifespan_context(app)
        self.front = Front(app, self.plane)
        self.loop.run_until_complete(self._life.__aenter__())

    def call(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> httpx.Response:
        async def inside() -> httpx.Response:
            transport = httpx.ASGITransport(self.front, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, content=body, headers=headers)

        return self.loop.run_until_complete(inside())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.call("POST", path, content, {k.replace("_", "-"): v for k, v in headers.items()})

    def counted(self, name: str = "headrace_calls_total", **labels: str) -> float:
        families = text_string_to_metric_families(self.plane.metrics.text().decode())
        samples = [s for family in families for s in family.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def calls(self, door: str = "") -> int:
        """What `counted` says of calls, without the scrape, which takes ten times as long as a refusal."""
        return sum(n for (one, _), n in self.plane.metrics._answered.items() if door in ("", one))

    def close(self) -> None:
        self.loop.run_until_complete(self._life.__aexit__(None, None, None))
        self.loop.close()


def check_refusal(response: httpx.Response, *allowed: int) -> None:
    assert response.status_code in (200, *allowed), (response.status_code, response.text[:500])
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]
        assert len(response.content) < 100_000, "a refusal repeats what was sent"


READ = {"entities": {"station": [7, 3, None]}, "features": ["dock:charge", "rides_by_station:rides_2h"], "full_feature_names": True}
SERVICE = {
    "feature_service": "dock_choice",
    "entities": {"station": [7], "rider_class": ["member"], "wanted_at": [1615593000], "party": [2]},
}
MOMENT = "2021-03-13T05:00:00Z"
RIDES = {"ride": [1, 2], "station": [7, 3], "rider_class": ["member", None], "began": [MOMENT, 1615593000.5], "reported": [MOMENT] * 2}
PUSHED = {"push_source_name": "rides", "df": RIDES | {"kilometres": [1.5, None]}, "to": "online"}
DOCKS = {"push_source_name": "docks", "df": {"station": [7], "seen": [MOMENT], "free_bikes": [3], "charge": [0.5]}}


def forget_pushed(house: House) -> None:
    client = connect(house.plane.settings.redis())
    client.delete(events_key("bikes"))
    client.close()
