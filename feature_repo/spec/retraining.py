"""What a model's spec says of its learning: when it is trained again, on what, what a challenger must reach, and how it is let out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from feature_repo.metrics.table import MetricName
from feature_repo.spec.yaml_file import Strict
from feature_repo.triggers.base import LONGEST_DAYS
from feature_repo.triggers.table import Triggers

Cause = Literal["late data", "stale materialization", "missing row", "ttl", "definition version", "cast", "wrong"]
"""Of a served value that is not the recomputed one (`streaming.skew.causes`)."""


class Retraining(Strict):
    """The splits of a training at a moment: [start or train_days) [valid_days) [test_days) up to the day of that moment."""

    train_days: int | None = Field(
        default=None, ge=1, le=LONGEST_DAYS, description="default: from the first day of the spec's training split on"
    )
    valid_days: int = Field(default=21, ge=1, le=LONGEST_DAYS, description="days before the held-out ones, for validation")
    test_days: int = Field(default=14, ge=1, le=LONGEST_DAYS, description="held out: what challenger and champion are compared on")


class ChallengeBounds(Strict):
    """What a challenger must reach against the champion, on the same held-out rows."""

    metric: MetricName = Field(default="log_loss", description="what the two are compared by")
    margin: float = Field(default=0.005, ge=0, description="the challenger is surely not worse by more than this (95 % interval)")
    slice_margin: float = Field(default=0.05, ge=0, description="no slice is surely worse by more than this")
    p99_us: float = Field(default=5000, gt=0, description="latency of one row in ONNX Runtime, microseconds")
    megabytes: float = Field(default=50, gt=0, description="size of the ONNX file")
    skew_rows: int = Field(default=2000, ge=0, description="logged predictions to recompute; 0: the check is left out")
    skew_budget: dict[Cause, float] = Field(
        default_factory=dict, description="share of cells that may differ for each cause, over the defaults"
    )
    stale_after_s: float = Field(default=4 * 3600, gt=0, description="an event known for longer and not applied is no late one")


class Stage(Strict):
    """A stage lasts until it has seen so many predictions and so many hours, or ends early where the challenger is surely worse."""

    samples: int = Field(default=500, ge=1, description="predictions to be seen")
    labelled: int = Field(default=200, ge=0, description="of them with a truth")
    hours: float = Field(default=6, ge=0, le=24 * LONGEST_DAYS, description="hours that it lasts at least")
    patience_days: float = Field(
        default=30, gt=0, le=LONGEST_DAYS, description="a stage that has not seen enough by then ends without promotion"
    )


class Stages(Strict):
    """Shadow on the log, live shadow, sticky canary, probation after promotion; each can be reached only through the one before."""

    shadow: Stage = Field(default=Stage(), description="it scores beside the live version and answers nobody")
    canary: Stage = Field(default=Stage(), description="it answers a share of the keys")
    share: float = Field(default=0.2, gt=0, lt=1, description="of keys that the canary answers")
    probation: Stage = Field(
        default=Stage(samples=1000, labelled=500, hours=24), description="it is live, and the version before stays ready"
    )
    alpha: float = Field(default=0.01, gt=0, lt=0.5, description="chance of ending a challenger early that is no worse, whenever one looks")
    errors: float = Field(default=0.01, ge=0, description="share of failed requests by which a challenger may exceed the champion")
    latency: float = Field(default=1.5, gt=1, description="times the champion's p99 latency at most")
    latency_ms: float = Field(default=50, ge=0, description="a p99 below this ends nobody: a busy machine slows both, not always alike")


class Learning(Strict):
    triggers: Triggers = Field(default=Triggers(), description="what asks for a new training")
    retraining: Retraining = Field(default=Retraining(), description="what it is trained on then")
    challenge: ChallengeBounds = Field(default=ChallengeBounds(), description="what a challenger must reach")
    stages: Stages = Field(default=Stages(), description="how it is let out")
