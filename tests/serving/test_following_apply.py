"""The feature server answers by what is applied now: what it compiled before an `apply` is let go of."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest
import redis.asyncio

from feature_repo.apply import apply
from feature_repo.use_case import UseCase
from infra.settings import ROOT, Settings
from serving.feature_server import FeatureServer


def test_a_service_is_answered_as_it_was_applied_last(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "REPO", "REGISTRY_URL", "REDIS_CONNECTION", "OFFLINE_ROOT"):
        monkeypatch.setenv(f"HEADRACE_{name}", "")  # and what was there comes back
    folder, state = tmp_path / "repo", tmp_path / "state"
    shutil.copytree(ROOT / "tests" / "bikes" / "repo", folder)
    state.mkdir()
    own = Settings(state=state, repo=folder, redis_url=redis_url)
    own.export()
    text = (folder / "bikes.py").read_text()

    def write(features: str) -> None:
        (folder / "bikes.py").write_text(f"{text}\nonly = FeatureService(name='only', features=[{features}])\n")
        apply(UseCase(folder))

    async def names(server: FeatureServer) -> list[str]:
        body = json.dumps({"feature_service": "only", "entities": {"station": [1]}}).encode()
        found: list[str] = (await server.get_online_features(body, 1_700_000_000_000_000))["metadata"]["feature_names"]
        return found

    async def follow() -> None:
        server = FeatureServer(own, redis.asyncio.Redis.from_url(redis_url))
        assert await names(server) == ["station", "free_bikes", "charge"]
        await asyncio.to_thread(write, "dock[['charge']]")
        deadline = time.monotonic() + 60
        while await names(server) != ["station", "charge"]:
            assert time.monotonic() < deadline, "it still answers by what was applied before"
            await asyncio.sleep(0.2)
        await server.close()

    write("dock")
    asyncio.run(follow())
