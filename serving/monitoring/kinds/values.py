"""The values lie elsewhere."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import DriftKind, Window
from serving.monitoring.kinds.stretch import Stretch


class Values(DriftKind):
    """Kolmogorov–Smirnov statistic of the non-null values: the largest gap between the two distribution functions, in [0, 1]."""

    name = cause = "values"
    matters = 0.15
    family = "gradual"

    def of_window(self, at: Window) -> Matrix:
        return at.statistics

    def of_stretch(self, at: Stretch) -> Matrix:
        own, theirs = at.shares_known
        enough, gap = (theirs > 0) & (own > 0), np.zeros(len(own))
        for j in np.flatnonzero(enough).tolist():
            step = at.rest * (-1 / theirs[j])
            step[at.begin : at.end] = 1 / (own[j] * (at.end - at.begin))
            gap[j] = np.abs(np.cumsum(step[at.reference.order[j]])[at.reference.last[j]]).max(initial=0.0)
        return gap
