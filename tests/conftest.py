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

from infra.settings import ROOT, Settings, load_settings

hypothesis_settings.register_profile("headrace", deadline=None)
hypothesis_settings.load_profile("headrace")

SERVICES = {"redis_url", "spark", "bikes", "kafka"}
EXAMPLES = int(os.environ.get("HEADRACE_EXAMPLES", "0"))
"""No test draws more inputs than so many; 0: as many as it says itself (`./headrace test --fast` sets it)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVICES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
        if item.get_closest_marker("integration") and not item.get_closest_marker("journey"):
            item.add_marker(pytest.mark.xdist_group("services"))  # in one process, for they share the run's services
        test = getattr(item, "obj", None)
        drawn = getattr(test, "_hypothesis_internal_use_settings", None)
        if EXAMPLES and drawn is not None and drawn.max_examples > EXAMPLES:
            test._hypothesis_internal_use_settings = hypothesis_settings(drawn, max_examples=EXAMPLES)
    # what takes minutes begins first; what is held to bounds of time comes last, when the other process has nothing left to do
    items.sort(key=lambda item: (item.get_closest_marker("journey") is None, item.get_closest_marker("timed") is not None))


@pytest.fixture(scope="session", autouse=True)
def state() -> Iterator[Settings]:
    """Settings with a state folder of the run's own: nothing a test does reaches the user's."""
    folder = Path(tempfile.mkdtemp(prefix="hr-"))  # short: Ray's sockets lie below it
    os.environ["HEADRACE_STATE"] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in (
        "HEADRACE_REDIS_URL",
        "HEADRACE_REDIS_USER",
        "HEADRACE_REDIS_PASSWORD",
        "HEADRACE_REPO",
        "HEADRACE_REGISTRY",
        "HEADRACE_TRACKING",
    ):
        os.environ.pop(name, None)
    load_settings.cache_clear()
    own = load_settings()
    own.export()
    yield own
    from infra.supervision.services import stop_all

    stop_all(own)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def kept(state: Settings) -> Iterator[None]:
    """A module that exports other settings puts these back: else those after it would read another registry, and other tables."""
    names = ("HEADRACE_STATE", "HEADRACE_REGISTRY_URL", "HEADRACE_OFFLINE_ROOT")
    before = {name: os.environ[name] for name in names}
    yield
    after = {name: os.environ.get(name) for name in names}
    os.environ.update(before)
    assert after == before, "the module has left other settings in the environment"


@pytest.fixture(scope="session")
def redis_url(state: Settings) -> str:
    """A real Redis of the run's own."""
    from infra.supervision import redis_server

    redis_server.up(state)
    return state.redis()


@pytest.fixture(scope="session")
def kafka(state: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Kafka broker of the run's own; its tests are skipped where none can be had."""
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from tests.kafka.broker import Broker, NoBrokerError

    try:
        made = Broker(state, tmp_path_factory.mktemp("kafka"))
    except NoBrokerError as error:
        pytest.skip(str(error))
    yield made
    made.kill()


@pytest.fixture(scope="session")
def spark(state: Settings) -> Iterator[Any]:
    """The run's Spark session."""
    from streaming.offline.spark import session

    os.environ["PYSPARK_PYTHON"] = sys.executable
    made = session(state)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def bikes(state: Settings, redis_url: str, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The second use case, ingested, applied, backfilled to its test split, with a trained and promoted model."""
    from tests.bikes.platform import Bikes

    return Bikes.make(state, spark, tmp_path_factory.mktemp("bikes") / "repo")


@pytest.fixture
def streaming(bikes: Any) -> Iterator[Any]:
    """Starts streaming queries on a fresh backfill; stops the last one."""
    from feature_repo.records.redis_keys import applied_key, events_key, rejected_key
    from streaming.live.query import start
    from streaming.online.store import connect

    client = connect(bikes.settings.redis())
    client.delete(events_key("bikes"), applied_key("bikes"), rejected_key("bikes"))
    bikes.backfill()
    running: list[Any] = []

    def begin(fresh: bool = True) -> Any:
        for query in running:
            query.stop()
        checkpoint = bikes.settings.state / "stream-test"
        if fresh:
            shutil.rmtree(checkpoint, ignore_errors=True)
        running.append(start(bikes.spark, bikes.settings.redis(), list(bikes.views.values()), str(checkpoint)))
        return running[-1]

    yield begin
    for query in running:
        query.stop()


@pytest.fixture
def server(bikes: Any) -> Iterator[str]:
    """The HTTP application on a real socket."""
    import socket
    import threading
    import time

    import uvicorn

    from serving.handlers.data_plane import DataPlane
    from serving.http.app import Front, build_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    plane = DataPlane(bikes.settings)
    runner = uvicorn.Server(uvicorn.Config(Front(build_app(plane), plane), host="127.0.0.1", port=number, log_level="error"))
    thread = threading.Thread(target=runner.run)
    thread.start()
    while not runner.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{number}"
    runner.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def client_python() -> Path:
    """A Python with the published clients of the protocols we speak: their pins are not ours, so they have an environment of their own."""
    import fcntl
    import hashlib
    import subprocess

    lock, folder = ROOT / "tests" / "clients" / "requirements.lock", ROOT / ".venv-clients"
    wanted, marker, python = hashlib.sha256(lock.read_bytes()).hexdigest(), folder / ".headrace", folder / "bin" / "python"
    with open(ROOT / ".venv-clients.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not marker.is_file() or marker.read_text() != wanted:
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
            command = [*uv, "pip", "install", "-q", "--python", str(python), "--no-deps", "--require-hashes", "-r", str(lock)]
            subprocess.run(command, check=True)
            marker.write_text(wanted)
    return python
