"""From a training set to a contract: gates that can fail, the same bytes again, files that are what they were, a run in MLflow."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.records import contract
from feature_repo.records.contract import Contract, Input, Null, Parity
from feature_repo.spec.model import Gate, Spine
from infra.settings import Settings
from tests.training.examples import SPEC, spec
from training.data.splits import SplitError, matrix, split
from training.data.training_set import TrainingSet
from training.evaluation import metrics
from training.export.tree_ensemble import export
from training.modeling.fit import fit_model
from training.registration import bounds
from training.registration.register import _claim, sweep, train_and_register


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
    with pytest.raises(bounds.GateError, match=r"auc on test is 0\.\d+, asked at least 0\.999; nonsense on test is not measured"):
        train_and_register(strict, made, own)
    assert not (own.model_root / "model").exists()
    forced = train_and_register(strict, made, own, force=True)
    assert [g["passed"] for g in forced.gates] == [True, False, False]


def test_gates_on_slices_and_parity_can_fail() -> None:
    strict = spec(gates=[{"metric": "auc", "slice": "region", "min": 0.7}])
    slices = {"valid": {"region": {"north": {"auc": 0.8}, "south": {"auc": 0.6}, "odd": {"auc": float("nan")}}}}
    results = bounds.check_bounds(strict, {}, slices, Parity(10, 2e-9))
    assert [r["passed"] for r in results] == [False, True, False, False]
    assert [r["slice"] for r in results] == [None, "region", "region", "region"]
    assert not bounds.check_bounds(strict, {}, {}, Parity(10, 0.0))[1]["passed"]
    with pytest.raises(ValueError, match="min or max"):
        Gate(metric="auc")


def test_a_gate_on_a_slice_of_the_test_split_looks_at_the_test_split() -> None:
    strict = spec(gates=[{"metric": "auc", "on": "test", "slice": "region", "min": 0.7}])
    slices = {"valid": {"region": {"north": {"auc": 0.9}}}, "test": {"region": {"north": {"auc": 0.5}}}}
    checked = bounds.check_bounds(strict, {}, slices, Parity(10, 0.0))[1]
    assert (checked["measured"], checked["passed"], checked["on"]) == (0.5, False, "test region=north")


def test_a_slice_of_one_class_and_an_infinite_input_leave_a_contract_that_loads(made: TrainingSet, own: Settings, tmp_path: Path) -> None:
    table = pq.read_table(made.path)
    label = table["label"].to_pylist()
    region = ["always" if y == 1 else r for y, r in zip(label, table["region"].to_pylist(), strict=True)]
    z = table["view__z"].to_numpy().copy()
    z[::50], z[1::50] = np.inf, -np.inf
    table = table.set_column(table.column_names.index("region"), "region", pa.array(region))
    table = table.set_column(table.column_names.index("view__z"), "view__z", pa.array(z))
    pq.write_table(table, tmp_path / "odd.parquet")
    gates = [{"metric": "log_loss", "on": "test", "slice": "region", "max": 9}]
    made_of_odd = train_and_register(spec(gates=gates), replace(made, path=tmp_path / "odd.parquet"), own)
    loaded = contract.load(own.model_root / "model" / "1")
    assert loaded == made_of_odd
    assert "auc" not in loaded.slices["region"]["always"]
    assert loaded.slices["region"]["always"]["base_rate"] == 1.0
    assert np.isfinite(loaded.reference["view__z"].quantiles).all()
    assert loaded.parity.rows == made.rows
    assert any(g["on"] == "test region=always" for g in loaded.gates)


def test_an_altered_or_missing_file_is_named(made: TrainingSet, own: Settings) -> None:
    train_and_register(spec(), made, own)
    folder = own.model_root / "model" / "1"
    for name in (contract.MODEL, contract.REFERENCE, "lightgbm.txt"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(contract.ContractError, match=f"{name} is not the file"):
            contract.load(folder)
        (folder / name).unlink()
        with pytest.raises(contract.ContractError, match=f"{name} is named in the contract but missing"):
            contract.load(folder)
        (folder / name).write_bytes(kept)
    contract.load(folder)


def test_trainings_at_once_get_a_version_each(made: TrainingSet, tmp_path: Path) -> None:
    blank = Contract("model", 0, "p", "s", {}, "d", [], [], "label", "", 1, {}, {}, {}, {}, {}, [], {}, Parity(1, 0.0), "run", "now", {})

    def claim(n: int) -> int:
        partial = tmp_path / f".new-{n}"
        partial.mkdir()
        (partial / contract.MODEL).write_text(str(n))
        folder, claimed = _claim(partial, tmp_path, blank)
        assert (folder / contract.MODEL).read_text() == str(n)
        return claimed.version

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(24))) == list(range(1, 25))


def test_a_run_that_could_not_be_finished_is_marked_failed(made: TrainingSet, own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("training.registration.register._claim", broken)
    with pytest.raises(OSError, match="no space"):
        train_and_register(spec(), made, own)
    client = MlflowClient(own.tracking_uri, own.tracking_uri)
    experiment = client.get_experiment_by_name("model")
    assert experiment is not None
    assert [r.info.status for r in client.search_runs([experiment.experiment_id])] == ["FAILED"]
    assert not list((own.model_root / "model").iterdir())


def test_two_fits_are_the_same_to_the_byte(made: TrainingSet) -> None:
    a, b = (fit_model(spec(), made).booster for _ in range(2))
    assert a.model_to_string() == b.model_to_string()
    assert export(a) == export(b)


def test_training_sees_only_labels_known_by_its_end(made: TrainingSet) -> None:
    parts = split(spec(), made)
    known = parts["train"].table["known"].to_pylist()
    assert max(known) < datetime(2020, 1, 21, tzinfo=UTC)
    assert None not in parts["train"].table["label"].to_pylist()
    assert min(parts["valid"].table["event_timestamp"].to_pylist()) >= datetime(2020, 1, 21, tzinfo=UTC)


def test_no_split_that_is_fitted_on_knows_what_became_known_after_its_end(made: TrainingSet) -> None:
    parts = split(spec(), made)
    table = pq.read_table(made.path)
    for name, span in (("train", spec().split.train), ("valid", spec().split.valid)):
        start, end = span.bounds()
        inside = [
            known < end
            for at, known, label in zip(*(table[c].to_pylist() for c in ("event_timestamp", "known", "label")), strict=True)
            if start <= at < end and label is not None
        ]
        assert len(parts[name].label) == sum(inside)
        assert parts[name].late == len(inside) - sum(inside) > 0


def test_an_empty_split_is_named(made: TrainingSet) -> None:
    with pytest.raises(SplitError, match="valid split"):
        split(spec(split={**SPEC["split"], "valid": {"start": "2021-01-01", "end": "2021-02-01"}}), made)  # type: ignore[dict-item]


def test_a_default_stands_for_null_in_training_too() -> None:
    table = pa.table({"a": pa.array([1.0, None]), "b": pa.array([None, 2])})
    inputs = [Input("b", "v:b", "feature", "int64"), Input("a", "v:a", "feature", "double", Null("default", -1.0))]
    assert np.array_equal(matrix(table, inputs), [[np.nan, 1.0], [2.0, -1.0]], equal_nan=True)


def test_metrics_are_what_they_are_called() -> None:
    label, score = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    found = metrics.metrics_of(label, score)
    assert found["auc"] == 0.75
    assert found["brier"] == pytest.approx(np.mean((score - label) ** 2))
    assert found["rows"] == 4
    assert np.isnan(metrics.metrics_of(np.zeros(3), np.zeros(3))["auc"])
    curves = metrics.curves(label, score)
    assert curves["roc"][0] == (0.0, 0.0)
    assert curves["roc"][-1] == (1.0, 1.0)


def test_a_spec_may_not_set_what_makes_fits_repeatable() -> None:
    with pytest.raises(ValueError, match="seed"):
        spec(parameters={"seed": 3})


def test_the_spine_has_a_moment_of_its_own() -> None:
    assert Spine.model_validate(SPEC["spine"]).timestamp == "event_timestamp"


def test_what_a_killed_training_left_goes_a_day_later(tmp_path: Path) -> None:
    for name, age_s in ((".new-old", 90_000), (".new-young", 60), ("1", 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".new-young", "1"]
