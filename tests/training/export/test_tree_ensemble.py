"""The ONNX that is served scores what LightGBM scores, wherever floating point is nasty; what it cannot do is refused."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.export.tree_ensemble import ExportError, export, parity


def data(seed: int, rows: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 6))
    x[:, 1] = random.integers(0, 5, rows)  # few values: splits fall between them
    x[:, 2] = 1.6e9 + random.integers(0, 100_000, rows)  # float32 cannot tell neighbours apart
    x[:, 3] *= 1e-30
    x[random.random(rows) < 0.2, 4] = np.nan
    x[random.random(rows) < 0.1, 5] = 0.0
    margin = np.where(np.isnan(x[:, 4]), 1.0, x[:, 4]) + (x[:, 2] - 1.6e9) / 50_000 - 1 + x[:, 1] / 3
    return x, (margin + random.normal(size=rows) > 0.8).astype(float)


def fitted(seed: int = 1, **parameters: object) -> tuple[lightgbm.Booster, np.ndarray]:
    x, y = data(seed)
    chosen = {"objective": "binary", "verbosity": -1, "num_leaves": 15, "min_data_in_leaf": 5, "num_threads": 1, **parameters}
    categories = chosen.pop("categorical_feature", "auto")
    return lightgbm.train(chosen, lightgbm.Dataset(x, y, categorical_feature=categories), 25), x


def thresholds(booster: lightgbm.Booster, feature: int) -> list[float]:
    found: list[float] = []

    def walk(node: dict) -> None:
        if "split_feature" in node:
            if node["split_feature"] == feature:
                found.append(node["threshold"])
            walk(node["left_child"])
            walk(node["right_child"])

    for tree in booster.dump_model()["tree_info"]:
        walk(tree["tree_structure"])
    return sorted(set(found))


@given(
    st.integers(0, 10_000),
    st.sampled_from([{}, {"use_missing": False}, {"boosting": "dart"}, {"num_leaves": 2}, {"min_data_in_leaf": 2000}]),
)
@settings(max_examples=12)
def test_scores_are_lightgbms(seed: int, parameters: dict) -> None:
    booster, x = fitted(seed, **parameters)
    nasty = np.array([[v] * 6 for v in (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e308, -1e308, 5e-324, 1e-35)])
    assert parity(booster, export(booster), np.concatenate([x, nasty])).max_abs_difference <= 1e-9


def test_values_on_and_next_to_every_threshold_go_the_same_way() -> None:
    booster, x = fitted()
    rows = []
    for feature in range(6):
        for threshold in thresholds(booster, feature):
            for value in (threshold, np.nextafter(threshold, np.inf), np.nextafter(threshold, -np.inf)):
                row = x[0].copy()
                row[feature] = value
                rows.append(row)
    assert len(rows) > 300
    assert parity(booster, export(booster), np.array(rows)).max_abs_difference <= 1e-9


def test_regression_scores_are_raw() -> None:
    booster, x = fitted(objective="regression")
    assert parity(booster, export(booster), x).max_abs_difference <= 1e-9


def test_the_same_model_gives_the_same_bytes() -> None:
    assert export(fitted()[0]) == export(fitted()[0])


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"zero_as_missing": True}, "zero"),
        ({"linear_tree": True}, "linear"),
        ({"sigmoid": 2.0}, "sigmoid"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "forest"),
        ({"categorical_feature": [1]}, "category"),
        ({"objective": "poisson"}, "poisson"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(parameters: dict, word: str) -> None:
    booster, _ = fitted(**parameters)
    with pytest.raises(ExportError, match=word):
        export(booster)


def test_a_multiclass_model_is_refused() -> None:
    x, y = data(2)
    booster = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbosity": -1}, lightgbm.Dataset(x, y + (x[:, 1] > 3)), 3)
    with pytest.raises(ExportError, match="multiclass"):
        export(booster)
