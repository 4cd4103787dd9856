"""The watch says that the population has changed."""

from __future__ import annotations

from pydantic import Field

from feature_repo.triggers import base
from feature_repo.triggers.base import DAY_US, Facts, Trigger


class Settings(base.Settings):
    drift: bool = Field(default=False, description="the watch says that the population has changed (a fault of a pipeline never trains)")
    drift_verdicts: int = Field(default=2, ge=1, description="so many verdicts in a row must say so: a fault's first ones can look like it")


class Drift(Trigger[Settings]):
    """Fires where the watch's verdicts call for a training, so many in a row."""

    kind = "drift"
    example = (
        {"drift": True},
        Facts(now_us=400 * DAY_US, known_upto_us=399 * DAY_US, labelled_us=400 * DAY_US, drift="population change: temp"),
    )

    def wanted(self, asked: Settings) -> bool:
        return asked.drift

    def fires(self, asked: Settings, facts: Facts) -> str | None:
        return facts.drift if asked.drift and facts.drift else None
