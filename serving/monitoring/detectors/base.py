"""Drift and outlier detection: one interface, and what counts as drift decided once.

What is computed, per column (each model input, and the score: prediction drift is the same test on the score), against the reference
in the window's mix of weekdays and hours, is one effect for each kind of drift (`serving.monitoring.kinds`).

Drift is called where significance *and* size agree: a family-wise p-value of at most NOMINAL_RATE from windows of the reference itself
(`serving.monitoring.null_distribution`), and an effect of at least the kind's own `matters`. D is the largest gap between the two distribution functions;
.15 means that 15 % of the window's rows lie where the reference has none to match.

A reference without moments cannot say how days differ. Then values and nulls alone are tested, as if rows were independent: Kolmogorov–Smirnov
and a two-proportion z-test, the 2·F p-values adjusted together (Holm 1979), drift where adjusted p < ALPHA and the effect matters.
Successive live predictions share their hour's circumstances, so that such verdicts are too confident.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from feature_repo.records.verdict import Calibrated, FeatureVerdict, OutlierVerdict
from infra.statistics import holm
from serving.monitoring.hours import Matrix, Moments, cells, matched, weights
from serving.monitoring.kinds.base import Shares, Window
from serving.monitoring.kinds.table import KINDS, MATTERS, TABLE
from serving.monitoring.null_distribution import Calibration, Null
from serving.monitoring.trend import Trend

NOMINAL_RATE = 0.05
"""The share of windows without drift that may be called drift, over all columns together."""
ALPHA = 0.01
"""The outlier alarm's error rate per window; also the drift alarm's where the reference has no moments."""
MINIMUM = 20
"""Fewest non-null values on either side for the values to be tested at all."""
NOMINAL = 0.01
"""Share of reference rows scored as outliers."""
MATERIAL = 3.0
"""How many times the nominal share a window must hold before it alarms."""


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
    calibration: Calibration | None
    trend: Trend | None

    def fit(
        self,
        reference: Matrix,
        names: Sequence[str],
        moments: Moments | None = None,
        categories: NDArray[np.bool_] | None = None,
        matters: Matrix = MATTERS,
        views: Sequence[str] = (),
    ) -> DriftDetector:
        """Take the reference.

        Args:
            reference: float64 [n, F]; NaN is null.
            names: the F columns' names.
            moments: int64 [n], microseconds since the epoch, ascending: what calibration needs.
            categories: columns whose values are codes, bool [F]; default: none.
            matters: the smallest effect of each kind that counts as drift, float64 [K].
            views: where each column comes from; "" for one that has no part in relations (the score). Default: none has.

        Raises:
            ValueError: no rows, not one name per column, or moments that do not ascend.
        """
        reference = _matrix(reference)
        if reference.shape[1] != len(names):
            raise ValueError(f"the reference has {reference.shape[1]} columns for {len(names)} names")
        self.names, self.matters = list(names), matters
        self.reference = reference
        self.categories = np.zeros(len(names), dtype=bool) if categories is None else categories
        self.calibration = None if moments is None else Calibration(reference, moments, self.categories, matters, views)
        columns = [column[~np.isnan(column)] for column in reference.T]
        self._shares = [Shares.of(c) for c in columns]
        self.trend = None if moments is None or not len(moments) else Trend.of(reference, moments)
        self._views = list(views)
        self._carried_on: DriftDetector | None = None
        return self

    def _along(self) -> DriftDetector:
        """The same, of the reference without its trends. It is made when a window first asks for it: most references have none."""
        if self._carried_on is None:
            assert self.trend is not None
            assert self.calibration is not None
            rows = self.trend.removed(self.reference, self.calibration.moments)
            codes = self.categories & (self.trend.slopes == 0)  # what goes on is an amount: a level, an age
            self._carried_on = type(self)().fit(rows, self.names, self.calibration.moments, codes, self.matters, self._views)
        return self._carried_on

    def test(self, window: Matrix, moments: Moments | None = None) -> list[FeatureVerdict]:
        """One verdict per column, in the reference's order.

        Args:
            window: float64 [m, F]; NaN is null.
            moments: int64 [m], microseconds since the epoch; needed for a calibrated verdict.

        A column that goes on along the trend that it has in the reference has not drifted (`serving.monitoring.trend`).

        Raises:
            ValueError: no rows, or other columns than the reference has.
        """
        found = self._test(_matrix(window, len(self.names)), moments)
        if self.trend is None or moments is None:
            return found
        going = [j for j, one in enumerate(found) if one.drift and self.trend.slopes[j]]
        if going:
            also = self._along()._test(self.trend.removed(_matrix(window), moments), moments)
            for j in going:
                if not also[j].drift:
                    found[j] = also[j]
        return found

    def _test(self, window: Matrix, moments: Moments | None) -> list[FeatureVerdict]:
        null = self.null(moments)
        reference = self.reference
        if null is not None and moments is not None and self.calibration is not None:
            reference = reference[matched(weights(self.calibration.moments, moments))]
        count, rows = len(self.names), len(window)
        departures = np.zeros((4, count))
        if null is not None and moments is not None and self.calibration is not None:
            departures = self.calibration.relations.departures(window, cells(moments)[0])[0]
        nulls, reference_nulls = np.isnan(window), np.isnan(reference)
        p_values, statistics = np.ones(count), np.zeros(count)
        for j in range(count):
            values, theirs = window[~nulls[:, j], j], reference[~reference_nulls[:, j], j]
            if len(values) >= MINIMUM and len(theirs) >= MINIMUM:
                p_values[j], statistics[j] = self._compare(theirs, values)
        at = Window(window, reference, self._shares, self.categories, statistics, departures)
        effects, usual = np.stack([kind.of_window(at) for kind in TABLE]), np.ones((len(TABLE), count))
        if null is not None:
            adjusted, usual = null.p_values(effects)
            drifted = (adjusted <= NOMINAL_RATE) & (effects >= self.matters[:, None])
        else:
            theirs = reference_nulls.sum(axis=0).astype(np.float64)
            both = holm(np.concatenate([p_values, null_p_values(nulls.sum(axis=0).astype(np.float64), rows, theirs, len(reference))]))
            adjusted = np.ones((len(TABLE), count))
            adjusted[[KINDS.index("values"), KINDS.index("nulls")]] = both.reshape(2, count)
            drifted = (adjusted < ALPHA) & (effects >= self.matters[:, None])
        rates, reference_rates = nulls.mean(axis=0), reference_nulls.mean(axis=0)
        return [
            FeatureVerdict(
                name=name,
                p_value=float(adjusted[:, j].min()),
                effect=float(statistics[j]),
                null_rate=float(rates[j]),
                reference_null_rate=float(reference_rates[j]),
                drift=bool(drifted[:, j].any()),
                cause=_cause(drifted[:, j], effects[:, j] / (usual[:, j] if null is not None else self.matters)),
                unseen=float(effects[KINDS.index("range"), j]),
                commonest=float(at.shares[j].share.max(initial=0.0)),
                usual=float(usual[KINDS.index("values"), j]) if null is not None else 0.0,
                kinds=[kind for kind, so in zip(KINDS, drifted[:, j], strict=True) if so],
            )
            for j, name in enumerate(self.names)
        ]

    def null(self, moments: Moments | None) -> Null | None:
        """The null of windows as long as this one; None where reference or window has no moments. `moments`: int64 [m]."""
        if self.calibration is None or moments is None:
            return None
        return self.calibration.null(int(moments.max() - moments.min()))

    def calibrated(self, moments: Moments | None) -> Calibrated | None:
        """What the verdict on a window of these moments rests on; None where it is not calibrated."""
        null = self.null(moments)
        if null is None or self.calibration is None or moments is None:
            return None
        hours = self.calibration.length(int(moments.max() - moments.min())) / 3_600_000_000
        return Calibrated(NOMINAL_RATE, len(null.effects), round(null.blocks, 1), hours)

    @abstractmethod
    def _compare(self, reference: Matrix, values: Matrix) -> tuple[float, float]:
        """p-value and Kolmogorov–Smirnov statistic of two columns without nulls, float64 [n_j] and [m_j], both >= MINIMUM."""


def _cause(drifted: NDArray[np.bool_], ratios: Matrix) -> str:
    """What drifted the most, of kinds bool [K] and effects as multiples of the usual ones, float64 [K]."""
    found = {kind for kind, so in zip(KINDS, drifted, strict=True) if so}
    if not found:
        return ""
    if {"values", "nulls"} <= found:
        return "values and nulls"
    return TABLE[int(np.argmax(np.where(drifted, ratios, -1.0)))].cause


class OutlierDetector(ABC):
    """Scores rows by how unlike the reference they are. Subclasses bring the score; threshold and alarm are decided here.

    The reference is halved (at random, seed fixed): one half is learnt from, the other sets the threshold, so that the nominal share
    holds for new rows and not only for those learnt. With the threshold at the k-th largest of c held-out scores, the number of new
    rows above it, out of m, is Beta-Binomial(m, k, c + 1 − k) whatever the score's distribution: that is the test (no approximation;
    it accounts for the threshold itself being an estimate). Odd rows come in days, though: where a null is given, the share has to be
    among the largest of its windows as well. Nulls take the reference's median: they are the drift detector's business.
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
        self._reference, self._unlearnt = reference, np.sort(order[1::2])
        self._shares: dict[float, Matrix] = {}
        return self

    def _null_shares(self, null: Null) -> Matrix:
        """The share of outliers among the rows not learnt, in each window of the null, float64 [w]."""
        if null.blocks not in self._shares:
            beyond = self._score(self._filled(self._reference[self._unlearnt])) > self._threshold
            sums = np.concatenate([[0], np.cumsum(beyond)])
            bounds = np.searchsorted(self._unlearnt, np.array(null.bounds))
            self._shares[null.blocks] = (sums[bounds[:, 1]] - sums[bounds[:, 0]]) / np.maximum(bounds[:, 1] - bounds[:, 0], 1)
        return self._shares[null.blocks]

    @property
    def nominal(self) -> float:
        """Share of new rows expected above the threshold without drift."""
        return self._rank / (self._held + 1)

    def share(self, window: Matrix) -> float:
        """Share of rows beyond the reference's 99th percentile, 0..1. `window`: float64 [m, F]; ValueError as in `test`."""
        window = _matrix(window, len(self._fill))
        return float(np.mean(self._score(self._filled(window)) > self._threshold))

    def test(self, window: Matrix, null: Null | None = None) -> OutlierVerdict:
        """Whether the window holds significantly (p < ALPHA) and materially (MATERIAL × nominal) more outliers than it should.

        Args:
            window: float64 [m, F]; NaN is null.
            null: of the drift detector that was fitted on the same rows.

        Raises:
            ValueError: no rows, or other columns than the reference has.
        """
        share, rows = self.share(window), len(window)
        beyond = round(share * rows)
        p_value = float(np.clip(stats.betabinom.sf(beyond - 1, rows, self._rank, self._held + 1 - self._rank), 0, 1))
        if null is not None:
            p_value = max(p_value, float((1 + (self._null_shares(null) >= share).sum()) / (1 + len(null.bounds))))
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
