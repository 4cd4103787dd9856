"""Training that can be trusted: bad data is refused by name, parameters are searched the same way twice, scores are calibrated in the exported
model, slices are held to their rates, and the card says it all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo.records import contract, release
from feature_repo.spec.model import ModelSpec
from infra.settings import Settings
from tests.training.examples import spec
from training.data import validation
from training.data.splits import Part, split
from training.data.training_set import TrainingSet
from training.data.validation import DataError
from training.evaluation import fairness
from training.export.certificate import certify
from training.modeling import calibration
from training.modeling.fit import fit_model
from training.modeling.tuning import search
from training.registration.bounds import GateError
from training.registration.register import train_and_register


def altered(made: TrainingSet, path: Path, **columns: Any) -> TrainingSet:
    """The training set with columns replaced (a function of the old one), dropped (None) or rows repeated (`rows`)."""
    table = pq.read_table(made.path)
    rows = columns.pop("rows", None)
    for name, change in columns.items():
        place = table.schema.get_field_index(name)
        table = table.drop_columns([name]) if change is None else table.set_column(place, name, change(table[name]))
    pq.write_table(table if rows is None else rows(table), path)
    return replace(made, path=path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": lambda c: pc.add(c, 1)}, r"label: \d+,?\d* labels are neither 0 nor 1"),
        ({"view__x": lambda c: c.cast(pa.string())}, "view__x: declared double, is string"),
        ({"rows": lambda t: pa.concat_tables([t, t.slice(0, 7)])}, "id: 7 rows repeat an example"),
    ],
)
def test_a_broken_training_set_is_refused_by_name(made: TrainingSet, own: Settings, tmp_path: Path, change: Any, says: str) -> None:
    with pytest.raises((DataError, ValueError), match=says):
        train_and_register(spec(), altered(made, tmp_path / "broken.parquet", **change), own)
    assert not (own.model_root / "model").exists()


def test_data_unlike_that_of_the_live_version_is_refused_or_warned_of(made: TrainingSet, own: Settings, tmp_path: Path) -> None:
    first = train_and_register(spec(), made, own)
    release.promote(own.model_root, "model", first.version)
    same = train_and_register(spec(), made, own)
    assert (same.validation, same.parent) == ([], 1)

    def fahrenheit(column: Any) -> Any:
        return pc.add(pc.multiply(column, 180.0), 3200.0)

    moved = altered(made, tmp_path / "unit.parquet", view__x=fahrenheit)
    with pytest.raises(DataError, match=r"view__x: .*far outside the former range"):
        train_and_register(spec(), moved, own)
    forced = train_and_register(spec(), moved, own, force=True)
    assert {(f.check, f.severity) for f in forced.validation} == {("range", "error"), ("drift", "warning")}
    empty = altered(made, tmp_path / "empty.parquet", view__z=lambda c: pa.nulls(len(c), pa.float64()))
    with pytest.raises(DataError, match=r"view__z: null in 0\.0% of the former rows, now 100\.0% more"):
        train_and_register(spec(), empty, own)
    stuck = altered(made, tmp_path / "stuck.parquet", view__z=lambda c: pa.array(np.zeros(len(c))))
    assert "constant" in {f.check for f in validation.against_former(spec(), split(spec(), stuck), made.inputs, first)}
    flipped = altered(made, tmp_path / "flipped.parquet", label=lambda c: pc.subtract(1, c))
    assert [f.check for f in validation.against_former(spec(), split(spec(), flipped), made.inputs, first)] == ["base_rate"]


def test_splits_that_overlap_are_refused(made: TrainingSet, own: Settings) -> None:
    overlapping = {"train": {"start": "2020-01-01", "end": "2020-01-23"}, "valid": {"start": "2020-01-21", "end": "2020-01-26"}}
    with pytest.raises(DataError, match="train ends 2020-01-23, 2 days after valid starts"):
        train_and_register(spec(split=overlapping, gates=[]), made, own)


@pytest.mark.slow
def test_a_search_bound_by_trials_finds_the_same_twice_and_is_never_worse(made: TrainingSet) -> None:
    asked = spec(search={"trials": 6, "space": {"num_leaves": [3, 31], "learning_rate": [0.01, 0.5]}})
    names, parts = [i.name for i in made.inputs], split(asked, made)
    told: list[tuple[int, int]] = []
    one = search(asked, parts, names, lambda done, total, best: told.append((done, total)))
    two = search(asked, parts, names)
    assert one.parameters == two.parameters
    assert one.record["best"] <= one.record["baseline"]
    assert one.record["ended_by"] == "trials"
    assert told[-1] == (6, 6)
    assert isinstance(one.parameters["num_leaves"], int)
    short = search(spec(search={"trials": 10_000, "seconds": 2}), parts, names)
    assert short.record["ended_by"] == "time"


def test_what_was_searched_stands_in_the_contract(made: TrainingSet, own: Settings) -> None:
    found = train_and_register(spec(search={"trials": 4}), made, own, tune=True)
    assert found.search["trials"] >= 4
    assert ModelSpec.model_validate(found.spec).parameters["num_leaves"] == found.parameters["num_leaves"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"imbalance": {"positive_weight": 8.0}}, {"calibration": "sigmoid"}])
def test_scores_are_put_right_inside_the_exported_model(made: TrainingSet, own: Settings, changes: dict[str, Any]) -> None:
    asked = spec(**changes)
    found = train_and_register(asked, made, own)
    assert found.calibration["error"] < 0.05
    if "imbalance" in changes:
        assert found.calibration["error_before"] > 0.2, "weighted positives overstate the odds, until that is taken back"
    fitted = fit_model(asked, made)
    onnx = (own.model_root / "model" / "1" / "model.onnx").read_bytes()
    part = fitted.parts["test"]
    session = onnxruntime.InferenceSession(onnx)
    score = np.asarray(session.run(None, {session.get_inputs()[0].name: part.matrix})[0]).ravel()
    assert np.abs(score - fitted.score(part)).max() < 1e-12
    assert certify(fitted.booster, onnx, part.matrix).passed


def test_a_sigmoid_is_the_most_likely_one() -> None:
    random = np.random.default_rng(0)
    raw = random.normal(0, 2, 20_000)
    label = (random.random(20_000) < calibration.sigmoid(0.5 * raw - 1)).astype(float)
    slope, intercept = calibration.platt(label, raw)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-1, abs=0.06)
    with pytest.raises(calibration.CalibrationError, match="do not rise"):
        calibration.platt(label, -raw)


def test_a_gate_on_fairness_can_fail(made: TrainingSet, own: Settings) -> None:
    label = np.array([1, 1, 0, 0] * 2, dtype=float)
    score = np.array([0.9, 0.9, 0.1, 0.1, 0.9, 0.1, 0.9, 0.1])
    found = fairness.measure(label, score, np.repeat(["a", "b"], 4), 0.5)
    assert found.rates["a"] == {"selection_rate": 0.5, "true_positive_rate": 1.0, "false_positive_rate": 0.0}
    assert found.disparities["equalized_odds_difference"] == 0.5
    gates = [{"metric": "equalized_odds_difference", "slice": "region", "max": 1e-6}]
    with pytest.raises(GateError, match="equalized_odds_difference"):
        train_and_register(spec(gates=gates), made, own)
    loose = [{"metric": "equalized_odds_difference", "slice": "region", "max": 1.0}]
    assert all(g["passed"] for g in train_and_register(spec(gates=loose), made, own).gates)


@pytest.mark.slow
def test_the_card_says_what_the_contract_knows_and_the_run_knows_where_it_comes_from(made: TrainingSet, own: Settings) -> None:
    from mlflow import MlflowClient

    found = train_and_register(spec(description="Whether it `rains`."), made, own, provenance={"trigger": "schedule@5", "reason": "a <b>"})
    folder = own.model_root / "model" / "1"
    text, page = (folder / "card.md").read_text(), (folder / "card.html").read_text()
    digest = contract.sha256(folder / "contract.json")
    for wanted in ("Whether it `rains`.", digest, found.files["model.onnx"], "schedule@5", "view__x", "region", "## Limitations"):
        assert wanted in text
    assert page.count("<svg") >= 4
    assert "a &lt;b&gt;" in page
    assert "src=" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    contract.load(folder)
    assert found.importance
    assert next(iter(found.importance)) == "view__x"
    run = MlflowClient(own.tracking_uri, own.tracking_uri).get_run(found.run_id)
    assert run.data.tags["contract"] == digest
    assert run.data.tags["provenance.trigger"] == "schedule@5"
    assert run.data.tags["parent"] == "none"
    assert run.inputs.dataset_inputs[0].dataset.digest == made.hash[:36]


def test_intervals_are_of_the_held_out_rows(made: TrainingSet, own: Settings) -> None:
    found = train_and_register(spec(), made, own)
    low, high = found.intervals["test"]["auc"]
    assert low < found.metrics["test"]["auc"] < high
    assert isinstance(split(spec(), made)["test"], Part)
