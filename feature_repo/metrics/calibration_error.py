"""Expected calibration error: how far scores are off the share of positives that is seen."""

from __future__ import annotations

import numpy as np

from feature_repo.metrics.base import NAN, Floats, Metric, Weighted

BINS = 10
_DRAWS = 200


class CalibrationError(Metric):
    """The mean distance of the mean score from the share of positives, over ten bins of equally many rows.

    Its interval is from a bootstrap within the bins. It is of absolute values, so drawing adds to it.
    """

    name = "calibration_error"
    title = "calibration error"
    better = -1
    drawn = True

    def value(self, label: Floats, score: Floats) -> float:
        if not len(label):
            return NAN
        parts = np.array_split(np.argsort(score, kind="stable"), BINS)
        return float(sum(len(p) * abs(score[p].mean() - label[p].mean()) for p in parts if len(p)) / len(label))

    def interval(self, label: Floats, score: Floats) -> tuple[float, float]:
        if not len(label):
            return NAN, NAN
        parts = [p for p in np.array_split(np.argsort(score, kind="stable"), BINS) if len(p)]
        random = np.random.default_rng(0)
        total, error = 0, np.zeros(_DRAWS)
        for part in parts:
            chosen = part[random.integers(0, len(part), (_DRAWS, len(part)))]
            error += len(part) * np.abs(score[chosen].mean(axis=1) - label[chosen].mean(axis=1))
            total += len(part)
        low, high = np.quantile(error / total, [0.025, 0.975])
        return float(low), float(high)

    def weighted(self, label: Floats, score: Floats) -> Weighted:
        """The bins are those of the rows drawn; a bin's edge may fall among copies of one row."""
        order = np.argsort(score, kind="stable")
        gap = (score - label)[order]
        mass, gaps = np.zeros(len(gap) + 1), np.zeros(len(gap) + 1)

        def value(weights: Floats) -> float:
            weights = weights[order]
            np.cumsum(weights, out=mass[1:])
            np.cumsum(weights * gap, out=gaps[1:])
            size, larger = divmod(int(mass[-1]), BINS)
            edges = np.r_[0, np.cumsum([size + (b < larger) for b in range(BINS)])]  # as np.array_split cuts
            return float(np.abs(np.diff(np.interp(edges, mass, gaps))).sum() / mass[-1])

        return value
