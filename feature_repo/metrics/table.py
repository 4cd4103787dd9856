"""Every metric, in the order of tables; one that is not here is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from feature_repo.metrics.auc import Auc
from feature_repo.metrics.base import Metric
from feature_repo.metrics.base_rate import BaseRate
from feature_repo.metrics.brier import Brier
from feature_repo.metrics.calibration_error import CalibrationError
from feature_repo.metrics.log_loss import LogLoss

METRICS: dict[str, Metric] = {metric.name: metric for metric in (Auc(), LogLoss(), Brier(), CalibrationError(), BaseRate())}
COMPARED = tuple(name for name, metric in METRICS.items() if metric.better)
"""Those that say which of two models is better."""
if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[COMPARED]
    """What a model's spec may name to compare models by."""
