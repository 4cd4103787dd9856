"""There are more nulls, or fewer."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Nulls(DriftKind):
    """The difference of the null rates, in [0, 1]."""

    name = cause = "nulls"
    matters = 0.05
    family = "rare"

    def of_window(self, at: Window) -> Matrix:
        return np.abs(np.isnan(at.rows).mean(axis=0) - np.isnan(at.reference).mean(axis=0))

    def of_stretch(self, at: Stretch) -> Matrix:
        own, theirs = at.shares_known
        return np.abs(own - theirs)
