"""The live answers have become worse."""

from __future__ import annotations

from pydantic import Field

from feature_repo.metrics.base import Estimate
from feature_repo.metrics.table import METRICS, MetricName
from feature_repo.triggers import base
from feature_repo.triggers.base import DAY_US, Facts, Trigger


class QualityDrop(base.Settings):
    """The live metric is worse than the champion's own held-out one by more than `drop`, and surely so: its 95 % interval, which leaves out a
    day at a time, lies beyond. It takes at least five days."""

    metric: MetricName = Field(default="auc", description="what is compared")
    drop: float = Field(default=0.03, gt=0, description="how much worse it may be")
    window: int = Field(default=3000, ge=100, description="labelled predictions of the champion, the newest")


class Settings(base.Settings):
    quality: QualityDrop | None = Field(default=None, description="the live answers have become worse")


class Quality(Trigger[Settings]):
    """Compares the live metric with the one that the version had when it was trained."""

    kind = "quality"
    example = (
        {"quality": {"metric": "auc", "drop": 0.02}},
        Facts(
            now_us=400 * DAY_US,
            known_upto_us=399 * DAY_US,
            labelled_us=400 * DAY_US,
            live=Estimate(0.70, 0.69, 0.719),
            baseline=0.74,
        ),
    )

    def wanted(self, asked: Settings) -> bool:
        return asked.quality is not None

    def fires(self, asked: Settings, facts: Facts) -> str | None:
        drop, live, baseline = asked.quality, facts.live, facts.baseline
        if drop is None or live is None or baseline is None or not METRICS[drop.metric].worse(live, baseline, drop.drop):
            return None
        return (
            f"live {drop.metric} is {live.value:.4f} ({live.low:.4f} to {live.high:.4f}), "
            f"{baseline:.4f} when it was trained (drop allowed: {drop.drop:g})"
        )
