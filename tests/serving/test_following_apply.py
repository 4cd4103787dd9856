"""The feature server answers by what is applied now: what it compiled before an `apply` is let go of."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from feature_repo.apply import apply
from feature_repo.use_case import UseCase
from infra.settings import ROOT, Settings
from serving.feature_server import FeatureServer
from serving.problem import NotFound, Unavailable
from streaming.store import events_key


class Docks:
    """A use case whose registry is applied, and a feature server over it."""

    def __init__(self, folder: Path, state: Path, redis_url: str) -> None:
        self.folder, self.redis_url = folder, redis_url
        shutil.copytree(ROOT / "tests" / "bikes" / "repo", folder)
        state.mkdir()
        self.registry = state / "registry.db"
        self.settings = Settings(state=state, repo=folder, redis_url=redis_url)
        self.settings.export()
        self._text = (folder / "bikes.py").read_text()

    def write(self, features: str) -> None:
        (self.folder / "bikes.py").write_text(f"{self._text}\nonly = FeatureService(name='only', features=[{features}])\n")
        apply(UseCase(self.folder))

    def run(self, scenario: Callable[[FeatureServer], Awaitable[None]]) -> None:
        async def inside() -> None:
            server = FeatureServer(self.settings, redis.asyncio.Redis.from_url(self.redis_url))
            await scenario(server)
            await server.close()

        asyncio.run(inside())


@pytest.fixture
def docks(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docks:
    for name in ("STATE", "REPO", "REGISTRY_URL", "REDIS_CONNECTION", "OFFLINE_ROOT"):
        monkeypatch.setenv(f"HEADRACE_{name}", "")  # and what was there comes back
    return Docks(tmp_path / "repo", tmp_path / "state", redis_url)


async def names(server: FeatureServer, **asked: Any) -> list[str]:
    body = json.dumps({"feature_service": "only", "entities": {"station": [1]}} | asked).encode()
    found: list[str] = (await server.get_online_features(body, 1_700_000_000_000_000))["metadata"]["feature_names"]
    return found


async def become(server: FeatureServer, expected: list[str]) -> None:
    """It answers so before long; what it says on the way does not matter."""
    deadline, seen = time.monotonic() + 60, None
    while seen != expected:
        assert time.monotonic() < deadline, f"it says {seen}"
        await asyncio.sleep(0.2)
        try:
            seen = await names(server)
        except NotFound as error:
            seen = [str(error)]


def test_a_service_is_answered_as_it_was_applied_last(docks: Docks) -> None:
    async def follow(server: FeatureServer) -> None:
        assert await names(server) == ["station", "free_bikes", "charge"]
        await asyncio.to_thread(docks.write, "dock[['charge']]")
        await become(server, ["station", "charge"])

    docks.write("dock")
    docks.run(follow)


def test_a_registry_that_is_gone_for_a_while_changes_nothing_and_is_seen_again(docks: Docks) -> None:
    """Whether it was deleted, moved away or cut to nothing: what was known answers on, and what is put back is read."""

    async def follow(server: FeatureServer) -> None:
        assert await names(server) == ["station", "free_bikes", "charge"]
        kept = docks.registry.read_bytes()
        for gone in (docks.registry.unlink, lambda: docks.registry.write_bytes(b""), lambda: docks.registry.write_bytes(kept[:5000])):
            gone()
            for _ in range(8):
                assert await names(server) == ["station", "free_bikes", "charge"]
                assert await names(server, feature_service=None, features=["dock:charge"]) == ["station", "charge"]
                await asyncio.sleep(0.2)
            docks.registry.unlink(missing_ok=True)
            docks.registry.write_bytes(kept)
            await asyncio.sleep(1.2)
            assert await names(server) == ["station", "free_bikes", "charge"]
        await asyncio.to_thread(docks.write, "dock[['charge']]")
        await become(server, ["station", "charge"])

    docks.write("dock")
    docks.run(follow)


def test_a_registry_that_comes_after_the_first_request_is_seen(docks: Docks) -> None:
    async def follow(server: FeatureServer) -> None:
        with pytest.raises(NotFound):
            await names(server)
        await asyncio.to_thread(docks.write, "dock")
        await become(server, ["station", "free_bikes", "charge"])

    docks.run(follow)


def test_a_stream_of_events_that_is_something_else_is_named(docks: Docks) -> None:
    docks.write("dock")
    rows = {"station": [7], "seen": ["2021-03-01T00:00:00Z"], "free_bikes": [3], "charge": [0.5]}
    body = json.dumps({"push_source_name": "docks", "df": rows}).encode()
    key = events_key("bikes")

    async def push(server: FeatureServer) -> None:
        await server._redis.rename(key, f"{key}:kept") if await server._redis.exists(key) else None
        await server._redis.set(key, "somebody else's")
        try:
            with pytest.raises(Unavailable) as caught:
                await server.push(body)
        finally:
            await server._redis.delete(key)
            await server._redis.rename(f"{key}:kept", key) if await server._redis.exists(f"{key}:kept") else None
        assert caught.value.detail == (
            "The stream of events does not take them: the online store refuses: "
            f"{key} is a string and not a stream: rename or remove it. Push them again."
        )

    docks.run(push)
