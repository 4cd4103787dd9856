"""There are values that the reference has no like of."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Range(DriftKind):
    """The share of values beyond the reference's smallest and largest; of codes, of those that it does not know."""

    name = cause = "range"
    matters = 0.03
    family = "rare"

    def of_window(self, at: Window) -> Matrix:
        each = zip(at.usual, at.values, at.categories.tolist(), strict=True)
        return np.array([usual.unseen(values, codes) if len(values) else 0.0 for usual, values, codes in each])

    def of_stretch(self, at: Stretch) -> Matrix:
        low, high = at.reference.range_without(at.begin, at.end)
        unseen = (at.known & ((at.ids < low) | (at.ids > high))).sum(axis=0) / at.values
        for j in np.flatnonzero(at.reference.categories).tolist():
            here = at.counts[j]
            unseen[j] = float(here[at.reference.totals[j] - here == 0].sum()) / float(at.values[j])
        return np.asarray(unseen)
