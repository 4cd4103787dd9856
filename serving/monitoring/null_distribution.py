"""How far a window without drift lies from the rest of its reference: the scale on which every other window is judged.

Successive predictions share their hour, their weather and their season, so a test that takes rows for independent calls every window
drift. What a window of some days looks like when nothing has happened is asked of the reference itself:

1. every stretch of the reference as long as the window (whole blocks, never single rows) is held against the rest of it. That gives
   `null [w, K, F]`: K effects (`serving.monitoring.kinds`) of F columns, of w windows in which nothing drifted but the days differ as days do;
2. before either comparison the rest is weighted to the window's mix of (weekday, hour), in UTC, so that a window of three weekdays, or
   of mornings, meets the reference's own weekdays or mornings (`serving.monitoring.hours`);
3. each effect is divided by the largest one of the other windows (of those that do not overlap it; at least half of the effect that
   matters): by how much it would be a record. A window is summed up by the largest of its ratios, per family of kinds (`FAMILIES`);
4. the p-value of an effect is the share of windows, this one among them, whose largest ratio is at least its own, divided by its
   family's share of the false alarms. If nothing drifts, this window and the null's are exchangeable, and the chance of any
   p <= alpha in a window is at most alpha.

Sources: Politis & Romano (1994), subsampling; Westfall & Young (1993), the maximum over columns; Vovk et al. (2005), conformal p-values.
A reference that holds fewer than `FEW` windows end to end gives ranks too coarse and too alike to be trusted: there the p-value is
at least that of the ratio's logarithm under Student's t, with one degree of freedom less than there are windows end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from serving.monitoring.hours import DAY_US, HOUR_US, Matrix, Moments
from serving.monitoring.kinds.stretch import Ranked, Stretch
from serving.monitoring.kinds.table import FAMILIES, MATTERS, TABLE

FEW = 19
WINDOWS = 150
"""Most windows the null is made of; they overlap where the reference holds fewer end to end."""


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
        self.moments, self.matters = moments, matters
        self.reference = Ranked(rows, moments, categories, views)
        self.relations = self.reference.relations
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
            stretches = [Stretch(self.reference, a, b) for a, b in kept]
            found = np.stack([np.stack([kind.of_stretch(one) for kind in TABLE]) for one in stretches])
            self._nulls[length] = Null(found, period / length, self.matters, kept)
        return self._nulls[length]
