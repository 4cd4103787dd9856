"""A version's contract that no release holds the hash of: whatever it says, it is loaded or refused, and the archive goes on."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records import contract
from feature_repo.records.prediction import Prediction
from infra.settings import Settings
from serving.models.loading import REFUSALS, load
from serving.telemetry.metrics import Metrics
from serving.telemetry.prediction_log import PredictionLog
from streaming.offline.archive import Archive, Archived
from tests.fuzz import fuzzed
from tests.serving.hostile import bodies
from tests.serving.served import INPUTS, REPO
from tests.serving.shop import IDS, INSTANCE, NOW_US, write_key, write_version

WIDTH = len(INPUTS)
DTYPES = ["string", "int64", "int32", "float64", "float32", "bool", "timestamp"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Settings:
    """The shop, applied to a registry of its own, and one version of its model that was never promoted."""
    from feast import FeatureStore

    from feature_repo.registry.definitions import definitions_of

    folder = tmp_path_factory.mktemp("contracts")
    repo, project = folder / "repo", f"shop_{uuid.uuid4().hex[:8]}"
    shutil.copytree(REPO, repo)
    text = (
        f"project: {project}\nprovider: local\nregistry: {folder / 'registry.db'}\nonline_store: {{type: redis, connection_string: x:1}}\n"
    )
    (repo / "feature_store.yaml").write_text(f"{text}offline_store: {{type: dask}}\nentity_key_serialization_version: 3\n")
    spec = importlib.util.spec_from_file_location("shop_of_contracts", repo / "shop_features.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store = FeatureStore(repo_path=str(repo))
    store.apply([module.product, module.store, module.sales, module.shelf, module.pricing, module.sells_out])
    own = Settings(repo=repo, state=folder / "state", redis_url=redis_url)
    write_key(own.state)
    write_version(own.model_root, 1, inputs=INPUTS, definitions=definitions_of(store, "sells_out"), project=project)
    return own


@pytest.fixture(scope="module")
def good(shop: Settings) -> dict[str, Any]:
    return dict(json.loads((shop.model_root / "sells_out" / "1" / contract.CONTRACT).read_bytes()))


def loaded(own: Settings) -> None:
    log = PredictionLog(None, "shop", 10, 10)  # type: ignore[arg-type]
    load(own, "sells_out", 1, Metrics(), log)


def contracts(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Contracts with something wrong in them, whose files mostly verify: what they say is not only hashes."""

    def verifying(raw: bytes) -> bytes:
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(raw)
            if isinstance(said, dict):
                return json.dumps(said | {"files": good["files"], "model": good["model"], "version": 1}).encode()
        return raw

    changed = st.one_of(bodies(good), bodies({k: good[k] for k in ("inputs", "request", "deadline_ms")}).map(lambda raw: _over(good, raw)))
    named = st.sampled_from(["store", "price", "count_1h", "prediction_id", "marks", "day", "score", "", 'a"b', "\x00", "é"])
    field = st.fixed_dictionaries(
        {}, optional={"name": named, "dtype": st.sampled_from(DTYPES), "kind": st.sampled_from(["entity", "request"])}
    )

    def mixed(changes: list[dict[str, Any]]) -> bytes:
        request = [one | change for one, change in zip(good["request"], changes, strict=False)]
        inputs = [one | ({"name": c["name"]} if "name" in c else {}) for one, c in zip(good["inputs"], changes[::-1], strict=True)]
        return json.dumps(good | {"request": request, "inputs": inputs}).encode()

    consistent = st.lists(field, min_size=WIDTH, max_size=WIDTH).map(mixed)
    return st.one_of(changed, changed.map(verifying), consistent)


def _over(good: dict[str, Any], raw: bytes) -> bytes:
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(raw)
        if isinstance(said, dict):
            return json.dumps(good | said).encode()
    return raw


@fuzzed
@given(st.data())
def test_fuzz_a_contract_that_nobody_released_is_loaded_or_refused(shop: Settings, good: dict[str, Any], data: st.DataObject) -> None:
    path = shop.model_root / "sells_out" / "1" / contract.CONTRACT
    path.write_bytes(data.draw(contracts(good)))
    with contextlib.suppress(*REFUSALS):
        loaded(shop)


@fuzzed
@given(st.data())
def test_fuzz_the_archive_goes_on_whatever_the_contract_of_a_version_says(
    shop: Settings, good: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """What it holds comes back as it was logged, under whatever contract it was archived; or counts as unreadable."""
    path = shop.model_root / "sells_out" / "1" / contract.CONTRACT
    folder = tmp_path_factory.mktemp("archive")
    logged, done = [], Archived()
    for turn in range(2):  # one hour's file, under one contract and then another
        path.write_bytes(data.draw(contracts(good)))
        archive = Archive(folder / "offline", shop.model_root, folder / "home", "shop")
        one = Prediction(
            IDS.make("sells_out", NOW_US)[0],
            "sells_out",
            1,
            NOW_US + turn,
            NOW_US,
            INSTANCE | {"store": turn},
            [1.5] * WIDTH,
            "f" * WIDTH,
            {},
            0.5,
        )
        logged.append(one)
        archive._predictions([(b"1-0", {b"p": msgspec.json.encode(one)})], done)
    assert done.predictions + done.unreadable == 2
    path.write_bytes(json.dumps(good).encode())
    archive = Archive(folder / "offline", shop.model_root, folder / "home", "shop")
    back = archive.restore("sells_out", archive.predictions("sells_out"))
    asked = [(one.id, one.at_us, one.request) for one in logged]
    assert all((one.id, one.at_us, one.request) in asked for one in back), "values are by the names of the contract then"
    shutil.rmtree(folder)
