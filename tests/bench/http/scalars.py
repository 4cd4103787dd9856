"""A use case of plain scalars for the serving benchmark: four entities, a view of five features each, a model of 200 trees."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from feature_repo.records import contract, release
from feature_repo.records.contract import Contract, Input, Parity, RequestField
from feature_repo.records.redis_keys import keys_key
from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import definitions_of
from feature_repo.spec.use_case import UseCase
from infra.redis_client import for_feast
from infra.settings import Settings
from streaming.online.store import OnlineStore, connect
from streaming.online.writer import overwrite
from streaming.schema.columns import EVENT, KNOWN, canonical
from streaming.schema.feature_view import View, views

KEYS, IDS = ("user_id", "item_id", "shop_id", "device_id"), 1000
MODEL = "scalar_score"
_YAML = """project: bench
provider: local
registry: {{registry_type: sql, path: "{registry}", cache_ttl_seconds: 60}}
online_store: {{type: redis, connection_string: "{redis}"}}
offline_store: {{type: {offline}}}
entity_key_serialization_version: 3
"""
_DEFINITIONS = """from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Float64, Int64

KEYS = {keys}
entities = {{k: Entity(name=k, join_keys=[k], value_type=ValueType.INT64) for k in KEYS}}


def view(name, key, features):
    source = SparkSource(name=name + "_table", path=name, file_format="parquet", timestamp_field="event_timestamp")
    schema = [Field(name=key, dtype=Int64), *(Field(name=f"{{name}}_f{{i}}", dtype=Float64) for i in range(features))]
    return FeatureView(name=name, entities=[entities[key]], ttl=timedelta(days=36500), source=source, schema=schema)


user_id, item_id, shop_id, device_id = (entities[k] for k in KEYS)
by_user, by_item, by_shop, by_device = (view("by_" + k.removesuffix("_id"), k, 5) for k in KEYS)
w0, w1, w2, w3, w4 = (view(f"w{{i}}", "user_id", 10) for i in range(5))
scalars = FeatureService(name="scalars", features=[by_user, by_item, by_shop, by_device])
wide = FeatureService(name="wide", features=[w0, w1, w2, w3, w4])
"""


def write_repo(folder: Path, own: Settings, offline: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(_YAML.format(registry=own.registry_url, redis=for_feast(own.redis()), offline=offline))
    return folder


def make(own: Settings, folder: Path) -> UseCase:
    """Apply the use case, fill the online store, train and promote the model."""
    write_repo(folder, own, "streaming.offline_store.HeadraceOfflineStore")
    (folder / "bench_features.py").write_text(_DEFINITIONS.format(keys=list(KEYS)))
    case = UseCase(folder)
    apply_definitions(case)
    for view in views(case.store).values():
        _fill(own, view)
    _train(own, case)
    return case


def _fill(own: Settings, view: View) -> None:
    random = np.random.default_rng(len(view.name))
    now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us").astype(np.int64)
    table = pa.table(
        {
            view.key_names[0]: np.arange(IDS),
            **{f.name: random.normal(size=IDS) for f in view.features},
            EVENT: np.full(IDS, now),
            KNOWN: np.full(IDS, now),
        }
    )
    overwrite(view, OnlineStore(connect(own.redis())), canonical(table), (keys_key(view.project, view.name),), int(now))


def challenger(own: Settings) -> None:
    """A second version, to stand in the first one's shadow."""
    import shutil

    folder = own.model_root / MODEL / "2"
    shutil.copytree(own.model_root / MODEL / "1", folder)
    contract.write(folder, msgspec.structs.replace(contract.load(folder), version=2))


def _train(own: Settings, case: UseCase) -> None:
    import lightgbm

    from training.export.tree_ensemble import export

    random = np.random.default_rng(7)
    matrix = random.normal(size=(5000, 20))
    label = (matrix[:, 0] + matrix[:, 7] * matrix[:, 12] + random.normal(size=5000) > 0).astype(int)
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 2}, lightgbm.Dataset(matrix, label), 200)
    service = case.store.get_feature_service("scalars")
    sources = [f"{p.name}:{f.name}" for p in service.feature_view_projections for f in p.features]
    folder = own.model_root / MODEL / "1"
    folder.mkdir(parents=True)
    (folder / contract.MODEL).write_bytes(export(booster))
    booster.save_model(folder / "lightgbm.txt")
    known = definitions_of(case.store, "scalars")
    made = Contract(
        model=MODEL,
        version=1,
        project="bench",
        feature_service="scalars",
        definitions=known,
        definition_hash="",
        inputs=[Input(s.replace(":", "__"), s, "feature", "float64") for s in sources],
        request=[RequestField(k, "entity", "int64", 1) for k in KEYS],
        label="label",
        label_delay="1d",
        deadline_ms=2000,
        split={},
        training_set={},
        parameters={},
        metrics={},
        slices={},
        gates=[],
        reference={},
        parity=Parity(0, 0.0),
        run_id="",
        created="",
        files={p.name: contract.sha256(p) for p in folder.iterdir()},
    )
    contract.write(folder, made)
    release.promote(own.model_root, MODEL, 1)


def instances(number: int, seed: int = 3) -> list[dict[str, int]]:
    random = np.random.default_rng(seed)
    return [dict(zip(KEYS, row, strict=True)) for row in random.integers(0, IDS, (number, len(KEYS))).tolist()]


def write_bodies(path: Path, bodies: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(bodies) + b"\n")
    return path


def predict_bodies(number: int = 500, rows: int = 1) -> list[bytes]:
    some = instances(number * rows)
    return [msgspec.json.encode({"instances": some[i * rows : (i + 1) * rows]}) for i in range(number)]


def feast_bodies(number: int = 500) -> list[bytes]:
    rows = instances(number)
    return [msgspec.json.encode({"feature_service": "scalars", "entities": {k: [r[k]] for k in KEYS}}) for r in rows]
