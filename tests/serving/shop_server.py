"""The made-up shop's application, with a state folder, a project and versions of its own for every test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from feature_repo.records import release
from infra import redis_client
from infra.settings import Settings
from serving.handlers.data_plane import DataPlane
from serving.http.app import Front, build_app
from tests.serving.shop import IDS, NOW_US, Rows, loader, shelves, write_key, write_version

PREDICT = "/v1/models/sells_out/predict"
FEEDBACK = "/v1/models/sells_out/feedback"
ID, OTHER = IDS.make("sells_out", NOW_US, 2)


class Server:
    """The application over real Redis and made-up feature rows, called in this process."""

    def __init__(self, folder: Path, redis_url: str, **settings: Any) -> None:
        self.project = f"shop_{uuid.uuid4().hex[:8]}"
        (folder / "repo").mkdir()
        (folder / "repo" / "feature_store.yaml").write_text(f"project: {self.project}\n")
        self.settings = Settings(**{"repo": folder / "repo", "state": folder / "state", "redis_url": redis_url} | settings)
        write_key(folder / "state")
        self.redis = redis_client.client(redis_url)
        self.reader = shelves()
        self.clock = lambda: NOW_US
        self.plane: DataPlane

    def version(self, version: int = 1, promote: bool = True, **contract: Any) -> Path:
        folder = write_version(self.settings.model_root, version, **contract)
        if promote:
            release.promote(self.settings.model_root, "sells_out", version)
        return folder

    @asynccontextmanager
    async def client(self, reader: Callable[[], Rows] | None = None) -> AsyncIterator[httpx.AsyncClient]:
        self.plane = DataPlane(self.settings, self.clock, loader(reader or (lambda: self.reader)))
        app = build_app(self.plane)
        transport = httpx.ASGITransport(Front(app, self.plane), raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client

    def run(self, scenario: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            async with self.client() as client:
                return await scenario(client)

        return asyncio.run(inside())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.run(lambda client: client.post(path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()}))  # type: ignore[no-any-return]

    def get(self, path: str) -> httpx.Response:
        return self.run(lambda client: client.get(path))  # type: ignore[no-any-return]


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail"} <= set(body)
    assert "Traceback" not in response.text
    return body
