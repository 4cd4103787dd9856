"""When to train again: policies compared on the same stream of examples, each with the models that it would have had.

The stream is the model's own training set, joined once: its vectors are those that serving would have read (the skew proof says so), so a
policy can be tried without serving anything. Day by day each policy's live model scores the examples of the day; in the evening its
triggers (`training.retraining.triggers`, the very ones of the autopilot) see what was known by then; a training gives a challenger on the splits of
`training.retraining.retrain.rolled`, which is compared with the live model as the gates do, and goes live after as many days as the stages take.

What is simpler than in the autopilot: stages pass by time alone, and the last split may hold truths that became known on its last evening.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from feature_repo.spec.model import ModelSpec
from feature_repo.triggers.base import DAY_US, Alarm, Facts
from feature_repo.triggers.quality import QualityDrop
from feature_repo.triggers.table import Limits, Triggers
from infra.timestamps import day_text, moment_at
from training.data.column_moments import micros
from training.data.splits import Part, SplitError, matrix
from training.evaluation import metrics
from training.modeling.fit import THREADS, fit_model
from training.monitoring import live_quality
from training.registration.reference_sample import chosen
from training.retraining import triggers
from training.retraining.retrain import rolled

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

    from training.data.training_set import TrainingSet

Floats = NDArray[np.float64]
Drift = Callable[["Model", Floats, NDArray[np.int64]], str]
"""(model, window, its moments) -> what changed, in words; empty: nothing that calls for a training. The window has the inputs, then the
score, float64 `[m, inputs + 1]`."""


@dataclass(frozen=True)
class Month:
    """One policy's live answers of one calendar month: rows, AUC, calibration error, log loss."""

    month: str
    rows: int
    auc: float
    calibration_error: float
    log_loss: float


@dataclass(frozen=True)
class Trained:
    """One training of a policy: its reason, whether the challenger passed, and when it went live."""

    day: str
    kind: str
    text: str
    passed: bool
    live: str | None
    difference: float


@dataclass
class Outcome:
    """What a policy came to."""

    policy: str
    months: list[Month] = field(default_factory=list)
    trainings: list[Trained] = field(default_factory=list)
    alarms: int = 0
    total: dict[str, float] = field(default_factory=dict)

    @property
    def promoted(self) -> int:
        return sum(t.passed for t in self.trainings)


def policies(spec: ModelSpec) -> dict[str, Triggers]:
    """The four that are compared; bounds, cooldown and budget are the spec's own where it has them."""
    own = spec.learning.triggers
    alone = {name: field.default for name, field in Triggers.model_fields.items() if name not in Limits.model_fields}
    return {
        "never": own.model_copy(update=alone),
        "monthly": own.model_copy(update=alone | {"schedule_days": 30.0, "cooldown_days": 0.0}),
        "on drift": own.model_copy(update=alone | {"drift": True, "drift_verdicts": own.drift_verdicts}),
        "on quality": own.model_copy(update=alone | {"quality": own.quality or QualityDrop()}),
    }


@dataclass(frozen=True)
class Model:
    """A version that a policy had.

    Attributes:
        test: its held-out rows.
        names: of the inputs, then `score`.
        views: where each input comes from.
        reference: rows of what it was trained on, `[n, inputs + 1]`, and their moments, ascending.
    """

    booster: lightgbm.Booster
    test: Part
    names: list[str]
    views: list[str]
    reference: Floats
    moments: NDArray[np.int64]

    @classmethod
    def fit(cls, spec: ModelSpec, training_set: TrainingSet) -> Model:
        """Only what is needed of it is kept: a fit holds all its rows."""
        fitted = fit_model(spec, training_set)
        parts = [fitted.parts[name] for name in ("train", "valid")]
        moments = np.concatenate([micros(part.table, spec.spine.timestamp) for part in parts])
        rows = chosen(moments)
        scores = np.concatenate([fitted.score(part) for part in parts])
        reference = np.column_stack([np.concatenate([part.matrix for part in parts])[rows], scores[rows]])
        names = [i.name for i in training_set.inputs]
        views = [i.source.split(":")[0] for i in training_set.inputs]
        return cls(fitted.booster, fitted.parts["test"], [*names, "score"], views, reference, moments[rows])

    def score(self, rows: Floats) -> Floats:
        return np.asarray(self.booster.predict(rows, num_threads=THREADS), dtype=np.float64)

    @cached_property
    def held_out(self) -> dict[str, float]:
        return metrics.metrics_of(self.test.label, self.score(self.test.matrix))


@dataclass(frozen=True)
class _Stream:
    table: pa.Table
    at_us: NDArray[np.int64]
    known_us: NDArray[np.int64]
    label: Floats

    def rows(self, first_us: int, last_us: int) -> slice:
        return slice(*np.searchsorted(self.at_us, [first_us, last_us]).tolist())


def live_through(
    spec: ModelSpec,
    training_set: TrainingSet,
    start_us: int,
    end_us: int,
    drift: Drift,
    *,
    stages_days: float = 4,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Live every policy through `[start, end)` (microseconds).

    Args:
        training_set: joined over the whole time, from the first training day on.
        drift: the watch's judgement on a window against a model's reference.
        stages_days: from a passed gate to the promotion.

    Raises:
        SplitError: the first model cannot be fitted.
    """
    stream = _read(spec, training_set)
    models: dict[int, Model] = {}

    def model(at_us: int) -> Model:
        if at_us not in models:
            models[at_us] = Model.fit(rolled(spec, at_us), training_set)
        return models[at_us]

    return [
        _live(name, policy, spec, training_set, stream, start_us, end_us, drift, stages_days, model, progress)
        for name, policy in policies(spec).items()
    ]


def _read(spec: ModelSpec, training_set: TrainingSet) -> _Stream:
    import pyarrow as pa
    import pyarrow.compute as pc

    from training.data.training_set import read

    table = read(training_set.path)
    table = table.filter(pc.is_valid(table[spec.spine.label])).sort_by(spec.spine.timestamp)
    at, known = (micros(table, c) for c in (spec.spine.timestamp, spec.spine.label_timestamp))
    return _Stream(table, at, known, table[spec.spine.label].cast(pa.float64()).to_numpy())


# wide: what one policy lives through; called once
def _live(
    name: str,
    policy: Triggers,
    spec: ModelSpec,
    training_set: TrainingSet,
    stream: _Stream,
    start_us: int,
    end_us: int,
    drift: Drift,
    stages_days: float,
    model: Callable[[int], Model],
    progress: Callable[[str], None],
) -> Outcome:
    outcome, live, known_upto, calls = Outcome(name), model(start_us), start_us, 0
    trained: list[int] = []
    waiting: tuple[int, int, Model] | None = None  # (goes live, trained at, model)
    begun, looked = start_us, start_us  # since when the live model answers; when drift was looked for last
    score = np.full(len(stream.label), np.nan)
    for day in range(start_us, end_us, DAY_US):
        if waiting is not None and day >= waiting[0]:
            _, known_upto, live = waiting
            begun, looked, waiting = day, day, None
        today = stream.rows(day, day + DAY_US)
        if today.start == today.stop:
            continue
        score[today] = live.score(matrix(stream.table.slice(today.start, today.stop - today.start), training_set.inputs))
        now = day + DAY_US
        progress(f"{name}: {day_text(day)}, {len(outcome.trainings)} trainings")
        truths = stream.known_us[stream.known_us < now]
        labelled = int(truths.max()) if len(truths) else None
        facts = Facts(now_us=now, known_upto_us=known_upto, labelled_us=labelled, trained_us=trained)
        mine = np.flatnonzero((stream.at_us >= begun) & (stream.at_us < now) & (stream.known_us < now))
        if policy.quality is not None and len(mine) >= policy.quality.window:
            recent = mine[-policy.quality.window :]
            estimate = live_quality.by_days(stream.label[recent], score[recent], stream.at_us[recent], policy.quality.metric)
            baseline = live.held_out.get(policy.quality.metric)
            facts = replace(facts, live=estimate, baseline=baseline)
        if policy.drift and now - looked >= 7 * DAY_US:
            looked, window = now, stream.rows(max(begun, now - 14 * DAY_US), now)
            seen = matrix(stream.table.slice(window.start, window.stop - window.start), training_set.inputs)
            text = drift(live, np.column_stack([seen, score[window]]), stream.at_us[window])
            outcome.alarms += bool(text)
            calls = calls + 1 if text else 0
            facts = replace(facts, alarm=Alarm(text, "change", now, calls) if text else None)
        reason = triggers.due(policy, facts)
        if reason is None or reason.held or waiting is not None:
            continue
        trained.append(now)
        calls = 0
        found = _challenge(spec, live, now, model)
        goes_live = now + round(stages_days * DAY_US)
        outcome.trainings.append(
            Trained(day_text(now), reason.kind, reason.text, found[1], day_text(goes_live) if found[1] else None, found[2])
        )
        if found[1] and found[0] is not None:
            waiting = (goes_live, now, found[0])
        else:
            known_upto = now if reason.kind == "schedule" else known_upto  # the schedule waits its turn again
    _sum_up(outcome, stream, score, start_us, end_us)
    return outcome


def _challenge(spec: ModelSpec, live: Model, now: int, model: Callable[[int], Model]) -> tuple[Model | None, bool, float]:
    """The challenger, whether it passes as the gates have it, and by how much it is better on its held-out rows."""
    from training.evaluation.comparison import ComparisonError
    from training.evaluation.comparison import compare as against

    try:
        challenger = model(now)
    except (SplitError, ValueError):
        return None, False, float("nan")
    part, asked = challenger.test, spec.learning.challenge
    day = micros(part.table, spec.spine.timestamp) // DAY_US
    try:
        found = against(part.label, live.score(part.matrix), challenger.score(part.matrix), asked.metric, groups=day)
    except ComparisonError:
        return challenger, False, float("nan")
    return challenger, found.low >= -asked.margin, found.difference


def _sum_up(outcome: Outcome, stream: _Stream, score: Floats, start_us: int, end_us: int) -> None:
    span = stream.rows(start_us, end_us)
    month = np.array([f"{moment_at(us):%Y-%m}" for us in (stream.at_us[span] // DAY_US * DAY_US).tolist()])
    label, scored = stream.label[span], score[span]
    for name in sorted(set(month.tolist())):
        rows = month == name
        m = metrics.metrics_of(label[rows], scored[rows])
        outcome.months.append(Month(name, int(rows.sum()), m["auc"], m["calibration_error"], m["log_loss"]))
    outcome.total = metrics.metrics_of(label, scored)
