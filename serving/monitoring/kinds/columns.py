"""A column leaves what all other columns say it should be."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Columns(DriftKind):
    """The mean difference from it, in standard deviations of the column (`serving.monitoring.dependence`)."""

    name, cause = "columns", "relation"
    matters = 0.5
    family = "gradual"
    relational = True

    def of_window(self, at: Window) -> Matrix:
        return np.abs(at.departures[1])

    def of_stretch(self, at: Stretch) -> Matrix:
        return np.abs(at.departures[1])
