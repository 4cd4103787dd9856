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
from scipy import special

Matrix = NDArray[np.float64]

SHRINKAGE = 0.05
CLOCK = 0.8
"""Share of a column's variance between the hours of the week from which the clock determines it."""

BOND = 0.4
"""A column goes with the others, row by row, if its correlation with a prediction from them is at least this."""


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
        bond: correlation of each column with its two predictions, row by row, [2, F]. From both, what is usual at that hour of the week has
            been subtracted.
        slope: of each column on its two predictions, likewise [2, F]. Why both numbers are kept: see `_loosened`.
    """

    def __init__(self, rows: Matrix, hours: NDArray[np.int64], views: Sequence[str]) -> None:
        count = rows.shape[1]
        rows = np.clip(rows, -1e30, 1e30)  # an infinite value has no deviation; so large a one says the same
        self._sorted = [np.sort(column[~np.isnan(column)]) for column in rows.T]
        self._width = [max(float(known.std()), 1e-12) if len(known) else 1.0 for known in self._sorted]
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
        self._scores, self._said = (part.astype(np.float32) for part in self._beyond_the_hour(rows, scores, hours, left))
        self.slope, self.bond = _regression(self._scores, self._said)

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
            missing, n = np.isnan(rows[:, j]), len(known)
            order = np.argsort(rows[:, j])  # places of sorted values are found several times faster
            value = np.nan_to_num(rows[order, j], nan=known[len(known) // 2], posinf=1e30, neginf=-1e30)
            rank = (np.searchsorted(known, value, "left") + np.searchsorted(known, value, "right")) / 2 / n
            over = np.maximum(value - known[-1], 0) - np.maximum(known[0] - value, 0)
            found[order, j] = special.ndtri(np.clip(rank, 0.5 / n, 1 - 0.5 / n)) + np.clip(over / self._width[j], -3, 3)
            found[missing, j] = 0.0
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
            float64 [4, F]: mean difference from what other views say, from what all other columns say, the mean square of the
            difference from what the hour says, and the part of `bond` and `slope` that is lost; and the mean difference from the reference
            at these hours, float64 [F].
        """
        scores, known = self.scores(window), ~np.isnan(window)
        rows = np.maximum(known.sum(axis=0), 1)
        moves = np.where(known, scores - self._hourly[hours], 0.0).sum(axis=0) / rows
        left = self._left(window, scores, hours)
        loosened = self._loosened(*self._beyond_the_hour(window, scores, hours, left))
        return np.concatenate([left.sum(axis=1) / rows, loosened[None]]), moves

    def _beyond_the_hour(self, rows: Matrix, scores: Matrix, hours: NDArray[np.int64], left: Matrix) -> tuple[Matrix, Matrix]:
        """Scores [m, F] and the two predictions of them [2, m, F], each less its mean at that hour of the week; NaN where null.

        Args:
            left: as of `_left`.
        """
        own = np.where(np.isnan(rows), np.nan, scores - self._hourly[hours])
        return own, np.where(self._taking_part, own - left[:2], 0.0)

    def _loosened(self, scores: NDArray[np.floating], said: NDArray[np.floating]) -> Matrix:
        """How far a column no longer goes with the others in these rows: the part that is lost of its slope or of its correlation, whichever
        has lost less.

        Why the one that lost less? Slope and correlation of a column on what the others say of it change for harmless reasons, but not both at
        once (docs/semantics/drift.md has an example with numbers):

        - only some of the customers ask: values spread less, so the correlation falls; the slope stays;
        - a column that it is predicted from changes its scale: the slope changes; the correlation stays;
        - the rows no longer belong together, for example after a join by a wrong key: both are lost. Only this gives a large number.

        Args:
            scores, said: as from `_beyond_the_hour`: a column's scores, and its two predictions (from other views, from all other columns), each
                less its mean at that hour of the week. So two columns that only follow the clock do not count as going together.

        Returns:
            float64 [F]: 0, nothing is lost; 1, nothing is left; up to 2, it goes against the others. Of the two predictions, the one of which
            more is lost. 0 also for a column that did not go with the others in the reference (`BOND`), and where its predictions are all alike.
        """
        slope, correlation = _regression(scores, said)
        bound = (self.bond >= BOND) & ~np.isnan(slope)
        kept = [
            np.divide(now, usual, out=np.ones(slope.shape), where=bound) for now, usual in ((slope, self.slope), (correlation, self.bond))
        ]
        return np.asarray(np.clip(1 - np.maximum(*kept).min(axis=0), 0.0, 2.0), dtype=np.float64)

    def own(self, begin: int, end: int) -> Matrix:
        """`departures` of the reference's own rows [begin, end), float64 [4, F]."""
        rows = np.maximum(self._known[end] - self._known[begin], 1)
        loosened = self._loosened(self._scores[begin:end], self._said[:, begin:end])
        return np.concatenate([(self._sums[:, end] - self._sums[:, begin]) / rows, loosened[None]])


def _regression(scores: NDArray[np.floating], said: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """Slope and correlation of each column on each of its predictions, over the rows where it is not null, float64 [2, F] each.

    Args:
        scores: [m, F]; NaN is null.
        said: [2, m, F].

    Returns:
        The slope is NaN where the predictions are constant; the correlation 0 where either is.
    """
    known = ~np.isnan(scores)
    count = np.maximum(known.sum(axis=0), 1)
    shape = len(said), scores.shape[1]

    def centred(values: NDArray[np.floating]) -> Matrix:
        values = np.where(known, values, 0.0)
        return np.where(known, values - values.sum(axis=0) / count, 0.0)

    own = centred(scores)
    others = [centred(predicted) for predicted in said]
    both = np.stack([(own * other).mean(axis=0) for other in others])
    spread, theirs = (own**2).mean(axis=0), np.stack([(other**2).mean(axis=0) for other in others])
    slope = np.divide(both, theirs, out=np.full(shape, np.nan), where=theirs > 1e-6)
    scale = np.sqrt(theirs * spread)
    return slope, np.divide(both, scale, out=np.zeros(shape), where=scale > 1e-6)


def _sums(values: Matrix, hours: NDArray[np.int64]) -> Matrix:
    """Sums by hour of the week, float64 [168, F]. `values`: float64 [n, F]; `hours`: int64 [n]."""
    return np.stack([np.bincount(hours, column, minlength=168) for column in values.T], axis=1)
