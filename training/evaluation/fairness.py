"""How a model's yes and no fall on the values of a slice column: rates by value, and the disparities between them (Fairlearn)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")
DISPARITIES = ("demographic_parity_difference", "equal_opportunity_difference", "equalized_odds_difference")


@dataclass(frozen=True)
class Fairness:
    """
    Attributes:
        rates: value -> rate -> 0 to 1; a rate that is undefined (no positives in that value) is NaN.
        disparities: largest less smallest rate between values: of selection rates (demographic parity), of true positive rates (equal
            opportunity), and the larger of that and of false positive rates (equalized odds). NaN where a rate is not known of a value, or
            of fewer than two; of values that are too small, a rate that is undefined is left out.
    """

    rates: dict[str, dict[str, float]]
    disparities: dict[str, float]


def measure(label: Floats, score: Floats, group: NDArray[Any], threshold: float, smallest: int = 0) -> Fairness:
    """Rates and disparities of the decision `score >= threshold`.

    Args:
        label: 0/1 `[n]`.
        score: probabilities `[n]`.
        group: value of the slice column `[n]` (`training.evaluation.metrics.groups`).
        smallest: values with fewer rows are too small to be asked for every rate.
    """
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    def rate(of: Any, needs: float) -> Any:
        return lambda y_true, y_pred: of(y_true, y_pred) if (y_true == needs).any() else float("nan")

    metrics = {
        "selection_rate": selection_rate,
        "true_positive_rate": rate(true_positive_rate, 1),
        "false_positive_rate": rate(false_positive_rate, 0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of groups with one class, whose rates are NaN above
        frame = MetricFrame(
            metrics=metrics, y_true=label.astype(int), y_pred=(score >= threshold).astype(int), sensitive_features=np.asarray(group)
        )
    rates = {name: frame.by_group[name].astype(float) for name in RATES}
    small = {value for value, rows in zip(*np.unique(group, return_counts=True), strict=True) if rows < smallest}
    between = {name: _between(found[found.notna() | ~found.index.isin(small)].to_numpy()) for name, found in rates.items()}
    disparities = {
        "demographic_parity_difference": between["selection_rate"],
        "equal_opportunity_difference": between["true_positive_rate"],
        "equalized_odds_difference": float(np.maximum(between["true_positive_rate"], between["false_positive_rate"])),
    }
    by_value = {str(value): {name: float(found[value]) for name, found in rates.items()} for value in frame.by_group.index}
    return Fairness(by_value, disparities)


def _between(rates: Floats) -> float:
    """Largest less smallest; NaN where one is, or where there are no two to compare."""
    return float(rates.max() - rates.min()) if len(rates) > 1 else float("nan")
