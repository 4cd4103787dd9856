"""The application in a Ray that somebody else has started: `serve deploy` and `serve run` take it as it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import redis
import yaml

from feature_repo.records import release
from feature_repo.records.redis_keys import tallies_key
from infra.settings import ROOT, Settings
from serving.deployment.application import Arguments, app
from tests.serving.served import INPUTS, NOW, PREDICT, REPO, apply_and_fill
from tests.serving.shop import INSTANCE, write_version

BIN = Path(sys.executable).parent
TOKEN = secrets.token_hex(32)
IMPORT_PATH = "serving.deployment.application:app"


def free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


@dataclass
class Cluster:
    """A Ray that was started as on any cluster, and knows nothing of Headrace but where its code lies."""

    settings: Settings
    definitions: dict[str, str]
    head: str
    dashboard: str
    http: int
    environment: dict[str, str]

    def serve(self, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            [str(BIN / "serve"), *arguments], env=self.environment | more, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def variables(self) -> dict[str, str]:
        """What a deployment says as `env_vars`."""
        own = self.settings
        return {"HEADRACE_REPO": str(own.repo), "HEADRACE_STATE": str(own.state), "HEADRACE_REDIS_URL": own.redis_url}

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = yaml.safe_load(self.serve("status", "-a", self.dashboard))
        return told["applications"].get("headrace", {})

    def until(self, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while (found := self.status()).get("status") != state:
            assert time.monotonic() < deadline, found
        return found

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.http}{path}", timeout=10)


@pytest.fixture(scope="module")
def cluster(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = Settings(repo=REPO, state=tmp_path_factory.mktemp("state"), redis_url=redis_url)
    before = dict(os.environ)
    settings.export()
    definitions = apply_and_fill()
    os.environ.clear()
    os.environ.update(before)
    folder = Path(tempfile.mkdtemp(prefix="hr-ray-"))  # short: Ray's sockets lie below it
    head, dashboard, http = free(3)
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
    environment = keep | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    own = f"--node-ip-address=127.0.0.1 --port={head} --dashboard-host=127.0.0.1 --dashboard-port={dashboard} --temp-dir={folder}"
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=3", "--object-store-memory=100000000", *own.split()],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        asked = {"Authorization": f"Bearer {TOKEN}"}
        wait(lambda: httpx.get(f"http://127.0.0.1:{dashboard}/api/version", headers=asked, timeout=5).is_success, folder / "head.log")
        yield Cluster(settings, definitions, f"127.0.0.1:{head}", f"http://127.0.0.1:{dashboard}", http, environment)
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:  # `ray stop` would end every Ray of the machine
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def wait(ready: Any, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if ready():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.integration
def test_serve_deploy_and_serve_run_take_it_and_it_is_ready_when_a_model_answers(cluster: Cluster, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "infra/deployment/helm/headrace/files/serve.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": cluster.http}
    (one,) = config["applications"]
    one["args"] |= {"replicas": 1, "spare": True, "replica_cpus": 0.2}
    one["runtime_env"] = {"env_vars": cluster.variables()}
    tallies = redis.Redis.from_url(cluster.settings.redis_url)
    before = tallies.hlen(tallies_key("shop"))
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    cluster.serve("deploy", str(tmp_path / "serve.yaml"), "-a", cluster.dashboard)
    wait(lambda: tallies.hlen(tallies_key("shop")) >= before + 2, tmp_path / "serve.yaml")  # both have begun, and find no release
    assert cluster.status()["status"] == "DEPLOYING", "a replica without a model is not healthy"
    write_version(cluster.settings.model_root, 1, inputs=INPUTS, definitions=cluster.definitions)
    release.promote(cluster.settings.model_root, "sells_out", 1)
    deployed = cluster.until("RUNNING")
    assert deployed["deployments"]["headrace"]["replica_states"] == {"RUNNING": 2}
    assert cluster.get("/readyz").status_code == 200
    body = msgspec.json.encode({"instances": [INSTANCE], "now": NOW.isoformat()})
    answers = [httpx.post(f"http://127.0.0.1:{cluster.http}{PREDICT}", content=body, timeout=10) for _ in range(20)]
    assert {(a.status_code, a.json()["predictions"][0]["statuses"]["fresh"]) for a in answers} == {(200, 3)}
    tallies.client_pause(1000)
    late = httpx.post(f"http://127.0.0.1:{cluster.http}{PREDICT}", content=body, headers={"X-Request-Timeout-Ms": "100"}, timeout=10)
    assert late.status_code == 503, "deadlines hold on any Ray"
    names = {name for _ in range(40) for name in re.findall(r'replica="([^"]+)"', cluster.get("/metrics").text)}
    assert len(names) == 2, "metrics carry the replica's name"
    serve_run_with_typed_arguments(cluster)


def serve_run_with_typed_arguments(cluster: Cluster) -> None:
    environment = cluster.environment | cluster.variables()
    run = [str(BIN / "serve"), "run", IMPORT_PATH, "-a", cluster.head, "--non-blocking", "--name=headrace"]
    asked = [*run, "--runtime-env-json", json.dumps({"env_vars": cluster.variables()})]
    done = subprocess.run([*asked, "replicas=1", "spare=false"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    deployed = cluster.until("RUNNING")
    assert deployed["deployments"]["headrace"]["replica_states"].get("RUNNING") == 1
    assert cluster.get("/readyz").status_code == 200


def test_a_replica_waits_for_its_first_model_and_is_ill_when_none_answers_any_more() -> None:
    from types import SimpleNamespace

    from serving.deployment.application import Replica
    from serving.protocol.problem import Unavailable

    def refuse() -> None:
        if not models.live:
            raise Unavailable("No model answers.")

    models = SimpleNamespace(live=[], loaded=True)

    async def waits(patience_s: float) -> None:
        await asyncio.wait_for(waiting.check_health(), patience_s)

    waiting, patient = Replica(True), Replica(False)
    waiting.app = patient.app = SimpleNamespace(plane=SimpleNamespace(models=models, check_models=refuse))
    with pytest.raises(TimeoutError):
        asyncio.run(waits(0.3))
    asyncio.run(patient.check_health())  # beside a shell of ours: it has looked, and says 503 itself
    models.live.append("one")
    asyncio.run(waits(5))
    models.live.clear()
    with pytest.raises(Unavailable, match="No model answers"):
        asyncio.run(waits(5))


def test_arguments_that_are_none_of_ours_are_refused_by_name() -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as build

    for wrong in ({"replicas": "none"}, {"replicas": 0}, {"replica": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build(app, wrong)


def test_on_a_cluster_the_online_store_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.settings import load_settings

    monkeypatch.setattr("serving.deployment.application.load_settings", lambda: Settings(profile="cluster"))
    with pytest.raises(ValueError, match="HEADRACE_REDIS_URL is not set"):
        app(Arguments())
    assert load_settings().profile == "embedded"
