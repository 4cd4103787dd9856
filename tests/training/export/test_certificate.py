"""An export that scores what LightGBM scores is accepted; one that is wrong anywhere is refused, and the message says where."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import lightgbm
import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from training.export import certificate, probes
from training.export.certificate import Certificate, CertificateError, certify
from training.export.tree_ensemble import export

NEGATIVE_ZERO = -probes.ZERO


def data(rows: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    x = random.normal(size=(rows, 7))
    x[:, 1] = random.integers(0, 5, rows)
    x[:, 2] = 1.6e9 + random.integers(0, 100_000, rows)  # float32 cannot tell neighbours apart
    x[random.random(rows) < 0.3, 3] = 0.0  # a split at -1e-35: negative or not
    x[random.random(rows) < 0.2, 4] = np.nan
    x[random.random(rows) < 0.5, 5] = np.nan  # a split at infinity: null or not
    x[:, 6] = random.integers(0, 9, rows)
    margin = np.where(np.isnan(x[:, 4]), 1.0, x[:, 4]) + (x[:, 2] - 1.6e9) / 50_000 - 1 + x[:, 1] / 3
    margin += 2.0 * np.isnan(x[:, 5]) + 2.0 * (x[:, 3] < 0) + np.isin(x[:, 6], [2, 3, 7])
    return x, (margin + random.normal(size=rows) > 2.5).astype(float)


@cache
def fitted(**parameters: Any) -> tuple[lightgbm.Booster, np.ndarray]:
    """Half of the rows train, the other half is held out."""
    x, y = data()
    chosen = {"objective": "binary", "verbosity": -1, "num_leaves": 15, "min_data_in_leaf": 5, "num_threads": 1, **parameters}
    categories = chosen.pop("categorical", "auto")
    train = lightgbm.Dataset(x[:1500], y[:1500], categorical_feature=[categories] if categories != "auto" else "auto")
    return lightgbm.train(chosen, train, 25), x[1500:]


def edited(model: bytes, name: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The model with one attribute of its ensemble changed."""
    made = onnx.load_model_from_string(model)
    ensemble = made.graph.node[-3 if made.graph.node[-1].op_type == "Sigmoid" else -2]
    attribute = next(a for a in ensemble.attribute if a.name == name)
    if attribute.type == onnx.AttributeProto.TENSOR:
        old = numpy_helper.to_array(attribute.t)
        attribute.t.CopyFrom(numpy_helper.from_array(np.asarray(change(old.copy()), dtype=old.dtype)))
    else:
        new = [int(v) for v in change(np.array(attribute.ints))]
        del attribute.ints[:]
        attribute.ints.extend(new)
    return bytes(made.SerializeToString())


def as_lightgbm_splits(splits: np.ndarray) -> np.ndarray:
    """A dump prints an infinite threshold as 1e300, and says nothing of values that are taken for 0 before they meet one."""
    splits[splits >= 1e300] = np.inf
    splits[splits == NEGATIVE_ZERO] = np.nextafter(NEGATIVE_ZERO, -np.inf)
    return splits


def right(booster: lightgbm.Booster) -> bytes:
    return edited(export(booster), "nodes_splits", as_lightgbm_splits)


def refused(found: Certificate) -> str:
    assert not found.passed
    with pytest.raises(CertificateError) as error:
        found.require()
    return str(error.value)


@pytest.mark.parametrize("objective", ["binary", "regression"])
def test_a_right_export_passes_on_every_kind_of_probe(objective: str) -> None:
    booster, rows = fitted(objective=objective)
    told: list[tuple[int, int]] = []
    found = certify(booster, right(booster), rows, progress=lambda *now: told.append(now))
    found.require()
    assert found.passed
    assert set(found.probes) == {"hold_out", "thresholds", "float32", "nulls", "zeros", "extremes", "numbers", "single_row"}
    assert found.max_abs_difference < 1e-12
    assert found.flips == 0
    assert found.splits == found.splits_probed == 25 * 14
    assert found.probes["hold_out"].rows == found.rows == len(rows)
    assert found.probes["thresholds"].rows == 3 * found.splits
    assert told[-1][0] == told[-1][1] == sum(p.rows for k, p in found.probes.items() if k != "single_row")
    assert 0 < found.latency_us["p50"] <= found.latency_us["p99"] < 1e6
    assert msgspec.json.decode(msgspec.json.encode(found), type=Certificate) == found


def leaf(by: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(weights: np.ndarray) -> np.ndarray:
        weights[17] += by
        return weights

    return change


WRONG: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str]] = {
    "thresholds narrowed to float32": ("nodes_splits", lambda s: s.astype(np.float32).astype(np.float64), "thresholds"),
    "less instead of at most": ("nodes_modes", lambda m: np.full_like(m, 1), "thresholds"),
    "null the other way": ("nodes_missing_value_tracks_true", lambda m: 1 - m, "nulls"),
    "null left everywhere": ("nodes_missing_value_tracks_true", lambda m: np.ones_like(m), "nulls"),
    "a leaf changed by 1e-6": ("leaf_weights", leaf(1e-6), "thresholds"),
    "a leaf that is no number": ("leaf_weights", leaf(np.nan), "thresholds"),
    "infinity as the dump prints it": ("nodes_splits", lambda s: np.where(np.isinf(s), 1e300, s), "extremes"),
    "the threshold below zero as the dump prints it": (
        "nodes_splits",
        lambda s: np.where(s == np.nextafter(NEGATIVE_ZERO, -np.inf), NEGATIVE_ZERO, s),
        "zeros",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_wrong_export_fails_by_name(what: str) -> None:
    name, change, kind = WRONG[what]
    booster, rows = fitted()
    found = certify(booster, edited(right(booster), name, change), rows)
    assert kind in found.failed, found.failed.keys()
    assert f"{kind} (" in refused(found)
    assert (what == "a leaf that is no number") == any(p.nan_mismatches for p in found.probes.values())


def test_rows_held_out_do_not_see_what_probes_see() -> None:
    booster, rows = fitted()
    for what in ("less instead of at most", "infinity as the dump prints it"):
        name, change, kind = WRONG[what]
        found = certify(booster, edited(right(booster), name, change), rows)
        assert found.probes["hold_out"].passed
        assert not found.probes[kind].passed


def test_every_way_of_every_split_is_taken() -> None:
    booster, rows = fitted()
    splits = probes.splits(booster)
    leaves = np.concatenate([booster.predict(b.matrix, pred_leaf=True) for b in probes.at_splits(splits, rows[:3])])
    assert [len(np.unique(tree)) for tree in leaves.T] == [15] * 25


def test_any_leaf_and_any_threshold_moved_is_seen() -> None:
    booster, rows = fitted()
    made = right(booster)
    random = np.random.default_rng(1)
    for _ in range(6):

        def leaf_moved(weights: np.ndarray) -> np.ndarray:
            weights[random.integers(len(weights))] += 1e-6
            return weights

        def up(splits: np.ndarray) -> np.ndarray:
            i = random.choice(np.flatnonzero(np.abs(splits) < 1e300))
            splits[i] = np.nextafter(splits[i], np.inf)
            return splits

        assert not certify(booster, edited(made, "leaf_weights", leaf_moved), rows[:50]).passed
        assert not certify(booster, edited(made, "nodes_splits", up), rows[:50]).probes["thresholds"].passed


def test_the_message_names_input_value_and_both_scores() -> None:
    booster, rows = fitted()
    found = certify(booster, edited(right(booster), "nodes_modes", lambda m: np.full_like(m, 1)), rows)
    worst = found.probes["thresholds"]
    assert worst.feature.startswith("input 'Column_")
    assert float(worst.value) in as_lightgbm_splits(np.array([s.threshold for s in probes.splits(booster)]))
    message = refused(found)
    assert f"{worst.feature} = {worst.value}, where LightGBM says {worst.lightgbm} and ONNX {worst.onnx}" in message
    assert f"{worst.flips} decisions flip at 0.5" in message


def test_a_decision_that_flips_within_the_tolerance_is_refused() -> None:
    booster, rows = fitted()
    moved = edited(right(booster), "leaf_weights", lambda w: w - 1e-13)
    between = certify(booster, moved, rows)
    assert between.passed
    on_a_score = certify(booster, moved, rows, threshold=float(booster.predict(rows)[0]))
    assert on_a_score.max_abs_difference < 1e-9
    assert on_a_score.flips > 0
    assert "decisions flip" in refused(on_a_score)


def test_a_model_of_very_many_splits_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "SPLITS", 100)
    booster, rows = fitted()
    found = certify(booster, right(booster), rows)
    assert (found.splits, found.splits_probed) == (350, 100)
    assert found.probes["thresholds"].rows == 300


def test_trees_of_one_leaf_and_one_row_are_enough() -> None:
    booster, rows = fitted(min_data_in_leaf=1400)
    found = certify(booster, export(booster), rows[:1])
    assert found.passed
    assert found.splits == 0


class Numbered:
    """A booster whose dump says `value in {c, ...}` with comparisons: trunc(v) == c exactly where c - 1 < v < c + 1, and v >= c unless c is 0."""

    def __init__(self, booster: lightgbm.Booster, truncate: bool) -> None:
        self._booster, self._truncate = booster, truncate
        self.best_iteration = 0
        self.model_to_string, self.num_feature = booster.model_to_string, booster.num_feature

    def dump_model(self, **_: Any) -> dict[str, Any]:
        dump = self._booster.dump_model()
        for tree in dump["tree_info"]:
            tree["tree_structure"] = self._numbered(tree["tree_structure"])
        return dump

    def _numbered(self, spec: dict[str, Any]) -> dict[str, Any]:
        if "split_feature" not in spec:
            return spec
        left, right = (self._numbered(spec[side]) for side in ("left_child", "right_child"))
        if spec["decision_type"] == "<=":
            return {**spec, "left_child": left, "right_child": right}
        chain = right
        for c in sorted(map(int, spec["threshold"].split("||")), reverse=True):
            first, last = (c if c else -1, c + 1) if self._truncate else (c - 0.5, c + 0.5)

            def node(threshold: float, left: dict[str, Any], right: dict[str, Any], null_left: bool) -> dict[str, Any]:
                children = {"left_child": left, "right_child": right}
                how = {"decision_type": "<=", "missing_type": "NaN", "default_left": null_left}
                return {"split_feature": spec["split_feature"], "threshold": threshold, **how, **children}

            below = np.nextafter(first, -np.inf) if first >= 0 else first
            # null goes right twice, and from the end of the chain to where LightGBM puts it
            chain = node(float(np.nextafter(last, -np.inf)), node(float(below), right, left, False), chain, False)
        return chain


def test_a_booster_with_categories_is_certified_against_an_export_from_elsewhere() -> None:
    booster, rows = fitted(categorical=6, max_cat_to_onehot=1, cat_smooth=1, min_data_per_group=5)
    exact = edited(export(Numbered(booster, truncate=True)), "nodes_splits", as_lightgbm_splits)  # type: ignore[arg-type]
    found = certify(booster, exact, rows)
    found.require()
    assert found.probes["categories"].rows > 100
    rounding = edited(export(Numbered(booster, truncate=False)), "nodes_splits", as_lightgbm_splits)  # type: ignore[arg-type]
    wrong = certify(booster, rounding, rows)
    assert wrong.probes["hold_out"].passed
    assert not wrong.probes["categories"].passed
    assert "categories (" in refused(wrong)


def test_an_export_that_serving_could_not_run_is_refused_before_anything_is_scored() -> None:
    booster, rows = fitted()
    made = onnx.load_model_from_string(right(booster))
    narrow = onnx.ModelProto()
    narrow.CopyFrom(made)
    narrow.graph.node.insert(0, helper.make_node("Cast", ["single"], ["inputs"], to=onnx.TensorProto.DOUBLE))
    narrow.graph.input[0].CopyFrom(helper.make_tensor_value_info("single", onnx.TensorProto.FLOAT, [None, 7]))
    renamed = onnx.ModelProto()
    renamed.CopyFrom(made)
    renamed.graph.output[0].name = renamed.graph.node[-1].output[0] = "probability"
    for model, word in ((b"no model", "cannot load"), (narrow.SerializeToString(), "tensor"), (renamed.SerializeToString(), "no output")):
        with pytest.raises(CertificateError, match=word):
            certify(booster, model, rows)
    with pytest.raises(CertificateError, match=r"\[n, 7\]"):
        certify(booster, made.SerializeToString(), rows[:, :6])
    with pytest.raises(CertificateError, match="held out"):
        certify(booster, made.SerializeToString(), rows[:0])
