"""`models/<name>.yaml`: what a model predicts, from what, how it is fitted and what it must reach."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from feature_repo.spec.retraining import Learning
from feature_repo.spec.yaml_file import Strict


class Span(Strict):
    """Days `[start, end)` in UTC."""

    start: date = Field(description="first day, UTC")
    end: date = Field(description="the day after the last, UTC")

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.start >= self.end:
            raise ValueError(f"start {self.start} must be before end {self.end}")
        return self

    def bounds(self) -> tuple[datetime, datetime]:
        midnight = datetime.min.time()
        return datetime.combine(self.start, midnight, UTC), datetime.combine(self.end, midnight, UTC)


class Spine(Strict):
    """The examples: one row per prediction that was or could have been asked for."""

    table: str = Field(description="table of the offline store")
    timestamp: str = Field(default="event_timestamp", description="moment of the prediction")
    id: list[str] = Field(description="columns that identify an example")
    label: str = Field(description="column with the truth: 0/1, null where there is none (never trained on)")
    label_timestamp: str = Field(description="moment the truth became known")


class Split(Strict):
    train: Span = Field(description="fitted on")
    valid: Span = Field(description="early stopping, calibration and gates")
    test: Span | None = Field(default=None, description="held out; none: valid stands for new data")


class Gate(Strict):
    """A bound a candidate must keep: `metric` on `on` within [`min`, `max`]."""

    metric: str = Field(description="name of a metric, or of a disparity between a slice's values")
    on: Literal["train", "valid", "test"] = Field(default="valid", description="the split it is measured on")
    slice: str | None = Field(default=None, description="a slice column: the bound holds for each of its values")
    min: float | None = Field(default=None, description="the least value that passes")
    max: float | None = Field(default=None, description="the greatest value that passes")

    @model_validator(mode="after")
    def _bounded(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError(f"gate on {self.metric!r} needs min or max")
        return self


class NullPolicy(Strict):
    """What a null input becomes: NaN for the model to handle, a default, or a refusal (422)."""

    action: Literal["nan", "default", "reject"] = Field(
        default="nan", description="nan: the model handles it; default: `value` takes its place; reject: the request is refused"
    )
    value: float | None = Field(default=None, description="what takes the place of null, for `default`")

    @model_validator(mode="after")
    def _value(self) -> NullPolicy:
        if (self.action == "default") != (self.value is not None):
            raise ValueError("null policy: `value` goes with action `default`, and only with it")
        return self


class Watch(Strict):
    """The watch's sliding window, in predictions: it should cover what the reference covers (days, not hours)."""

    window: int = Field(default=5000, ge=50, description="the newest predictions that are looked at")
    step: int = Field(default=1000, ge=1, description="predictions from one verdict to the next")


class CalendarSpec(Strict):
    """By whose clock and holidays the days are alike."""

    time_zone: str = Field(default="UTC", description="IANA name (Europe/Paris): by this clock the watch compares hours and weekdays")
    country: str = Field(default="", description="whose holidays count (ISO 3166: FR); empty: none do")
    subdivision: str = Field(default="", description="of the country, for its own holidays (ISO 3166: NY)")
    around: int = Field(default=2, ge=0, le=14, description="days before and after a holiday that are unlike other days, too")

    @model_validator(mode="after")
    def _known(self) -> CalendarSpec:
        try:
            ZoneInfo(self.time_zone)
        except (ValueError, OSError, KeyError):
            raise ValueError(f"time_zone {self.time_zone!r} is no IANA time zone (example: Europe/Paris)") from None
        if self.country:
            import holidays

            known = holidays.list_supported_countries()
            if self.country not in known:
                raise ValueError(f"no holidays are known of country {self.country!r} (ISO 3166; example: FR)")
            if self.subdivision and self.subdivision not in known[self.country]:
                has = ", ".join(known[self.country]) or "none"
                raise ValueError(f"country {self.country} has no subdivision {self.subdivision!r}; it has {has}")
        elif self.subdivision:
            raise ValueError("a subdivision needs its country")
        return self


Bounds = tuple[float, float | None]
"""A warning above the first, a refusal to train above the second; null: never a refusal."""


class Validation(Strict):
    """Bounds of the checks before training, against the set that the live version was trained on (docs/training.md)."""

    nulls: Bounds = Field(default=(0.1, 0.5), description="rise of an input's null rate")
    outside: Bounds = Field(default=(0.001, 0.05), description="share of an input's values outside its former range, widened")
    widen: float = Field(default=2.0, ge=0, description="by how many times its width a range is widened at both ends")
    drift: Bounds = Field(default=(0.2, None), description="population stability index of an input; drift is what one retrains for")
    base_rate: Bounds = Field(default=(0.05, 0.25), description="change of the label's base rate, absolute")
    shrink: Bounds = Field(default=(0.5, 0.9), description="share of the former number of rows that is gone")


class Search(Strict):
    """Parameters to look for with Optuna, when `headrace train --tune` asks. A space of integers is searched in integers; one that spans
    a factor of ten or more, by its logarithm."""

    trials: int = Field(default=20, ge=1, description="how many are tried")
    seconds: float | None = Field(default=None, gt=0, description="time budget: with one, what is found may depend on the machine")
    space: dict[str, tuple[int, int] | tuple[float, float]] = Field(
        default_factory=lambda: {
            "num_leaves": (15, 127),
            "learning_rate": (0.02, 0.2),
            "min_data_in_leaf": (20, 1000),
            "feature_fraction": (0.2, 1.0),
            "lambda_l2": (0.01, 100.0),
        },
        description="LightGBM parameter to [lowest, highest]",
    )

    @field_validator("space")
    @classmethod
    def _ordered(cls, space: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in space.items():
            if low >= high:
                raise ValueError(f"{name}: {low} must be below {high}")
        _refuse_ours(space)
        return space


class Imbalance(Strict):
    """Positives count `positive_weight` times while fitting; the scores are put back to the true odds (docs/training.md)."""

    positive_weight: float = Field(gt=0, description="how many times a positive counts")


_OURS = {"seed", "deterministic", "num_threads", "objective"}
_WEIGHTS = {"scale_pos_weight", "is_unbalance", "unbalance", "unbalanced_sets"}


def _refuse_ours(parameters: dict[str, Any]) -> None:
    if clash := _OURS & parameters.keys():
        raise ValueError(f"set by Headrace, not by the spec: {', '.join(sorted(clash))}")
    if clash := _WEIGHTS & parameters.keys():
        raise ValueError(f"{', '.join(sorted(clash))} would make the scores no probabilities: say `imbalance: {{positive_weight: ...}}`")


class ModelSpec(Strict):
    """`models/<name>.yaml`: what a model predicts, from what, how it is fitted and what it must reach."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="of the model: lower case letters, digits, underscores")
    description: str = Field(default="", description="for people")
    feature_service: str = Field(description="the Feast feature service whose features it reads")
    spine: Spine = Field(description="the examples that it learns from")
    label_delay: str = Field(default="", description="for people: when the truth is usually known")
    split: Split = Field(description="which days it is fitted on, validated on and tested on")
    parameters: dict[str, Any] = Field(default_factory=dict, description="LightGBM parameters")
    rounds: int = Field(default=500, ge=1, description="trees at most")
    early_stopping: int = Field(default=30, ge=1, description="rounds without a gain on valid after which fitting ends")
    nulls: dict[str, NullPolicy] = Field(default_factory=dict, description="by input name; otherwise `nan`")
    gates: list[Gate] = Field(default_factory=list, description="bounds that a version must keep to be registered")
    slices: list[str] = Field(default_factory=list, description="spine columns to report metrics by")
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="score from which on a prediction counts as a yes, in tables of decisions"
    )
    calibration: Literal["none", "sigmoid"] = Field(default="none", description="fitted on valid, part of the exported model")
    imbalance: Imbalance | None = Field(default=None, description="more weight for rare positives")
    search: Search = Field(default=Search(), description="parameters to look for with `train --tune`")
    validation: Validation = Field(default=Validation(), description="bounds of the checks before training")
    watch: Watch = Field(default=Watch(), description="how live predictions are watched for drift")
    calendar: CalendarSpec = Field(default=CalendarSpec(), description="the clock and the holidays that people live by")
    learning: Learning = Field(default=Learning(), description="when it is trained again, and how a challenger is let out")
    deadline_ms: int = Field(default=1000, ge=1, description="default deadline of a request")

    @field_validator("parameters")
    @classmethod
    def _ours(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        _refuse_ours(parameters)
        return parameters
