"""Unknown never means go: what could not be looked at lets no version out, and says what is missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.metrics.table import METRICS
from feature_repo.records import contract, release
from feature_repo.records.contract import ContractError, Parity
from feature_repo.records.prediction import Prediction
from feature_repo.spec.model import ModelSpec
from infra.settings import Settings
from streaming.offline.archive import Archived, of
from tests.infra.test_files import BREAKS
from tests.training.examples import spec
from training.data import validation
from training.data.splits import split
from training.data.training_set import TrainingSet
from training.data.validation import DataError
from training.evaluation import fairness, metrics
from training.evaluation.comparison import slices
from training.evaluation.rescoring import NotComparable, scored
from training.gates.challenge import examine
from training.gates.record import Gates
from training.gates.slices import Slices
from training.monitoring import live_quality
from training.monitoring.live_quality import Labelled
from training.registration.bounds import check_bounds
from training.registration.register import train_and_register
from training.retraining.rollout import evidence

CASE: Any = SimpleNamespace(project="p")
LEARNING = {"challenge": {"margin": 1, "slice_margin": 1}}
WELL = ["export", "latency", "size"]


def no_spark() -> NoReturn:
    raise AssertionError("nothing is to be joined")


def registered(made: TrainingSet, own: Settings, asked: ModelSpec) -> int:
    """A version with its training set where `build` would have left it."""
    folder = own.state / "training_sets" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(made.path, folder / made.path.name)
    return train_and_register(asked, made, own).version


def looked(gates: Gates) -> dict[str, tuple[bool, str]]:
    return {c.name: (c.passed, c.text) for c in gates.checks}


def archived(own: Settings, version: int, hours: int, role: str = "champion", score: float = 0.5) -> None:
    one = Prediction("", "model", version, 0, 0, {}, [0.1, 0.2], "ff", {}, score, role)
    page = [
        (b"1-0", {b"p": msgspec.json.encode(msgspec.structs.replace(one, id=f"{role}{i}", at_us=i * 3_600_000_000))}) for i in range(hours)
    ]
    of(own, CASE.project)._predictions(page, Archived())


def test_the_first_version_passes_without_a_served_value_and_the_gates_say_that_nothing_was_served(
    made: TrainingSet, own: Settings
) -> None:
    asked = spec(learning=LEARNING)
    first = examine(no_spark, CASE, own, asked, registered(made, own, asked))
    assert first.passed, first
    assert looked(first)["skew"] == (True, "no version is live yet: nothing was served")
    assert looked(first)["champion"][1].startswith("no version is live yet")


def test_a_live_version_of_which_nothing_is_archived_lets_no_challenger_pass(made: TrainingSet, own: Settings) -> None:
    asked = spec(learning=LEARNING)
    release.promote(own.model_root, "model", registered(made, own, asked))
    second = registered(made, own, asked)
    found = examine(no_spark, CASE, own, asked, second)
    assert [c.name for c in found.checks if not c.passed] == ["skew"]
    assert looked(found)["skew"][1].startswith("not known: no prediction of version 1, which is live, is archived")
    archived(own, 2, 3)  # another version's answers say nothing of the live one's
    archived(own, 1, 3, role="shadow")
    assert not looked(examine(no_spark, CASE, own, asked, second))["skew"][0]
    without = spec(learning={"challenge": LEARNING["challenge"] | {"skew_rows": 0}})
    left_out = examine(no_spark, CASE, own, without, second)
    assert left_out.passed
    assert "left out by the spec" in looked(left_out)["skew"][1]


@pytest.mark.slow
@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_live_contract_refuses_new_data_and_every_challenger_by_name(made: TrainingSet, own: Settings, how: str) -> None:
    asked = spec(learning=LEARNING)
    release.promote(own.model_root, "model", registered(made, own, asked))
    second = registered(made, own, asked)
    archived(own, 1, 3)
    BREAKS[how](own.model_root / "model" / "1" / contract.CONTRACT)
    with pytest.raises(DataError, match=r"cannot be held against what version 1, which is live, was trained on: .*1"):
        train_and_register(asked, made, own)
    assert sorted(p.name for p in (own.model_root / "model").iterdir() if p.name.isdigit()) == ["1", "2"]
    found = looked(examine(no_spark, CASE, own, asked, second))
    for name in ("champion", "skew"):
        assert not found[name][0]
        assert found[name][1].startswith("not known: ")
    forced = train_and_register(asked, made, own, force=True)
    assert [(f.check, f.severity) for f in forced.validation] == [("former", "error")], "by force, and it is written down"


def test_a_live_contract_that_was_exchanged_or_a_broken_release_is_nothing_to_check_against(made: TrainingSet, own: Settings) -> None:
    asked = spec()
    release.promote(own.model_root, "model", registered(made, own, asked))
    folder = own.model_root / "model" / "1"
    contract.write(folder, msgspec.structs.replace(contract.load(folder), training_profile={}))
    with pytest.raises(DataError, match="not the contract that was released"):
        train_and_register(asked, made, own)
    with pytest.raises(ContractError, match="not the contract that was released"):
        scored(own.model_root, "model", 1)
    (own.model_root / "model" / release.RELEASE).write_bytes(b"{")
    with pytest.raises(release.ReleaseError, match="cannot be read"):
        train_and_register(asked, made, own)
    with pytest.raises(ContractError, match=r"cannot be verified: .*release\.json"):
        scored(own.model_root, "model", 1)


def test_the_newest_version_stands_in_where_none_is_live_and_has_to_be_whole(made: TrainingSet, own: Settings) -> None:
    registered(made, own, spec())
    (own.model_root / "model" / "1" / contract.CONTRACT).write_bytes(b"{")
    with pytest.raises(DataError, match="version 1, the newest"):
        train_and_register(spec(), made, own)


def test_a_former_contract_that_does_not_say_how_inputs_were_distributed_is_no_silent_pass(made: TrainingSet, own: Settings) -> None:
    first, parts = train_and_register(spec(), made, own), split(spec(), made)

    def found(**changes: Any) -> list[tuple[str, str, str]]:
        former = msgspec.structs.replace(first, **changes)
        return [(f.check, f.column, f.severity) for f in validation.against_former(spec(), parts, made.inputs, former)]

    assert found() == []
    some = {"view__x": first.training_profile["view__x"]}
    assert found(training_profile=some) == [("unknown", "view__z", "warning")]
    none = found(training_profile={}, reference={}, metrics={})
    assert none == [
        (*("unknown", name), s) for name, s in (("view__x", "error"), ("view__z", "error"), ("base_rate", "warning"), ("rows", "warning"))
    ]


def test_a_measure_that_is_no_number_is_beyond_every_bound() -> None:
    import pandas as pd
    from pandera.pandas import Column, DataFrameSchema

    rule = validation.Rule("rule", lambda v: float("nan"), (0.1, 0.2), "{measured} of {bound}")
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    assert validation._failures(DataFrameSchema({"a": Column(checks=rule.check())}), frame) == [("a", "rule")]
    assert rule.finding("a", frame["a"]).severity == "error"
    assert validation._one(rule, "a", frame["a"])


def test_an_input_that_had_no_value_and_has_some_now_is_another_population() -> None:
    former = validation.histogram(np.full(1000, np.nan))
    assert validation.stability_index(np.full(1000, np.nan), former) == 0
    assert validation.stability_index(np.ones(1000), former) > 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 1.0]), st.sampled_from([0.2, 0.8])), max_size=40))
def test_a_gate_never_passes_on_what_was_not_measured(rows: list[tuple[str, float, float]]) -> None:
    """Whatever classes and slices the rows have: a bound that everything meets is met by numbers only."""
    group, label, score = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0, str), np.zeros(0), np.zeros(0))
    names = tuple(METRICS)
    whole = metrics.metrics_of(label, score)
    by_value = {v: metrics.metrics_of(label[group == v], score[group == v]) for v in np.unique(group).tolist()}
    apart = fairness.measure(label, score, group, 0.5).disparities if len(rows) > 1 else {}
    gates = [{"metric": m, "max": 9, "min": 0} for m in names]
    gates += [g | {"slice": "region"} for g in gates] + [{"metric": m, "slice": "region", "max": 1} for m in fairness.DISPARITIES]
    results = check_bounds(
        spec(gates=gates), {"valid": whole}, {"valid": {"region": by_value}}, Parity(1, 0.0), {"valid": {"region": apart}}
    )
    for result in results[1:]:
        assert result["passed"] == (result["measured"] is not None)
    classes = {v: set(label[group == v].tolist()) for v in by_value}
    of = {m: [r["passed"] for r in results if r["metric"] == m and r["slice"]] for m in ("auc", *fairness.DISPARITIES)}
    assert of["auc"] == ([len(c) == 2 for c in classes.values()] or [False])
    two = len(by_value) == 2
    assert of["demographic_parity_difference"] == [two]
    assert of["equal_opportunity_difference"] == [two and all(1.0 in c for c in classes.values())]
    assert of["equalized_odds_difference"] == [two and all(len(c) == 2 for c in classes.values())]


def test_a_rate_of_a_few_rows_only_is_left_out_where_others_can_be_compared() -> None:
    label, score = np.array([1.0, 0.0] * 6 + [0.0]), np.full(13, 0.7)
    group = np.array(["a", "b", "a", "b"] * 3 + ["other"])
    label[:12] = [1, 1, 0, 0] * 3
    assert fairness.measure(label, score, group, 0.5, 5).disparities["equal_opportunity_difference"] == 0
    assert np.isnan(fairness.measure(label, score, group, 0.5).disparities["equal_opportunity_difference"])


@pytest.mark.parametrize("kind", ["one class", "one day", "small"])
def test_a_slice_that_cannot_be_compared_does_not_pass_and_says_why(kind: str) -> None:
    random = np.random.default_rng(0)
    label, score, day = (random.random(1000) < 0.5).astype(float), random.random(1000), np.arange(1000) % 20
    region = np.where(np.arange(1000) < 500, "odd", "even")
    if kind == "one class":
        label[:500] = 1
    if kind == "one day":
        day[:500] = 3
    if kind == "small":
        region = (np.arange(1000) % 100).astype(str)
    smallest = 2000 if kind == "small" else 100
    found = slices(label, score, score, {"region": region}, 1.0, smallest, groups=day, draws=20)
    asked = spec(learning={"challenge": {"metric": "auc"}})
    (checked,) = Slices().judge(found, ["region"], asked)
    assert not checked.passed
    says = {
        "one class": "region odd is not known: AUC is not defined",
        "one day": "single row or group",
        "small": "region is not known: none",
    }
    assert says[kind] in checked.text
    if kind != "small":
        by_value = {s.value: s for s in found}
        assert by_value["even"].passed, "the others are compared"
        assert (by_value["odd"].passed, by_value["odd"].measured) == (False, None)


def test_a_challenger_of_which_a_slice_is_unknown_is_refused(made: TrainingSet, own: Settings, tmp_path: Path) -> None:
    table = pq.read_table(made.path)
    region = [r if y != 1 else "always" for r, y in zip(table["region"].to_pylist(), table["label"].to_pylist(), strict=True)]
    pq.write_table(table.set_column(table.column_names.index("region"), "region", pa.array(region)), tmp_path / "odd.parquet")
    odd, asked = replace(made, path=tmp_path / "odd.parquet"), spec(learning={"challenge": {"metric": "auc", "margin": 1, "skew_rows": 0}})
    release.promote(own.model_root, "model", registered(odd, own, asked))
    found = looked(examine(no_spark, CASE, own, asked, registered(odd, own, asked)))
    assert found["champion"][0]
    assert not found["slices"][0]
    assert "region always is not known: AUC is not defined" in found["slices"][1]


def test_a_log_of_followers_only_is_no_request_that_was_scored(made: TrainingSet, own: Settings) -> None:
    asked = spec(learning=LEARNING)
    version = registered(made, own, asked)
    archived(own, version, 3, role="shadow")
    assert looked(examine(no_spark, CASE, own, asked, version))["log"] == (
        True,
        "no answered request is archived: the live shadow will show it",
    )
    archived(own, version, 30)
    assert looked(examine(no_spark, CASE, own, asked, version))["log"][1].startswith("25 requests of the last day")


def test_answers_of_a_version_that_cannot_be_read_are_not_rescored_as_if_nothing_was_stale(made: TrainingSet, own: Settings) -> None:
    version = registered(made, own, spec())
    mine = scored(own.model_root, "model", registered(made, own, spec()))
    archived(own, version, 3)
    table = of(own, CASE.project).predictions("model")
    assert len(mine.score(table)) == 3
    (own.model_root / "model" / str(version) / contract.CONTRACT).unlink()
    with pytest.raises(NotComparable, match="what was stale in the answers of version 1 is not known"):
        mine.score(table)


@pytest.mark.slow
@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.5])
def test_an_answer_that_is_no_probability_counts_without_its_truth(made: TrainingSet, own: Settings, score: float) -> None:
    version = registered(made, own, spec())
    mine, n = scored(own.model_root, "model", version), 4
    roles, none = np.array(["canary"] * n, dtype=object), np.full(n, np.nan)
    rows = Labelled(
        pa.table({"x": range(n)}), np.full(n, version), roles, np.arange(n), np.array([0.5] * 3 + [score]), none, np.full(n, -1)
    )
    assert evidence("canary", rows, mine, mine, 0, n, None, "").broken == 1


@pytest.mark.slow
@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.5])
def test_an_answer_of_the_other_that_is_no_probability_is_compared_with_nothing(made: TrainingSet, own: Settings, score: float) -> None:
    first, second = (registered(made, own, spec()) for _ in range(2))
    mine, other = (scored(own.model_root, "model", v) for v in (second, first))
    table = pa.table({"prediction_id": ["a", "b", "c", "d"], "shadow_of": [None, None, "a", "b"]})
    roles = np.array(["champion", "champion", "shadow", "shadow"], dtype=object)
    scores, label, known = np.array([0.3, score, 0.4, 0.4]), np.ones(4), np.arange(4)
    rows = Labelled(table, np.array([first, first, second, second]), roles, np.arange(4), scores, label, known)
    found = evidence("shadow", rows, mine, other, 0, 4, None, "")
    assert (found.label.tolist(), found.other.tolist(), found.broken) == ([1.0], [0.3], 0)


def test_an_interval_that_is_not_defined_without_one_of_the_days_is_none() -> None:
    day = np.repeat(np.arange(6), 10)
    label = (day == 2).astype(float)
    score = np.linspace(0.1, 0.9, 60)
    assert live_quality.by_days(label, score, day * 86_400_000_000, "auc") is None
    assert live_quality.by_days(label, score, day * 86_400_000_000, "base_rate") is not None


def test_a_certificate_of_no_probe_certifies_nothing(made: TrainingSet) -> None:
    from training.export.certificate import Certificate

    assert not Certificate(0, 0, 0, {}, 0.0, 0.5, 0, {}, 0, 0.0).passed
