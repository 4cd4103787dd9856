"""Scores as probabilities: an affine map of the log odds, put into the trees themselves.

A model fitted on weighted positives overstates the odds by their weight, and a boosted model may be over- or underconfident; both are put
right by `log odds -> slope * log odds + intercept`. Every leaf is multiplied by the slope and the first tree's leaves are moved by the
intercept, so LightGBM, its text file, the ONNX file and every explanation give the calibrated score by the same sum of leaves. Isotonic
regression is not offered: its steps are jumps in the score, where two sums that differ in the last bit give two different probabilities.

Platt, "Probabilistic outputs for support vector machines" (1999), with the targets and the start he gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import lightgbm

Floats = NDArray[np.float64]


class CalibrationError(ValueError):
    """The scores cannot be calibrated: they do not rise with the label."""


def sigmoid(raw: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -raw)))


def log_odds(score: Floats) -> Floats:
    """The inverse of `sigmoid`, for scores strictly between 0 and 1."""
    return np.asarray(np.log(score) - np.log1p(-score))


def platt(label: Floats, raw: Floats, steps: int = 100) -> tuple[float, float]:
    """Slope and intercept under which `sigmoid(slope * raw + intercept)` is most likely, by Newton's method.

    Args:
        label: 0/1 `[n]`.
        raw: log odds `[n]`.

    Raises:
        CalibrationError: the slope would not be positive, which would turn the ranking round.
    """
    positives = float(label.sum())
    negatives = len(label) - positives
    target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = np.column_stack([raw, np.ones(len(raw))])
    found = np.array([0.0, math.log((positives + 1) / (negatives + 1))])

    def loss(at: Floats) -> float:
        z = x @ at
        return float(np.sum(np.logaddexp(0.0, z) - target * z))

    for _ in range(steps):
        p = sigmoid(x @ found)
        gradient = x.T @ (p - target)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        step, before = np.linalg.solve(hessian, gradient), loss(found)
        scale = 1.0
        while loss(found - scale * step) > before and scale > 1e-10:
            scale /= 2
        found = found - scale * step
        if float(np.abs(scale * step).max()) < 1e-12:
            break
    slope, intercept = float(found[0]), float(found[1])
    if slope <= 0:
        raise CalibrationError(f"the scores do not rise with the label on valid (slope {slope:.3g}): there is nothing to calibrate")
    return slope, intercept


def rescale(booster: lightgbm.Booster, slope: float, intercept: float) -> None:
    """Make the booster's log odds `slope * log odds + intercept`, in place."""
    for index, tree in enumerate(booster.dump_model()["tree_info"]):
        for leaf in range(tree["num_leaves"]):
            value = slope * booster.get_leaf_output(index, leaf)
            booster.set_leaf_output(index, leaf, value + intercept if index == 0 else value)
