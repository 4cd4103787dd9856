"""Drift and outlier detection: one interface, what counts as drift decided once, and an implementation on SciPy alone.

What is computed, per column (each model input, and the score: prediction drift is the same test on the score):

1. values: a two-sample Kolmogorov–Smirnov test of the window's non-null values against the reference's -> p, statistic D in [0, 1];
2. nulls: a two-proportion z-test of the null rates -> p, |difference| in [0, 1];
3. the 2·F p-values are adjusted together (Holm 1979: the family-wise error rate of one window is at most ALPHA);
4. drift is called where significance *and* size agree: adjusted p < ALPHA and D >= EFFECT (values), or adjusted p < ALPHA and
   |difference| >= NULL_EFFECT (nulls). D is the largest gap between the two distribution functions; .15 means that 15 % of the
   window's rows lie where the reference has none to match. A large window makes any tiny shift significant; it does not make it matter.

Seasonality: the window should cover what the reference covers. A reference of months against a window of one morning "drifts" every
morning, in the hour of day and in everything that follows it. Make the window span whole cycles (a day, better a week, of traffic).
Successive predictions also share their hour's circumstances, so live p-values are more confident than they should be; it is the
effect size that keeps such windows quiet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from serving.verdict import FeatureVerdict, Kind, OutlierVerdict

Matrix = NDArray[np.float64]

ALPHA = 0.01
"""Family-wise error rate of one window."""
EFFECT = 0.15
"""Smallest Kolmogorov–Smirnov statistic that counts as drift."""
NULL_EFFECT = 0.05
"""Smallest change of a null rate (absolute) that counts as drift."""
MINIMUM = 20
"""Fewest non-null values on either side for the values to be tested at all."""
NOMINAL = 0.01
"""Share of reference rows scored as outliers."""
MATERIAL = 3.0
"""How many times the nominal share a window must hold before it alarms."""


def holm(p_values: Matrix) -> Matrix:
    """Holm's step-down adjustment: reject where adjusted p < alpha keeps the family-wise error rate at alpha.

    Args:
        p_values: float64 [k], 0..1.

    Returns:
        Adjusted p-values, float64 [k], in the order given. Source: Holm (1979), Scand. J. Statist. 6, 65–70.
    """
    k = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(k, 0, -1))
    adjusted = np.empty(k)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def null_p_values(nulls: Matrix, rows: int, reference_nulls: Matrix, reference_rows: int) -> Matrix:
    """Two-sided two-proportion z-test (pooled) of null rates.

    Args:
        nulls, reference_nulls: counts per column, float64 [F].
        rows, reference_rows: rows on either side.

    Returns:
        p-values, float64 [F]; 1 where neither side has, or both have nothing but, nulls.
    """
    pooled = (nulls + reference_nulls) / (rows + reference_rows)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / rows + 1 / reference_rows))
    gap = np.abs(nulls / rows - reference_nulls / reference_rows)
    z = np.divide(gap, deviation, out=np.zeros_like(gap), where=deviation > 0)
    return np.asarray(2 * stats.norm.sf(z), dtype=np.float64)


def _matrix(values: Matrix, columns: int | None = None) -> Matrix:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) == 0:
        raise ValueError(f"expected a matrix [rows, columns] with at least one row, got shape {matrix.shape}")
    if columns is not None and matrix.shape[1] != columns:
        raise ValueError(f"the window has {matrix.shape[1]} columns, the reference {columns}")
    return matrix


class DriftDetector(ABC):
    """Compares a window with a reference, column by column. Subclasses bring the test on the values; the decision is made here."""

    names: list[str]

    def fit(self, reference: Matrix, names: Sequence[str]) -> DriftDetector:
        """Take the reference.

        Args:
            reference: float64 [n, F]; NaN is null.
            names: the F columns' names.

        Raises:
            ValueError: no rows, or not one name per column.
        """
        reference = _matrix(reference)
        if reference.shape[1] != len(names):
            raise ValueError(f"the reference has {reference.shape[1]} columns for {len(names)} names")
        self.names = list(names)
        nulls = np.isnan(reference)
        self._rows = len(reference)
        self._nulls = nulls.sum(axis=0).astype(np.float64)
        self._fit([reference[~nulls[:, j], j] for j in range(len(names))])
        return self

    def test(self, window: Matrix) -> list[FeatureVerdict]:
        """One verdict per column, in the reference's order.

        Args:
            window: float64 [m, F]; NaN is null.

        Raises:
            ValueError: no rows, or other columns than the reference has.
        """
        window = _matrix(window, len(self.names))
        count, rows = len(self.names), len(window)
        nulls = np.isnan(window)
        p_values, effects = np.ones(count), np.zeros(count)
        for j in range(count):
            values = window[~nulls[:, j], j]
            if len(values) >= MINIMUM and self._rows - self._nulls[j] >= MINIMUM:
                p_values[j], effects[j] = self._compare(j, values)
        missing = nulls.sum(axis=0).astype(np.float64)
        adjusted = holm(np.concatenate([p_values, null_p_values(missing, rows, self._nulls, self._rows)]))
        rates, reference_rates = missing / rows, self._nulls / self._rows
        moved = (adjusted[:count] < ALPHA) & (effects >= EFFECT)
        emptied = (adjusted[count:] < ALPHA) & (np.abs(rates - reference_rates) >= NULL_EFFECT)
        return [
            FeatureVerdict(
                name=name,
                p_value=float(min(adjusted[j], adjusted[count + j])),
                effect=float(effects[j]),
                null_rate=float(rates[j]),
                reference_null_rate=float(reference_rates[j]),
                drift=bool(moved[j] or emptied[j]),
                cause="values and nulls" if moved[j] and emptied[j] else "values" if moved[j] else "nulls" if emptied[j] else "",
            )
            for j, name in enumerate(self.names)
        ]

    @abstractmethod
    def _fit(self, columns: list[Matrix]) -> None:
        """Keep the reference's non-null values, one float64 [n_j] per column."""

    @abstractmethod
    def _compare(self, column: int, values: Matrix) -> tuple[float, float]:
        """p-value and Kolmogorov–Smirnov statistic of the window's non-null values, float64 [m_j], m_j >= MINIMUM."""


class OutlierDetector(ABC):
    """Scores rows by how unlike the reference they are. Subclasses bring the score; threshold and alarm are decided here.

    The reference is halved (at random, seed fixed): one half is learnt from, the other sets the threshold, so that the nominal share
    holds for new rows and not only for those learnt. With the threshold at the k-th largest of c held-out scores, the number of new
    rows above it, out of m, is Beta-Binomial(m, k, c + 1 − k) whatever the score's distribution: that is the test (no approximation;
    it accounts for the threshold itself being an estimate). Nulls take the reference's median: they are the drift detector's business.
    """

    def fit(self, reference: Matrix) -> OutlierDetector:
        """Learn what is usual.

        Args:
            reference: float64 [n, F]; NaN is null.

        Raises:
            ValueError: fewer than 4 rows.
        """
        reference = _matrix(reference)
        if len(reference) < 4:
            raise ValueError(f"{len(reference)} reference rows are too few to score outliers against")
        known = ~np.isnan(reference)
        self._fill = np.array([np.median(column[ok]) if ok.any() else 0.0 for column, ok in zip(reference.T, known.T, strict=True)])
        order = np.random.default_rng(0).permutation(len(reference))
        learnt, held = reference[order[::2]], reference[order[1::2]]
        self._fit(self._filled(learnt))
        scores = np.sort(self._score(self._filled(held)))
        self._held = len(held)
        self._rank = max(1, round(NOMINAL * (self._held + 1)))
        self._threshold = float(scores[-self._rank])
        return self

    @property
    def nominal(self) -> float:
        """Share of new rows expected above the threshold without drift."""
        return self._rank / (self._held + 1)

    def share(self, window: Matrix) -> float:
        """Share of rows beyond the reference's 99th percentile, 0..1. `window`: float64 [m, F]; ValueError as in `test`."""
        window = _matrix(window, len(self._fill))
        return float(np.mean(self._score(self._filled(window)) > self._threshold))

    def test(self, window: Matrix) -> OutlierVerdict:
        """Whether the window holds significantly (p < ALPHA) and materially (MATERIAL × nominal) more outliers than it should.

        Args:
            window: float64 [m, F]; NaN is null.

        Raises:
            ValueError: no rows, or other columns than the reference has.
        """
        share, rows = self.share(window), len(window)
        beyond = round(share * rows)
        p_value = float(np.clip(stats.betabinom.sf(beyond - 1, rows, self._rank, self._held + 1 - self._rank), 0, 1))
        alarm = p_value < ALPHA and share >= MATERIAL * self.nominal
        return OutlierVerdict(share=share, nominal=self.nominal, p_value=p_value, alarm=alarm)

    def _filled(self, rows: Matrix) -> Matrix:
        return np.clip(np.where(np.isnan(rows), self._fill, rows), -1e30, 1e30)

    @abstractmethod
    def _fit(self, rows: Matrix) -> None:
        """Learn from float64 [n, F] without nulls or infinities."""

    @abstractmethod
    def _score(self, rows: Matrix) -> Matrix:
        """Outlier score per row, float64 [m]: larger is stranger."""


class SciPyDrift(DriftDetector):
    """`scipy.stats.ks_2samp` per column, asymptotic p-values (conservative where values tie)."""

    def _fit(self, columns: list[Matrix]) -> None:
        self._reference = columns

    def _compare(self, column: int, values: Matrix) -> tuple[float, float]:
        result = stats.ks_2samp(self._reference[column], values, method="asymp")
        return float(result.pvalue), float(result.statistic)


class SciPyOutliers(OutlierDetector):
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


def detectors(kind: Kind) -> tuple[DriftDetector, OutlierDetector]:
    """New, unfitted detectors of the chosen implementation. Alibi Detect (Business Source Licence) is imported only when it is chosen."""
    if kind == "alibi":
        from serving.alibi_detector import AlibiDrift, AlibiOutliers

        return AlibiDrift(), AlibiOutliers()
    return SciPyDrift(), SciPyOutliers()
