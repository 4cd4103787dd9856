"""The live version has become old."""

from __future__ import annotations

from pydantic import Field

from feature_repo.triggers import base
from feature_repo.triggers.base import DAY_US, LONGEST_DAYS, Facts, Trigger


class Settings(base.Settings):
    schedule_days: float | None = Field(default=None, gt=0, le=LONGEST_DAYS, description="so long after the champion's knowledge cut-off")


class Schedule(Trigger[Settings]):
    """Fires so many days after the moment up to which the live version knew the world."""

    kind = "schedule"
    example = ({"schedule_days": 30}, Facts(now_us=400 * DAY_US, known_upto_us=370 * DAY_US, labelled_us=400 * DAY_US))

    def wanted(self, asked: Settings) -> bool:
        return asked.schedule_days is not None

    def fires(self, asked: Settings, facts: Facts) -> str | None:
        if asked.schedule_days is None or facts.known_upto_us is None:
            return None
        age = (facts.now_us - facts.known_upto_us) / DAY_US
        if age < asked.schedule_days:
            return None
        return f"the live version knows nothing of the last {age:.1f} days (schedule: {asked.schedule_days:g})"
