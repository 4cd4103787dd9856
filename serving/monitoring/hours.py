"""Hours of the week: what a window of some of them is fairly compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Moments = NDArray[np.int64]
CELL = 10
"""Fewest reference rows that stand for an hour of a weekday; where there are fewer, the same hour of every day does."""
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


def cells(moments: Moments) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hour of the week 0..167 and hour of the day 0..23 of microseconds since the epoch, in UTC."""
    hours = moments // HOUR_US
    return hours % 168, hours % 24


def weights(reference: Moments, window: Moments, among: NDArray[np.bool_] | None = None) -> Matrix:
    """Weights of reference rows that give them the window's mix of weekday and hour.

    Args:
        reference, window: moments, int64 [n] and [m], microseconds since the epoch.
        among: which reference rows may have weight, bool [n]; default: all.

    Returns:
        float64 [n], summing to 1. Window rows of an hour that the reference lacks weigh on no row; if it has none of them, all rows
        weigh the same.
    """
    allowed = np.ones(len(reference), dtype=bool) if among is None else among
    of_week, of_day = cells(reference)
    wanted_week, wanted_day = cells(window)
    have = np.bincount(of_week[allowed], minlength=168)
    want = np.bincount(wanted_week, minlength=168).astype(np.float64)
    thin = have < CELL
    have_day = np.bincount(of_day[allowed], minlength=24)
    want_day = np.bincount(wanted_day[thin[wanted_week]], minlength=24)
    per_week = np.divide(want, have, out=np.zeros(168), where=~thin)
    per_day = np.divide(want_day, have_day, out=np.zeros(24), where=have_day > 0)
    found = np.where(allowed, per_week[of_week] + per_day[of_day], 0.0)
    total = found.sum()
    return np.asarray(found / total if total > 0 else allowed / max(allowed.sum(), 1), dtype=np.float64)


def matched(weight: Matrix) -> NDArray[np.int64]:
    """As many rows as there are weights, each as often as its weight says (systematic sampling: always the same). int64 [n], sorted."""
    count = len(weight)
    return np.searchsorted(np.cumsum(weight), (np.arange(count) + 0.5) / count * weight.sum()).clip(max=count - 1)


def core(moments: Moments) -> tuple[int, int]:
    """The first and last of some moments, int64 [m > 0], without the few that lie farther from the others than these reach."""
    low, high = (int(us) for us in np.quantile(moments, (0.05, 0.95), method="nearest"))
    reach = high - low
    near = [us for us in moments.tolist() if low - reach <= us <= high + reach]  # numbers of Python: they do not overflow
    return min(near), max(near)
