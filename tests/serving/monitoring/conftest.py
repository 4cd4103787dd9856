"""A state folder and a prediction log of its own for every test of the watch."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.settings import Settings
from tests.serving.monitoring.pump import Log


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(state=tmp_path, redis_url=redis_url, detector="scipy")


@pytest.fixture
def project() -> str:
    return f"watch_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def log(redis_url: str, project: str) -> Iterator[Log]:
    client = redis.Redis.from_url(redis_url)
    yield Log(client, project)
    keys = client.keys(f"headrace:{project}:*")
    if keys:
        client.delete(*keys)  # type: ignore[misc]
    client.close()
