"""Every implementation of the detectors; one that is not here is not there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from feature_repo.records.verdict import Kind
from serving.monitoring.detectors import scipy
from serving.monitoring.detectors.base import DriftDetector, OutlierDetector
from serving.monitoring.hours import Matrix, Moments
from serving.monitoring.kinds.table import KINDS

IMPLEMENTATIONS = ("scipy", "alibi")
"""Modules of this package, each with a class `Drift` and a class `Outliers`. One is imported when it is chosen: Alibi Detect takes
seconds, and is under the Business Source Licence."""
LABEL_MATTERS = np.where(np.array(KINDS) == "values", 0.05, 1.0)
"""The smallest change of the base rate that counts as label drift; the other kinds say nothing about a label."""


def detectors(kind: Kind) -> tuple[DriftDetector, OutlierDetector]:
    """New, unfitted detectors of the chosen implementation."""
    chosen: Any = import_module(f"serving.monitoring.detectors.{kind}")
    return chosen.Drift(), chosen.Outliers()


def label_detector(reference: Matrix, reference_moments: Moments) -> DriftDetector:
    """For the base rate: whether it has moved, on the same calibrated scale; `effect` is its change, absolute.

    Args:
        reference: truths 0/1, float64 [n]; windows to test are [m, 1].
        reference_moments: of the predictions they belong to, int64 [n] (ascending), microseconds since the epoch.
    """
    return scipy.Drift().fit(reference[:, None], ["label"], reference_moments, matters=LABEL_MATTERS)
