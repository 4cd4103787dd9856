"""A column that the hour of the week determines no longer follows it."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Clock(DriftKind):
    """The mean square of the difference from what the hour says, in variances of the column (`serving.monitoring.dependence`)."""

    name, cause = "clock", "clock"
    matters = 0.2
    family = "gradual"
    relational = True

    def of_window(self, at: Window) -> Matrix:
        return np.abs(at.departures[2])

    def of_stretch(self, at: Stretch) -> Matrix:
        return np.abs(at.departures[2])
