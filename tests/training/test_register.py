"""From a training set to a contract: gates that can fail, the same bytes again, files that are what they were, a run in MLflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo import contract
from feature_repo.contract import Input, Null, Parity, RequestField
from feature_repo.use_case import Gate, ModelSpec, Spine
from infra.settings import Settings
from training import evaluate, gate
from training.fit import FitError, fit, matrix, split
from training.register import train_and_register
from training.training_set import TrainingSet

START = datetime(2020, 1, 1, tzinfo=UTC)
SPEC = {
    "name": "model",
    "feature_service": "service",
    "spine": {"table": "examples", "id": ["id"], "label": "label", "label_timestamp": "known"},
    "split": {
        "train": {"start": "2020-01-01", "end": "2020-01-21"},
        "valid": {"start": "2020-01-21", "end": "2020-01-26"},
        "test": {"start": "2020-01-26", "end": "2020-01-31"},
    },
    "parameters": {"learning_rate": 0.2, "num_leaves": 7, "min_data_in_leaf": 20},
    "rounds": 30,
    "early_stopping": 5,
    "gates": [{"metric": "auc", "on": "test", "min": 0.7, "max": 0.999}],
    "slices": ["region"],
}


def spec(**changes: object) -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    random = np.random.default_rng(5)
    n = 6000
    x, z = random.normal(size=n), random.normal(size=n)
    x[random.random(n) < 0.1] = np.nan
    label = (np.nan_to_num(x) + random.normal(size=n) > 0.5).astype(int)
    at = [START + timedelta(minutes=7.2 * i) for i in range(n)]
    table = pa.table(
        {
            "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            "id": np.arange(n),
            "region": np.array(["north", "south", "tiny"])[np.where(random.random(n) < 0.01, 2, random.integers(0, 2, n))],
            "label": pa.array(label, mask=random.random(n) < 0.05),
            "known": pa.array([a + timedelta(hours=5) for a in at], pa.timestamp("us", "UTC")),
            "view__x": pa.array(x, mask=np.isnan(x)),
            "view__z": z,
        }
    )
    path = tmp_path_factory.mktemp("set") / "set.parquet"
    pq.write_table(table, path)
    inputs = [Input(f"view__{c}", f"view:{c}", "feature", "double") for c in "xz"]
    return TrainingSet(path, "h" * 64, n, inputs, [RequestField("id", "entity", "int64", 1)], {"view:x": "a"}, "d", "project")


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


def test_a_registered_version_is_complete_and_verifies(made: TrainingSet, own: Settings) -> None:
    from mlflow import MlflowClient

    first = train_and_register(spec(), made, own)
    second = train_and_register(spec(), made, own)
    assert (first.version, second.version) == (1, 2)
    loaded = contract.load(own.model_root / "model" / "2")
    assert loaded == second
    assert loaded.parity.max_abs_difference <= 1e-9
    assert {"north", "south", "other"} == set(loaded.slices["region"])
    assert loaded.reference["view__x"].null_rate == pytest.approx(0.1, abs=0.03)
    assert first.files["model.onnx"] == second.files["model.onnx"]
    reference = pq.read_table(own.model_root / "model" / "2" / contract.REFERENCE)
    assert set(reference.column_names) >= {"view__x", "view__z", "score"}
    client = MlflowClient(own.tracking_uri, own.tracking_uri)
    run = client.get_run(second.run_id)
    assert run.data.tags["training_set"] == made.hash
    assert run.data.metrics["test_auc"] == pytest.approx(second.metrics["test"]["auc"])
    assert len(client.search_model_versions("name='model'")) == 2
    assert not [p for p in (own.model_root / "model").iterdir() if p.name.startswith(".")]


def test_a_failed_gate_registers_nothing_and_says_what_was_measured(made: TrainingSet, own: Settings) -> None:
    strict = spec(gates=[{"metric": "auc", "on": "test", "min": 0.999}, {"metric": "nonsense", "on": "test", "min": 0}])
    with pytest.raises(gate.GateError, match=r"auc on test is 0\.\d+, asked at least 0\.999; nonsense on test is not measured"):
        train_and_register(strict, made, own)
    assert not (own.model_root / "model").exists()
    forced = train_and_register(strict, made, own, force=True)
    assert [g["passed"] for g in forced.gates] == [True, False, False]


def test_gates_on_slices_and_parity_can_fail() -> None:
    strict = spec(gates=[{"metric": "auc", "slice": "region", "min": 0.7}])
    slices = {"region": {"north": {"auc": 0.8}, "south": {"auc": 0.6}}}
    results = gate.check(strict, {}, slices, Parity(10, 2e-9))
    assert [r["passed"] for r in results] == [False, True, False]
    assert not gate.check(strict, {}, {}, Parity(10, 0.0))[1]["passed"]
    with pytest.raises(ValueError, match="min or max"):
        Gate(metric="auc")


def test_two_fits_are_the_same_to_the_byte(made: TrainingSet) -> None:
    a, b = (fit(spec(), made).booster.model_to_string() for _ in range(2))
    assert a == b


def test_training_sees_only_labels_known_by_its_end(made: TrainingSet) -> None:
    parts = split(spec(), made)
    known = parts["train"].table["known"].to_pylist()
    assert max(known) < datetime(2020, 1, 21, tzinfo=UTC)
    assert None not in parts["train"].table["label"].to_pylist()
    assert min(parts["valid"].table["event_timestamp"].to_pylist()) >= datetime(2020, 1, 21, tzinfo=UTC)


def test_an_empty_split_is_named(made: TrainingSet) -> None:
    with pytest.raises(FitError, match="valid split"):
        split(spec(split={**SPEC["split"], "valid": {"start": "2021-01-01", "end": "2021-02-01"}}), made)  # type: ignore[dict-item]


def test_a_default_stands_for_null_in_training_too() -> None:
    table = pa.table({"a": pa.array([1.0, None]), "b": pa.array([None, 2])})
    inputs = [Input("b", "v:b", "feature", "int64"), Input("a", "v:a", "feature", "double", Null("default", -1.0))]
    assert np.array_equal(matrix(table, inputs), [[np.nan, 1.0], [2.0, -1.0]], equal_nan=True)


def test_metrics_are_what_they_are_called() -> None:
    label, score = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    found = evaluate.metrics(label, score)
    assert found["auc"] == 0.75
    assert found["brier"] == pytest.approx(np.mean((score - label) ** 2))
    assert found["rows"] == 4
    assert np.isnan(evaluate.metrics(np.zeros(3), np.zeros(3))["auc"])
    curves = evaluate.curves(label, score)
    assert curves["roc"][0] == (0.0, 0.0)
    assert curves["roc"][-1] == (1.0, 1.0)


def test_a_spec_may_not_set_what_makes_fits_repeatable() -> None:
    with pytest.raises(ValueError, match="seed"):
        spec(parameters={"seed": 3})


def test_the_spine_has_a_moment_of_its_own() -> None:
    assert Spine.model_validate(SPEC["spine"]).timestamp == "event_timestamp"
