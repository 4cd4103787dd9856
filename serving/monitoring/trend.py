"""Inputs that have always gone on: an account's age, a player's level, a price that follows the others.

Example: the level of those who play has risen by half a level a week, all through the reference. Next month it is higher than it ever
was, and nothing has happened. So a window is usual that is like the reference, or like the reference carried on along its trend.

An input has a trend if its weekly means rise (or fall) nearly every week (Mann and Kendall's test); how fast it goes is the middle of
the slopes between all of them (Theil and Sen's).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import DAY_US, Matrix, Moments

WEEK_US = 7 * DAY_US
FEWEST_WEEKS = 8
FEWEST_ROWS = 20
"""Rows of a week with a value, below which it has no mean."""
STEADY, SURE = 0.8, 1e-3
"""Kendall's tau of the weekly means against time, and its p-value, from which they have a trend."""


@dataclass(frozen=True)
class Trend:
    """
    Attributes:
        slopes: per column, float64 [F], per microsecond; 0 where there is no trend.
        from_us: the moment at which nothing is taken away.
    """

    slopes: Matrix
    from_us: int = 0

    @classmethod
    def of(cls, rows: Matrix, moments: Moments) -> Trend:
        """
        Args:
            rows: float64 [n, F]; NaN is null.
            moments: int64 [n], ascending.
        """
        slopes = np.zeros(rows.shape[1])
        week = (moments - moments[0]) // WEEK_US
        whole = int((moments[-1] - moments[0] + 1) // WEEK_US)
        if whole >= FEWEST_WEEKS:
            for j in range(rows.shape[1]):
                slopes[j] = _slope(rows[:, j], week, whole)
        return cls(slopes, int(moments[-1]))

    def removed(self, rows: Matrix, moments: Moments) -> Matrix:
        """Rows as they would be at `from_us`, had each gone on along the trend until then. float64 [m, F]."""
        return np.asarray(rows - self.slopes * (moments - self.from_us)[:, None])


def _slope(column: Matrix, week: NDArray[np.int64], weeks: int) -> float:
    from scipy import stats

    known = np.isfinite(column) & (week < weeks)
    count = np.bincount(week[known], minlength=weeks)
    filled = np.flatnonzero(count >= FEWEST_ROWS)
    if len(filled) < FEWEST_WEEKS:
        return 0.0
    means = np.bincount(week[known], column[known], minlength=weeks)[filled] / count[filled]
    if not np.isfinite(means).all() or np.ptp(means) == 0:  # sums may be infinite
        return 0.0
    found = stats.kendalltau(filled, means)
    if abs(found.statistic) < STEADY or found.pvalue > SURE:
        return 0.0
    return float(stats.theilslopes(means, filled).slope) / WEEK_US
