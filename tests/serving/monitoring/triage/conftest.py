"""The made-up year as a reference, fitted once."""

from __future__ import annotations

import numpy as np
import pytest

from serving.monitoring.detectors.base import DriftDetector
from serving.monitoring.hours import Matrix, Moments
from tests.serving.monitoring.triage.made_year import NAMES, VIEWS, Known, year


@pytest.fixture(scope="session")
def reference() -> tuple[Matrix, Moments]:
    return year(300, 0)


@pytest.fixture(scope="session")
def known(reference: tuple[Matrix, Moments]) -> Known:
    labels = (np.random.default_rng(1).random(len(reference[0])) < reference[0][:, -1]).astype(np.float64)
    return Known(reference[0], NAMES, VIEWS, reference[1], labels, "scipy")


@pytest.fixture(scope="session")
def detector(known: Known) -> DriftDetector:
    return known.drift
