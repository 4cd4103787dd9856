"""Enough examples have a truth that the live version did not know."""

from __future__ import annotations

from pydantic import Field

from feature_repo.triggers import base
from feature_repo.triggers.base import DAY_US, Facts, Trigger


class Settings(base.Settings):
    new_labels: int | None = Field(default=None, ge=1, description="so many examples with a truth that the champion did not know")


class NewData(Trigger[Settings]):
    """Counts the examples whose truth became known after the live version's knowledge cut-off."""

    kind = "new_data"
    example = (
        {"new_labels": 1000},
        Facts(now_us=400 * DAY_US, known_upto_us=399 * DAY_US, labelled_us=400 * DAY_US, new_labels=1000),
    )

    def wanted(self, asked: Settings) -> bool:
        return asked.new_labels is not None

    def fires(self, asked: Settings, facts: Facts) -> str | None:
        if asked.new_labels is None or facts.new_labels < asked.new_labels:
            return None
        return f"{facts.new_labels:,} new examples with a truth (asked: {asked.new_labels:,})"
