"""What goes out over HTTP: the shapes of a prediction's answer."""

from __future__ import annotations

from typing import Any

import msgspec


class Contribution(msgspec.Struct, frozen=True):
    """How far one input moved the raw margin; `value` is what the model saw (null: none)."""

    name: str
    value: float | None
    contribution: float


class FeatureValue(msgspec.Struct, frozen=True):
    """`value` as stored (a stale one is shown, though the model saw null); `age_s` in seconds, null where there is no row."""

    value: float | None
    status: str
    age_s: float | None


class Statuses(msgspec.Struct, frozen=True):
    """How many of the model's stored features were in each state, and the state of each that was not fresh."""

    fresh: int
    stale: int
    null: int
    missing: int
    not_fresh: dict[str, str]


class Scored(msgspec.Struct, frozen=True, omit_defaults=True):
    prediction_id: str
    score: float
    statuses: Statuses
    features: dict[str, FeatureValue] | msgspec.UnsetType = msgspec.UNSET
    views: dict[str, dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    contributions: list[Contribution] | msgspec.UnsetType = msgspec.UNSET


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds."""

    read: float
    score: float
    total: float


class Answer(msgspec.Struct, frozen=True):
    model: str
    model_version: int
    predictions: list[Scored]
    timings_ms: Timings
