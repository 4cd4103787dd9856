"""What answers goes by what is applied now: what was compiled before an `apply` is let go of, and so is a model that it breaks."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from feature_repo.records import contract, release
from feature_repo.records.contract import Input, RequestField
from feature_repo.records.redis_keys import events_key
from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import definitions_of
from feature_repo.registry.followed import EVERY_S
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT, Settings
from serving.handlers.feast import FeatureServer
from serving.inference.predictor import Predictor
from serving.models.loading import load
from serving.models.repository import ModelRepository
from serving.protocol.problem import NotFound, Unavailable
from serving.telemetry.metrics import Metrics
from serving.telemetry.prediction_log import PredictionLog
from tests.bikes.edits import rewrite
from tests.serving.shop import make_contract, write_key, write_linear


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
        rewrite(self.folder / "bikes.py", f"{self._text}\nonly = FeatureService(name='only', features=[{features}])\n")
        apply_definitions(UseCase(self.folder))

    def release(self) -> None:
        """A version of a model that reads two features of `only`, promoted."""
        inputs = [Input(name, f"dock:{name}", "feature", "float64") for name in ("free_bikes", "charge")]
        folder = self.settings.model_root / "sells_out" / "1"
        folder.mkdir(parents=True)
        write_linear(folder / contract.MODEL, [1.0, 10.0])
        made = make_contract(
            1,
            project="bikes",
            feature_service="only",
            definitions=definitions_of(UseCase(self.folder).store, "only"),
            inputs=inputs,
            request=[RequestField("station", "entity", "int64", example=1)],
            files={contract.MODEL: contract.sha256(folder / contract.MODEL)},
        )
        contract.write(folder, made)
        write_key(self.settings.state)
        release.promote(self.settings.model_root, "sells_out", 1)

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


def test_a_model_whose_features_are_redefined_answers_no_more_until_they_are_back(docks: Docks) -> None:
    """As a server that starts now would say; what an `apply` leaves alone stays loaded as it is."""
    docks.write("dock")
    docks.release()
    said = re.compile(r"^Model 'sells_out' does not answer: .*\(no longer applied: .*dock:free_bikes\)\. Train a new version, or apply")

    async def inside() -> None:
        log = PredictionLog(None, "bikes", 10, 10)  # type: ignore[arg-type]
        models = ModelRepository(docks.settings, Metrics(), log)
        await models.start()
        _, first = models.predictor("sells_out")

        async def become(says: re.Pattern[str] | None) -> Predictor | None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                try:
                    found = models.predictor("sells_out")[1]
                except Unavailable as error:
                    if says is not None and says.match(error.detail):
                        return None
                else:
                    if says is None:
                        return found
            raise AssertionError(models.entry("sells_out").reason)

        try:
            await asyncio.to_thread(docks.write, "dock, wish")
            await asyncio.sleep(2 * EVERY_S + 1)
            assert models.predictor("sells_out")[1] is first
            for broken in ("dock[['charge']]", "rides_by_station"):
                await asyncio.to_thread(docks.write, broken)
                await become(said)
                await asyncio.to_thread(docks.write, "dock")
                assert await become(None) is not first
        finally:
            await models.stop()

    asyncio.run(inside())


def test_a_version_that_was_being_loaded_while_its_features_were_redefined_does_not_answer(docks: Docks) -> None:
    docks.write("dock")
    docks.release()
    began, redefined = asyncio.Event(), asyncio.Event()

    async def inside() -> None:
        loop = asyncio.get_running_loop()

        def slowly(*arguments: Any) -> Predictor:
            made = load(*arguments)  # held against what is applied now
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(redefined.wait(), loop).result(60)
            return made

        models = ModelRepository(docks.settings, Metrics(), PredictionLog(None, "bikes", 10, 10), slowly)  # type: ignore[arg-type]
        starting = asyncio.ensure_future(models.start())
        await asyncio.wait_for(began.wait(), 60)
        await asyncio.to_thread(docks.write, "dock[['charge']]")
        models._registry.case = UseCase(docks.folder)  # as a look meanwhile has left it
        redefined.set()
        await starting
        try:
            assert not models.entry("sells_out").ready
            assert "no longer applied: dock:free_bikes" in models.entry("sells_out").reason
        finally:
            await models.stop()

    asyncio.run(inside())


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
