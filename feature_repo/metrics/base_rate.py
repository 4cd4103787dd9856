"""Base rate: the share of positives. It says what the world is like, not how good a model is."""

from __future__ import annotations

from feature_repo.metrics.base import NAN, Floats, MeanOfRows


class BaseRate(MeanOfRows):
    """The mean label."""

    name = "base_rate"
    title = "base rate"
    better = 0

    def value(self, label: Floats, score: Floats) -> float:
        return float(label.mean()) if len(label) else NAN

    def of_rows(self, label: Floats, score: Floats) -> Floats:
        return label
