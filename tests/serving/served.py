"""The real thing: Ray Serve behind its HAProxy, Feast's own Redis layout written by stock Feast, the online reader, ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pandas as pd
import psutil
import pytest
import redis

from feature_repo.records import release
from feature_repo.records.contract import Input
from infra.ports import port
from infra.settings import ROOT, Settings
from infra.supervision import launch
from serving.deployment import leftovers
from serving.deployment.ray_head import Head
from tests.serving.shop import write_version

REPO = Path(__file__).parent / "shop_repo"
INPUTS = [
    Input("count_1h", "sales:count_1h", "feature", "float64"),
    Input("stock", "shelf:stock", "feature", "float64"),
    Input("price_ratio", "pricing:price_ratio", "on_demand", "float64"),
    Input("mean_price", "sales:mean_price", "feature", "float64"),
    Input("hour", "pricing:hour", "on_demand", "float64"),
]
AT = datetime(2023, 11, 14, 22, 0, tzinfo=UTC)
NOW = AT + timedelta(minutes=30)
MARK = f"tests/serving/served.py {os.getpid()}"
PREDICT = "/v1/models/sells_out/predict"


def apply_and_fill() -> dict[str, str]:
    """Apply the shop, write its rows with stock Feast, and return its definitions."""
    from feast import FeatureStore

    from feature_repo.registry.definitions import definitions_of

    spec = importlib.util.spec_from_file_location("shop_features", REPO / "shop_features.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store = FeatureStore(repo_path=str(REPO))
    store.apply([module.product, module.store, module.sales, module.shelf, module.pricing, module.sells_out])
    sales = {"product": ["tea", "salt"], "store": [7, 7], "count_1h": [3, 1], "mean_price": [2.0, 5.0]}
    times = [AT, AT - timedelta(hours=5)]  # the second is past the view's ttl
    store.write_to_online_store("sales", pd.DataFrame(sales | {"event_timestamp": times}))
    shelf = {"product": ["tea", "salt"], "stock": [40.0, None], "event_timestamp": [AT, AT]}
    store.write_to_online_store("shelf", pd.DataFrame(shelf))
    return definitions_of(store, "sells_out")


class Served:
    """A running application."""

    process: subprocess.Popen[str]

    def __init__(self, settings: Settings, environment: dict[str, str], definitions: dict[str, str]) -> None:
        self.settings = settings
        self.definitions = definitions
        self._environment = environment
        self.start()
        self.client = httpx.Client(base_url=f"http://{settings.host}:{port(settings.state, 'http')}", timeout=30)
        self.redis = redis.Redis.from_url(settings.redis())

    def start(self) -> None:
        """Start the driver and wait until it says that it is ready."""
        command = [sys.executable, "-m", "serving.deployment.app"]
        self.process = subprocess.Popen(
            command, env=self._environment, cwd=self.settings.state, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []
        for line in self.process.stdout or ():
            lines.append(line)
            if line.startswith("ready"):
                break
        else:
            pytest.fail("the application did not start:\n" + "".join(lines))
        threading.Thread(target=list, args=(self.process.stdout,), daemon=True).start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def processes(self, title: str) -> list[psutil.Process]:
        """Live processes of the run whose title begins so, oldest first."""
        return sorted((p for p in self.everything() if _title(p).startswith(title)), key=lambda p: p.create_time())

    def everything(self) -> set[psutil.Process]:
        """The driver, Ray's head, what they have started, and what names the scratch folder."""
        found = set()
        with contextlib.suppress(OSError, psutil.Error):
            head = msgspec.json.decode((self.settings.run_dir / "ray-head").read_bytes(), type=Head)
            found |= {psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)}
        with contextlib.suppress(psutil.Error):
            found |= {psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)}
        return found | leftovers.left(self.settings, leftovers.scratch(self.settings))

    def predict(self, *instances: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        body = {"instances": list(instances), "now": NOW.isoformat(), **more}
        return self.client.post(PREDICT, content=msgspec.json.encode(body), headers=headers)


@pytest.fixture(scope="module")
def served(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("state")
    settings = Settings(repo=REPO, state=state, redis_url=redis_url)
    before = dict(os.environ)
    settings.export()
    try:
        definitions = apply_and_fill()
        write_version(settings.model_root, 1, booster=True, inputs=INPUTS, definitions=definitions)
        release.promote(settings.model_root, "sells_out", 1)
        environment = os.environ | {"HEADRACE_REDIS_URL": redis_url, "HEADRACE_GRPC": "true", "PYTHONPATH": str(ROOT), launch.MARK: MARK}
    finally:
        os.environ.clear()
        os.environ.update(before)
    made = Served(settings, environment, definitions)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(leftovers.scratch(settings), ignore_errors=True)


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return (process.cmdline() or [process.name()])[0].rpartition("/")[2]
    return ""
