"""How far a window without drift lies from the rest of its reference: the scale on which every other window is judged.

Successive predictions share their hour, their weather and their season, so a test that takes rows for independent calls every window
drift. What a window of some days looks like when nothing has happened is asked of the reference itself:

1. every stretch of the reference as long as the window (whole blocks, never single rows) is held against the rest of it. That gives
   `null [w, K, F]`: K effects (`KINDS`) of F columns, of w windows in which nothing drifted but the days differ as days do;
2. before either comparison the rest is weighted to the window's mix of (weekday, hour), in UTC, so that a window of three weekdays, or
   of mornings, meets the reference's own weekdays or mornings (`weights`);
3. each effect is divided by the largest one of the other windows (of those that do not overlap it; at least half of the effect that
   matters): by how much it would be a record. A window is summed up by the largest of its ratios, per family of kinds (`FAMILIES`);
4. the p-value of an effect is the share of windows, this one among them, whose largest ratio is at least its own, divided by its
   family's share of the false alarms. If nothing drifts, this window and the null's are exchangeable, and the chance of any
   p <= alpha in a window is at most alpha.

Sources: Politis & Romano (1994), subsampling; Westfall & Young (1993), the maximum over columns; Vovk et al. (2005), conformal p-values.
A reference that holds fewer than `FEW` windows end to end gives ranks too coarse and too alike to be trusted: there the p-value is
at least that of the ratio's logarithm under Student's t, with as many degrees of freedom as windows end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from serving.monitoring.dependence import Relations

Matrix = NDArray[np.float64]
Moments = NDArray[np.int64]

KINDS = ("values", "nulls", "range", "repeated", "views", "columns", "clock", "rows")
"""Kolmogorov–Smirnov statistic; gap of the null rates; share of values the reference has no like of; gain of any one value's share;
departure from what the columns of other views say, from what all other columns say, and from what the hour says; and how much less a
row's value goes with its other columns (`serving.monitoring.dependence`)."""
MATTERS = np.array([0.15, 0.05, 0.03, 0.05, 0.5, 0.5, 0.2, 0.6])
"""The smallest effect of each kind that counts as drift."""
FAMILIES = ((np.array([0, 4, 5, 6, 7]), 0.6), (np.array([1, 2, 3]), 0.4))
"""Kinds judged together, and their share of the false alarms. A record cold or an outage is rare and far out, so that its kinds would
hide the others' smaller records."""
FEW = 19
WINDOWS = 150
"""Most windows the null is made of; they overlap where the reference holds fewer end to end."""
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


@dataclass(frozen=True)
class Shares:
    """The different values of a column, float64 [u] ascending, and the share of each, 0..1."""

    value: Matrix
    share: Matrix

    @classmethod
    def of(cls, values: Matrix) -> Shares:
        """`values`: float64 [m] without nulls."""
        found, counts = np.unique(values, return_counts=True)
        return cls(found, counts / max(len(values), 1))

    def at(self, values: Matrix) -> Matrix:
        """The share of each of these values, float64 [m]; 0 for those it lacks."""
        if not len(self.value):
            return np.zeros(len(values))
        place = np.searchsorted(self.value, values).clip(max=len(self.value) - 1)
        return np.where(self.value[place] == values, self.share[place], 0.0)

    def gains(self, usual: Shares) -> Matrix:
        """By how much the share of each of its values exceeds the usual one, float64 [u]."""
        return self.share - usual.at(self.value)

    def unseen(self, values: Matrix, codes: bool) -> float:
        """The share of these that are none of its values (`codes`), or beyond its smallest or largest. `values`: float64 [m], m > 0."""
        if codes:
            return float((self.at(values) == 0).mean())
        low, high = (self.value[0], self.value[-1]) if len(self.value) else (0.0, 0.0)
        return float(((values < low) | (values > high)).mean())


@dataclass(frozen=True)
class Null:
    """The null of windows of one length.

    Attributes:
        effects: float64 [w, K, F].
        blocks: how many such windows the reference holds end to end.
        matters: the smallest effect of each kind that counts, float64 [K].
        bounds: the windows' rows [begin, end), in order of time.
    """

    effects: Matrix
    blocks: float
    matters: Matrix
    bounds: list[tuple[int, int]]

    def p_values(self, effects: Matrix) -> tuple[Matrix, Matrix]:
        """Family-wise p-values of a window's effects, float64 [K, F] each: the p-values, and the largest effect without drift.

        Args:
            effects: float64 [K, F].
        """
        floor = self.matters[:, None] / 2
        usual = np.maximum(self.effects.max(axis=0), floor)
        begin, end = np.array(self.bounds).T
        apart = (begin[:, None] >= end) | (begin >= end[:, None])
        others = np.stack([np.maximum(self.effects[a].max(axis=0, initial=0.0), floor) for a in apart])
        p_values = np.ones(effects.shape)
        for kinds, share in FAMILIES:
            largest = (self.effects / others)[:, kinds].max(axis=(1, 2))
            p_values[kinds] = np.minimum(self._p_values(np.sort(largest), (effects / usual)[kinds]) / share, 1.0)
        return p_values, usual

    def _p_values(self, largest: Matrix, ratios: Matrix) -> Matrix:
        """The rank of each ratio among the null's largest, sorted float64 [w]; where they are few, from Student's t too."""
        count = len(largest)
        p_values = (1 + count - np.searchsorted(largest, ratios, "left")) / (1 + count)
        if self.blocks < FEW:
            logs = np.log(np.maximum(largest, 1e-9))
            scale = max(logs.std(ddof=1), 0.05) * np.sqrt(1 + 1 / self.blocks)
            ahead = (np.log(np.maximum(ratios, 1e-9)) - logs.mean()) / scale
            tail = stats.t.sf(ahead, max(self.blocks - 1, 1))
            p_values = np.maximum(p_values, tail) if count >= WINDOWS / 2 else tail
        return np.asarray(p_values, dtype=np.float64)


class Calibration:
    """
    Args:
        rows: the reference, float64 [n, F]; NaN is null.
        moments: int64 [n], microseconds since the epoch, ascending.
        categories: columns whose values are codes, bool [F]: a value the reference lacks counts as out of range; of the others, one
            beyond its smallest or largest.
        matters: the smallest effect of each kind that counts as drift, float64 [K].
        views: the view of each column, for `serving.monitoring.dependence`; default: no relations.

    Raises:
        ValueError: the moments do not ascend, or there is not one per row.
    """

    def __init__(
        self, rows: Matrix, moments: Moments, categories: NDArray[np.bool_], matters: Matrix = MATTERS, views: Sequence[str] = ()
    ) -> None:
        if len(moments) != len(rows) or np.any(np.diff(moments) < 0):
            raise ValueError(f"{len(moments)} moments for {len(rows)} reference rows; there must be one per row, ascending")
        self.moments, self.categories, self.matters = moments, categories, matters
        self.relations = Relations(rows, cells(moments)[0], views or [""] * rows.shape[1])
        self.known = ~np.isnan(rows)
        self._order = np.argsort(rows.T, axis=1, kind="stable")  # NaN comes last
        ordered = np.take_along_axis(rows.T, self._order, axis=1)
        last = np.ones(ordered.shape, dtype=bool)
        last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
        self._last = last & ~np.isnan(ordered)
        self._ids = np.empty(rows.shape, dtype=np.int64)  # of each value, the number of smaller ones: equal where values are equal
        ids = np.cumsum(np.concatenate([np.zeros((len(ordered), 1), dtype=bool), last[:, :-1]], axis=1), axis=1)
        np.put_along_axis(self._ids.T, self._order, ids, axis=1)
        low, high = np.where(self.known, self._ids, len(rows)), np.where(self.known, self._ids, -1)
        self._before = np.minimum.accumulate(low), np.maximum.accumulate(high)
        self._after = np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high[::-1])[::-1]
        self._totals = [np.bincount(self._ids[:, j]) for j in range(rows.shape[1])]
        self._nulls: dict[int, Null] = {}

    def length(self, span_us: int) -> int:
        """The length of null windows for a window of `span_us`: whole days, or hours below one; microseconds.

        No longer than a third of the reference, and no shorter than what holds 100 of its rows on average.
        """
        period = int(self.moments[-1] - self.moments[0]) + 1
        least = -(-100 * period // len(self.moments))
        wanted = min(max(span_us, least), max(period // 3, least))
        grain = DAY_US if wanted >= DAY_US else HOUR_US
        return max(wanted // grain, 1) * grain

    def null(self, span_us: int) -> Null:
        """The null of windows as long as `span_us`, remembered by length. It takes some 20 ms per window of 30,000 rows x 57 columns."""
        length = self.length(span_us)
        if length not in self._nulls:
            first, period = int(self.moments[0]), int(self.moments[-1] - self.moments[0]) + 1
            starts = np.linspace(first, max(first, first + period - length), WINDOWS).astype(np.int64)
            bounds = np.searchsorted(self.moments, np.stack([starts, starts + length]))
            enough = max(50, len(self.moments) * length / period / 4)  # a stretch with next to no traffic is no window
            kept = [(int(a), int(b)) for a, b in bounds.T if enough <= b - a < len(self.moments)]
            found = np.stack([self._effects(a, b) for a, b in kept])
            self._nulls[length] = Null(found, period / length, self.matters, kept)
        return self._nulls[length]

    def _effects(self, begin: int, end: int) -> Matrix:
        """Effects of rows [begin, end) against all others, float64 [K, F]."""
        count, columns = self.known.shape
        inside = np.zeros(count, dtype=bool)
        inside[begin:end] = True
        rest = weights(self.moments, self.moments[begin:end], ~inside)
        theirs, own = rest @ self.known, self.known[begin:end].mean(axis=0)
        enough = (theirs > 0) & (own > 0)
        gap = np.empty(columns)
        for j in np.flatnonzero(enough).tolist():
            step = rest * (-1 / theirs[j])
            step[begin:end] = 1 / (own[j] * (end - begin))
            gap[j] = np.abs(np.cumsum(step[self._order[j]])[self._last[j]]).max(initial=0.0)
        ids, known = self._ids[begin:end], self.known[begin:end]
        low, high = np.full(columns, count, dtype=np.int64), np.full(columns, -1, dtype=np.int64)
        if begin:
            low, high = self._before[0][begin - 1], self._before[1][begin - 1]
        if end < count:
            low, high = np.minimum(low, self._after[0][end]), np.maximum(high, self._after[1][end])
        values = np.maximum(known.sum(axis=0), 1)
        unseen = (known & ((ids < low) | (ids > high))).sum(axis=0) / values
        repeated = np.zeros(columns)
        for j in range(columns):
            here = np.bincount(ids[known[:, j], j], minlength=len(self._totals[j]))
            others = self._totals[j] - here
            if self.categories[j]:
                unseen[j] = float(here[others == 0].sum()) / float(values[j])
            elsewhere = max(int(self.known[:, j].sum() - known[:, j].sum()), 1)
            repeated[j] = (here / values[j] - others / elsewhere).max(initial=0.0)
        apart = np.abs(self.relations.own(begin, end))
        return np.stack([np.where(enough, gap, 0.0), np.abs(own - theirs), unseen, repeated, *apart])
