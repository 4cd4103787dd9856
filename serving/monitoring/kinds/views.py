"""A column leaves what the columns of other views say it should be."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Views(DriftKind):
    """The mean difference from it, in standard deviations of the column (`serving.monitoring.dependence`)."""

    name, cause = "views", "relation"
    matters = 0.5
    family = "gradual"
    relational = True

    def of_window(self, at: Window) -> Matrix:
        return np.abs(at.departures[0])

    def of_stretch(self, at: Stretch) -> Matrix:
        return np.abs(at.departures[0])
