"""How good a model is: metrics with their intervals, by slice, the curves people look at, and what the scores are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.metrics.table import METRICS
from feature_repo.spec.model import ModelSpec
from training.data.splits import Part
from training.evaluation import fairness
from training.modeling.fit import THREADS, Fitted

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

Floats = NDArray[np.float64]
SMALLEST_SLICE = 200
"""Values of a slice column with fewer rows are pooled as `other`."""


def calibration(label: Floats, score: Floats, bins: int = 10) -> list[tuple[float, float, int]]:
    """Bins of equal mass: mean score, observed share of positives, rows."""
    order = np.argsort(score, kind="stable")
    parts = [p for p in np.array_split(order, bins) if len(p)]
    return [(float(score[p].mean()), float(label[p].mean()), len(p)) for p in parts]


def metrics_of(label: Floats, score: Floats) -> dict[str, float]:
    """Every metric (`feature_repo.metrics`) and the number of rows.

    Args:
        label: 0/1 `[n]`.
        score: probabilities `[n]`.

    Returns:
        By name; a metric that is undefined (one class only, no rows) is NaN.
    """
    return {name: metric.value(label, score) for name, metric in METRICS.items()} | {"rows": float(len(label))}


def intervals(label: Floats, score: Floats) -> dict[str, tuple[float, float]]:
    """95% confidence intervals of the metrics that have a formula for it; those that are undefined are left out."""
    found = {name: metric.interval(label, score) for name, metric in METRICS.items() if not metric.drawn}
    return {name: bounds for name, bounds in found.items() if np.isfinite(bounds).all()}


def groups(table: pa.Table, column: str) -> NDArray[Any]:
    """The slice of each row, as text `[n]`; values with fewer than `SMALLEST_SLICE` rows together as `other`."""
    values = np.array(["null" if v is None else str(v) for v in table[column].to_pylist()])
    names, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.where(counts < SMALLEST_SLICE, "other", names.astype(object))[inverse].astype(str)


def by_slice(table: pa.Table, column: str, label: Floats, score: Floats) -> dict[str, dict[str, float]]:
    """Metrics for each value of a column; rare values together as `other`."""
    group = groups(table, column)
    return {str(name): metrics_of(label[group == name], score[group == name]) for name in np.unique(group)}


def importance(booster: lightgbm.Booster, part: Part, names: list[str], rows: int = 2000) -> dict[str, float]:
    """Mean absolute SHAP value of each input over every k-th row, in log odds, largest first (LightGBM's own exact TreeSHAP)."""
    chosen = np.unique(np.linspace(0, len(part.label) - 1, min(rows, len(part.label))).astype(int))
    values = np.abs(np.asarray(booster.predict(part.matrix[chosen], pred_contrib=True, num_threads=THREADS)))[:, :-1].mean(axis=0)
    return {names[i]: float(values[i]) for i in np.argsort(-values, kind="stable")}


@dataclass(frozen=True)
class Measured:
    """
    Attributes:
        metrics: split -> metric -> value.
        intervals: split -> metric -> bounds of its 95% interval.
        slices: split -> slice column -> value -> metric -> value: `metrics`, `auc_low`, `auc_high`, and `training.evaluation.fairness.RATES`.
        fairness: split -> slice column -> disparity -> value.
        importance: as from `importance`, of held-out rows.
        held_out: the split that stands for new data: test, or valid where there is none.
    """

    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    slices: dict[str, dict[str, dict[str, dict[str, float]]]]
    fairness: dict[str, dict[str, dict[str, float]]]
    importance: dict[str, float]
    held_out: str


def measure(spec: ModelSpec, fitted: Fitted, scores: Mapping[str, Floats], names: list[str]) -> Measured:
    """Everything that is measured of a fitted model, by split; slices of those that were not trained on, and of those that gates ask for."""
    parts = fitted.parts
    slices: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    disparities: dict[str, dict[str, dict[str, float]]] = {}
    for name in sorted({"valid", "test"} & parts.keys() | {g.on for g in spec.gates if g.slice} & parts.keys()):
        part, score = parts[name], scores[name]
        slices[name], disparities[name] = {}, {}
        for column in spec.slices:
            group = groups(part.table, column)
            found = fairness.measure(part.label, score, group, spec.threshold, SMALLEST_SLICE)
            slices[name][column] = {
                value: metrics | {"auc_low": low, "auc_high": high} | found.rates[value]
                for value, metrics in by_slice(part.table, column, part.label, score).items()
                for low, high in [METRICS["auc"].interval(part.label[group == value], score[group == value])]
            }
            disparities[name][column] = found.disparities
    held_out = "test" if "test" in parts else "valid"
    return Measured(
        {name: metrics_of(part.label, scores[name]) for name, part in parts.items()},
        {name: intervals(part.label, scores[name]) for name, part in parts.items()},
        slices,
        disparities,
        importance(fitted.booster, parts[held_out], names),
        held_out,
    )


def curves(label: Floats, score: Floats, points: int = 200) -> dict[str, Any]:
    """`roc`: (false positive rate, true positive rate) of at most `points` thresholds; `calibration`: as from `calibration`."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(label, score)
    keep = np.unique(np.linspace(0, len(false) - 1, min(points, len(false))).astype(int))
    return {"roc": list(zip(false[keep].tolist(), true[keep].tolist(), strict=True)), "calibration": calibration(label, score)}
