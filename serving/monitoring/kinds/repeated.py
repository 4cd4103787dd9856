"""More of the values are one and the same."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Repeated(DriftKind):
    """By how much the share of a value has grown: of the value that has gained the most, in [0, 1]."""

    name = cause = "repeated"
    matters = 0.05
    family = "rare"

    def of_window(self, at: Window) -> Matrix:
        each = zip(at.shares, at.usual, strict=True)
        return np.array([shares.gains(usual).max(initial=0.0) for shares, usual in each])

    def of_stretch(self, at: Stretch) -> Matrix:
        found = np.zeros(len(at.values))
        for j, here in enumerate(at.counts):
            others = at.reference.totals[j] - here
            elsewhere = max(int(at.reference.known[:, j].sum() - at.known[:, j].sum()), 1)
            found[j] = (here / at.values[j] - others / elsewhere).max(initial=0.0)
        return found
