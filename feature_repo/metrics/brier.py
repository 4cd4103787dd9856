"""Brier score: the mean squared distance of the score from the truth."""

from __future__ import annotations

import numpy as np

from feature_repo.metrics.base import NAN, Floats, MeanOfRows


class Brier(MeanOfRows):
    """Not defined where the labels are of one class."""

    name = "brier"
    title = "Brier score"
    better = -1

    def value(self, label: Floats, score: Floats) -> float:
        from sklearn.metrics import brier_score_loss

        both = len(np.unique(label)) == 2
        return float(brier_score_loss(label, score, pos_label=1)) if both else NAN

    def of_rows(self, label: Floats, score: Floats) -> Floats:
        return np.asarray((score - label) ** 2)
