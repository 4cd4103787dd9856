"""What the whole run shares: one state folder, one Redis, one Spark session; every test that touches them is marked `integration`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from infra.settings import ROOT, Settings, settings

hypothesis_settings.register_profile("headrace", deadline=None)
hypothesis_settings.load_profile("headrace")

SERVICES = {"redis_url", "spark", "bikes"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVICES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session", autouse=True)
def state() -> Iterator[Settings]:
    """Settings with a state folder of the run's own: nothing a test does reaches the user's."""
    folder = Path(tempfile.mkdtemp(prefix="hr-"))  # short: Ray's sockets lie below it
    os.environ["HEADRACE_STATE"] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("HEADRACE_REDIS_URL", "HEADRACE_REPO", "HEADRACE_REGISTRY", "HEADRACE_TRACKING"):
        os.environ.pop(name, None)
    settings.cache_clear()
    own = settings()
    own.export()
    yield own
    from infra.services import stop_all

    stop_all(own)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(state: Settings) -> str:
    """A real Redis of the run's own."""
    from infra import redis_server

    redis_server.up(state)
    return state.redis()


@pytest.fixture(scope="session")
def spark(state: Settings) -> Iterator[Any]:
    """The run's Spark session."""
    from streaming.session import session

    os.environ["PYSPARK_PYTHON"] = sys.executable
    made = session(state)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def bikes(state: Settings, redis_url: str, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The second use case, ingested, applied, backfilled to its test split, with a trained and promoted model."""
    from tests.bikes.platform import Bikes

    return Bikes.make(state, spark, tmp_path_factory.mktemp("bikes") / "repo")
