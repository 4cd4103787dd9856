"""What a column should be, given the columns it goes with and the hour of the week: where it leaves them, something is broken.

When the world changes, what belongs together moves together: warm air holds more water, late departures arrive late. A column in
another unit, or from the wrong place, moves alone and leaves its relatives behind.

Values become normal scores: the normal quantile of their mid-rank in the reference; beyond its range they go on by their overshoot in
standard deviations, at most 3. Nulls are the mean. Predictions are linear, from the scores' covariance shrunk to the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Matrix = NDArray[np.float64]

SHRINKAGE = 0.05
CLOCK = 0.8
"""Share of a column's variance between the hours of the week from which the clock determines it."""


class Relations:
    """
    Args:
        rows: the reference, float64 [n, F]; NaN is null.
        hours: hour of the week of each row, 0..167, int64 [n].
        views: the view of each column; the columns of "" predict nothing, and nothing predicts them (a model's score).

    Attributes:
        explained: share of each column's variance that the columns of other views (0), and all other columns (1), explain in the half
            of the reference's time that they were not fitted on: [2, F].
        clocked: columns that the hour of the week determines, bool [F].
    """

    def __init__(self, rows: Matrix, hours: NDArray[np.int64], views: Sequence[str]) -> None:
        count = rows.shape[1]
        self._sorted = [np.sort(column[~np.isnan(column)]) for column in rows.T]
        scores = self.scores(rows)
        self._taking_part = np.array([view != "" for view in views])
        self._from = self._fit(scores, views)
        here = np.maximum(np.bincount(hours, minlength=168), 1)[:, None]
        self._hourly = _sums(scores, hours) / here
        total = np.maximum((scores**2).sum(axis=0), 1e-9)
        self.clocked = self._taking_part & ((self._hourly**2 * here).sum(axis=0) / total >= CLOCK)
        self._usual = np.zeros((2, 168, count))
        self._usual = np.stack([_sums(part, hours) / here for part in self._left(rows, scores, hours)[:2]])
        left = self._left(rows, scores, hours)
        half, unexplained = len(rows) // 2, np.zeros((2, count))
        for fitted, held in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
            wrong = scores[held] - scores[held] @ self._fit(scores[fitted], views)
            unexplained += (np.where(np.isnan(rows[held]), 0.0, wrong) ** 2).sum(axis=1)
        self.explained = 1 - unexplained / total
        self._sums = np.concatenate([np.zeros((3, 1, count)), np.cumsum(left, axis=1)], axis=1)
        self._known = np.concatenate([np.zeros((1, count)), np.cumsum(~np.isnan(rows), axis=0)])

    def _fit(self, scores: Matrix, views: Sequence[str]) -> Matrix:
        """Predictors float64 [2, F, F]: `scores @ predictors[k]` is what other views (0), or all other columns (1), say."""
        count = len(views)
        covariance = (1 - SHRINKAGE) * (scores.T @ scores / max(len(scores), 1)) + SHRINKAGE * np.eye(count)
        found = np.zeros((2, count, count))
        for j in np.flatnonzero(self._taking_part).tolist():
            elsewhere = np.array([view not in ("", views[j]) for view in views])
            others = self._taking_part & (np.arange(count) != j)
            for k, at in enumerate((np.flatnonzero(elsewhere), np.flatnonzero(others))):
                if len(at):
                    found[k, at, j] = np.linalg.solve(covariance[np.ix_(at, at)], covariance[at, j])
        return found

    def scores(self, rows: Matrix) -> Matrix:
        """Normal scores, float64 [m, F]; 0 for null."""
        found = np.zeros(rows.shape)
        for j, known in enumerate(self._sorted):
            if not len(known) or known[0] == known[-1]:
                continue
            value, n = np.nan_to_num(rows[:, j], nan=known[len(known) // 2], posinf=1e30, neginf=-1e30), len(known)
            rank = (np.searchsorted(known, value, "left") + np.searchsorted(known, value, "right")) / 2 / n
            over = np.maximum(value - known[-1], 0) - np.maximum(known[0] - value, 0)
            score = stats.norm.ppf(np.clip(rank, 0.5 / n, 1 - 0.5 / n)) + np.clip(over / max(float(known.std()), 1e-12), -3, 3)
            found[:, j] = np.where(np.isnan(rows[:, j]), 0.0, score)
        return found

    def _left(self, rows: Matrix, scores: Matrix, hours: NDArray[np.int64]) -> Matrix:
        """What is left of each score after each prediction, beyond what usually is at that hour; of the clock's prediction its square.
        float64 [3, m, F], 0 where null.
        """
        clock = np.where(self.clocked, scores - self._hourly[hours], 0.0) ** 2
        away = [scores - scores @ b - usual[hours] for b, usual in zip(self._from, self._usual, strict=True)]
        left = np.stack([*(np.where(self._taking_part, a, 0.0) for a in away), clock])
        return np.where(np.isnan(rows), 0.0, left)

    def departures(self, window: Matrix, hours: NDArray[np.int64]) -> tuple[Matrix, Matrix]:
        """How far a window is from its predictions, in standard deviations of the column.

        Args:
            window: float64 [m, F]; NaN is null.
            hours: hour of the week of each row, int64 [m].

        Returns:
            float64 [3, F]: mean difference from what other views say, from what all other columns say, and the mean square of the
            difference from what the hour says; and the mean difference from the reference at these hours, float64 [F].
        """
        scores, known = self.scores(window), ~np.isnan(window)
        rows = np.maximum(known.sum(axis=0), 1)
        moves = np.where(known, scores - self._hourly[hours], 0.0).sum(axis=0) / rows
        return self._left(window, scores, hours).sum(axis=1) / rows, moves

    def own(self, begin: int, end: int) -> Matrix:
        """`departures` of the reference's own rows [begin, end), float64 [3, F]."""
        rows = np.maximum(self._known[end] - self._known[begin], 1)
        return np.asarray((self._sums[:, end] - self._sums[:, begin]) / rows, dtype=np.float64)


def _sums(values: Matrix, hours: NDArray[np.int64]) -> Matrix:
    """Sums by hour of the week, float64 [168, F]. `values`: float64 [n, F]; `hours`: int64 [n]."""
    return np.stack([np.bincount(hours, column, minlength=168) for column in values.T], axis=1)
