"""How good a model is: metrics overall and by slice, and the curves people look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
SMALLEST_SLICE = 200
"""Values of a slice column with fewer rows are pooled as `other`."""


def calibration(label: Floats, score: Floats, bins: int = 10) -> list[tuple[float, float, int]]:
    """Bins of equal mass: mean score, observed share of positives, rows."""
    order = np.argsort(score, kind="stable")
    parts = [p for p in np.array_split(order, bins) if len(p)]
    return [(float(score[p].mean()), float(label[p].mean()), len(p)) for p in parts]


def metrics(label: Floats, score: Floats) -> dict[str, float]:
    """AUC, log loss, Brier score, expected calibration error (10 bins of equal mass), base rate and rows.

    Args:
        label: 0/1 `[n]`.
        score: probabilities `[n]`.

    Returns:
        By name; a metric that is undefined (one class only) is NaN.
    """
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    both = len(np.unique(label)) == 2
    error = sum(n * abs(predicted - observed) for predicted, observed, n in calibration(label, score)) / max(len(label), 1)
    return {
        "auc": float(roc_auc_score(label, score)) if both else float("nan"),
        "log_loss": float(log_loss(label, score, labels=[0, 1])) if len(label) else float("nan"),
        "brier": float(brier_score_loss(label, score, pos_label=1)) if both else float("nan"),
        "calibration_error": float(error),
        "base_rate": float(label.mean()) if len(label) else float("nan"),
        "rows": float(len(label)),
    }


def by_slice(table: pa.Table, column: str, label: Floats, score: Floats) -> dict[str, dict[str, float]]:
    """Metrics for each value of a column; rare values together as `other`."""
    values = np.array(["null" if v is None else str(v) for v in table[column].to_pylist()])
    names, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rare = counts < SMALLEST_SLICE
    found = {str(names[i]): metrics(label[inverse == i], score[inverse == i]) for i in np.flatnonzero(~rare)}
    if rare.any():
        pooled = rare[inverse]
        found["other"] = metrics(label[pooled], score[pooled])
    return found


def curves(label: Floats, score: Floats, points: int = 200) -> dict[str, Any]:
    """`roc`: (false positive rate, true positive rate) of at most `points` thresholds; `calibration`: as from `calibration`."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(label, score)
    keep = np.unique(np.linspace(0, len(false) - 1, min(points, len(false))).astype(int))
    return {"roc": list(zip(false[keep].tolist(), true[keep].tolist(), strict=True)), "calibration": calibration(label, score)}
