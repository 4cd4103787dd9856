"""Every trigger, in the order in which they are asked; one that is not here is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from feature_repo.triggers import base, drift, new_data, quality, schedule
from feature_repo.triggers.base import Trigger
from feature_repo.triggers.request import Request

TRIGGERS: tuple[Trigger[Any], ...] = (Request(), schedule.Schedule(), new_data.NewData(), quality.Quality(), drift.Drift())
if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(trigger.kind for trigger in TRIGGERS)]


class Limits(base.Settings):
    """What holds every trigger but a person."""

    cooldown_days: float = Field(default=7, ge=0, le=base.LONGEST_DAYS, description="between two trainings that nobody asked for")
    budget: int = Field(default=12, ge=0, description="trainings that nobody asked for, at most, in `budget_days`")
    budget_days: float = Field(default=365, gt=0, le=base.LONGEST_DAYS, description="days that the budget is for")


class Triggers(Limits, drift.Settings, quality.Settings, new_data.Settings, schedule.Settings):
    """What asks for a new training; a person always may. Times are the predictions' own."""

    @property
    def any(self) -> bool:
        """Whether anything but a person asks for a training."""
        return any(trigger.wanted(self) for trigger in TRIGGERS)
