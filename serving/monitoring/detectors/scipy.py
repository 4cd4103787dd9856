"""Drift and outlier detection by SciPy alone. It needs no licence, and is the one that tests and label drift rest on."""

from __future__ import annotations

import numpy as np
from scipy import stats

from serving.monitoring.detectors.base import DriftDetector, OutlierDetector
from serving.monitoring.hours import Matrix


class Drift(DriftDetector):
    """`scipy.stats.ks_2samp` per column, asymptotic p-values (conservative where values tie)."""

    def _compare(self, reference: Matrix, values: Matrix) -> tuple[float, float]:
        result = stats.ks_2samp(reference, values, method="asymp")
        return float(result.pvalue), float(result.statistic)


class Outliers(OutlierDetector):
    """Mahalanobis distance between normal scores (a Gaussian copula): odd values and odd combinations, whatever the columns' shapes.

    Each value becomes the normal quantile of its mid-rank among the learnt rows; beyond their range it goes on by its overshoot in
    standard deviations. Distances use the scores' covariance, shrunk to the identity by SHRINKAGE so that constant or duplicate
    columns do no harm.
    """

    SHRINKAGE = 0.05

    def _fit(self, rows: Matrix) -> None:
        self._sorted = np.sort(rows, axis=0)
        deviation = rows.std(axis=0)
        self._scale = np.where(deviation > 0, deviation, np.maximum(np.abs(self._sorted[0]), 1.0))
        scores = self._normal(rows)
        covariance = np.atleast_2d(np.cov(scores, rowvar=False))
        identity = np.eye(rows.shape[1])
        self._precision = np.linalg.inv((1 - self.SHRINKAGE) * covariance + self.SHRINKAGE * identity)

    def _normal(self, rows: Matrix) -> Matrix:
        n = len(self._sorted)
        scores = np.empty(rows.shape)
        for j in range(rows.shape[1]):
            column, value = self._sorted[:, j], rows[:, j]
            ranks = (np.searchsorted(column, value, "left") + np.searchsorted(column, value, "right")) / 2
            scores[:, j] = stats.norm.ppf(np.clip(ranks / n, 0.5 / n, 1 - 0.5 / n))
        overshoot = np.maximum(rows - self._sorted[-1], 0) - np.maximum(self._sorted[0] - rows, 0)
        return np.asarray(scores + np.clip(overshoot / self._scale, -1e6, 1e6), dtype=np.float64)

    def _score(self, rows: Matrix) -> Matrix:
        scores = self._normal(rows)
        return np.asarray(np.einsum("ij,jk,ik->i", scores, self._precision, scores, optimize=True), dtype=np.float64)
