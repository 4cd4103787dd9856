"""Log loss: how surprised a model is by the truth, in nats."""

from __future__ import annotations

import numpy as np

from feature_repo.metrics.base import NAN, Floats, MeanOfRows


class LogLoss(MeanOfRows):
    """A score of exactly 0 or 1 is taken as the nearest number that is neither."""

    name = "log_loss"
    title = "log loss"
    better = -1

    def value(self, label: Floats, score: Floats) -> float:
        from sklearn.metrics import log_loss

        return float(log_loss(label, score, labels=[0, 1])) if len(label) else NAN

    def of_rows(self, label: Floats, score: Floats) -> Floats:
        least = np.finfo(np.float64).eps
        sure = np.clip(score, least, 1 - least)
        return np.asarray(-np.where(label == 1, np.log(sure), np.log1p(-sure)))
