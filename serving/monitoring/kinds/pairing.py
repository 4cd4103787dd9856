"""A row's value no longer goes with the row's other columns."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Pairing(DriftKind):
    """The part of the slope, or of the correlation, that is lost: 1 where nothing is left (`serving.monitoring.dependence`)."""

    name, cause = "rows", "relation"
    matters = 0.6
    family = "gradual"
    relational = True

    def of_window(self, at: Window) -> Matrix:
        return np.abs(at.departures[3])

    def of_stretch(self, at: Stretch) -> Matrix:
        return np.abs(at.departures[3])
