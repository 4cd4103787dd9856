"""When to train again: policies compared on the same stream of examples, each with the models that it would have had.

The stream is the model's own training set, joined once: its vectors are those that serving would have read (the skew proof says so), so a
policy can be tried without serving anything. Day by day each policy's live model scores the examples of the day; in the evening its
triggers (`training.retraining.triggers`, the very ones of the autopilot) see what was known by then; a training gives a challenger on the splits of
`training.retraining.retrain.rolled`, which is compared with the live model as the gates do, and goes live after as many days as the stages take.

Drift is judged as the watch judges it, with triage, on windows and steps of the spec; verdicts become an alarm by `training.retraining.alarm`.

What is simpler than in the autopilot: stages pass by time alone, and the last split may hold truths that became known on its last evening.
Two policies are no loop of ours: *on drift, never held* takes every suspicion and proof for a change, and *refit* fits the leaves of the live
model anew each week on the newest truths, and lets the result answer at once, without gates or stages (each counts as a training).

What a hold costs is told beside how long it was: a day held is *dear* where, in the week around it, another policy's answers were better than
this one's by more than the margin of the challenge (mean log loss). Held days that are not dear cost nothing that a training would have saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from feature_repo.metrics.table import METRICS
from feature_repo.records.verdict import Verdict
from feature_repo.spec.model import ModelSpec
from feature_repo.triggers.base import DAY_US, Facts
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
from training.retraining.alarm import Row, after
from training.retraining.retrain import rolled

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

    from training.data.training_set import TrainingSet

Floats = NDArray[np.float64]
Drift = Callable[["Model", int, Floats, NDArray[np.int64], Floats], Verdict]
"""(model, its number, window, its moments, truths known by now) -> verdict. The window has the inputs, then the score, float64
`[m, inputs + 1]`; truths `[m]`, NaN where unknown."""
NEVER_HELD, REFIT = "on drift, never held", "refit"
REFIT_DAYS, REFIT_ROWS, REFIT_DECAY = 7, 20_000, 0.9
"""Leaves are fitted anew so often, on the newest truths, and keep so much of their old values."""
AROUND_DAYS = 3
"""A day's log loss is told with so many days before and after it."""


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
    """What a policy came to.

    Attributes:
        alarms: verdicts that raised one.
        held_days: days on which a suspected or proven fault kept it from training, whatever else did.
        dear_days: how many of these cost answers (see above).
    """

    policy: str
    months: list[Month] = field(default_factory=list)
    trainings: list[Trained] = field(default_factory=list)
    alarms: int = 0
    held_days: int = 0
    dear_days: int = 0
    total: dict[str, float] = field(default_factory=dict)

    @property
    def promoted(self) -> int:
        return sum(t.passed for t in self.trainings)


def policies(spec: ModelSpec) -> dict[str, Triggers]:
    """Those that are compared; bounds, cooldown and budget are the spec's own where it has them."""
    own = spec.learning.triggers
    alone = {name: field.default for name, field in Triggers.model_fields.items() if name not in Limits.model_fields}
    return {
        "never": own.model_copy(update=alone),
        "monthly": own.model_copy(update=alone | {"schedule_days": 30.0, "cooldown_days": 0.0}),
        "on drift": own.model_copy(update=alone | {"drift": True, "drift_verdicts": own.drift_verdicts}),
        NEVER_HELD: own.model_copy(update=alone | {"drift": True, "drift_verdicts": own.drift_verdicts, "hold_days": 0.0}),
        "on quality": own.model_copy(update=alone | {"quality": own.quality or QualityDrop()}),
        REFIT: own.model_copy(update=alone),
    }


@dataclass(frozen=True)
class Model:
    """A version that a policy had.

    Attributes:
        test: its held-out rows.
        names: of the inputs, then `score`.
        views: where each input comes from.
        reference: rows of what it was trained and validated on, `[n, inputs + 1]`; with their moments, ascending, and truths `[n]`.
        validated: of these the ones of validation, bool `[n]`.
        whole: inputs that are whole numbers, bool `[inputs]`.
    """

    booster: lightgbm.Booster
    test: Part
    names: list[str]
    views: list[str]
    reference: Floats
    moments: NDArray[np.int64]
    truths: Floats
    validated: NDArray[np.bool_]
    whole: NDArray[np.bool_]

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
        truths = np.concatenate([part.label for part in parts])[rows]
        validated = np.concatenate([np.full(len(part.label), part is parts[1]) for part in parts])[rows]
        whole = np.array([i.dtype in ("int64", "int32") for i in training_set.inputs])
        return cls(fitted.booster, fitted.parts["test"], [*names, "score"], views, reference, moments[rows], truths, validated, whole)

    def refitted(self, rows: Floats, label: Floats) -> Model:
        """The same trees with leaves fitted on these rows."""
        booster = self.booster.refit(rows, label, decay_rate=REFIT_DECAY, num_threads=THREADS)
        return dataclass_replace(self, booster=booster)

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

    lives = []
    for name, policy in policies(spec).items():
        life = _Life(spec, training_set, stream, drift, model, policy, Outcome(name), start_us)
        for day in range(start_us, end_us, DAY_US):
            progress(f"{name}: {day_text(day)}, {len(life.outcome.trainings)} trainings")
            life.day(day, stages_days)
        _sum_up(life.outcome, stream, life.score, start_us, end_us)
        lives.append(life)
    _count_dear(lives, stream, spec.learning.challenge.margin)
    return [life.outcome for life in lives]


def _read(spec: ModelSpec, training_set: TrainingSet) -> _Stream:
    import pyarrow as pa
    import pyarrow.compute as pc

    from training.data.training_set import read

    table = read(training_set.path)
    table = table.filter(pc.is_valid(table[spec.spine.label])).sort_by(spec.spine.timestamp)
    at, known = (micros(table, c) for c in (spec.spine.timestamp, spec.spine.label_timestamp))
    return _Stream(table, at, known, table[spec.spine.label].cast(pa.float64()).to_numpy())


class _Life:
    """One policy living through the stream.

    Args:
        model: that of a moment (microseconds).

    Attributes:
        score: what was answered, float64, of every row of the stream; NaN where nothing was.
        judged: where the newest verdict's rows ended.
        waiting: a challenger in its stages: when it goes live, when it was trained, the model.
    """

    # wide: what one policy lives through
    def __init__(
        self,
        spec: ModelSpec,
        training_set: TrainingSet,
        stream: _Stream,
        drift: Drift,
        model: Callable[[int], Model],
        policy: Triggers,
        outcome: Outcome,
        start_us: int,
    ) -> None:
        self.spec, self.training_set, self.stream, self.drift, self.model = spec, training_set, stream, drift, model
        self.policy, self.outcome, self.score = policy, outcome, np.full(len(stream.label), np.nan)
        self.live, self.number, self.begun, self.known_upto = model(start_us), 1, start_us, start_us
        self.row, self.judged = Row(1), 0
        self.trained: list[int] = []
        self.held: list[int] = []
        self.failed_us: int | None = None
        self.waiting: tuple[int, int, Model] | None = None

    def day(self, day: int, stages_days: float) -> None:
        """Answers, then the evening: verdicts, triggers, and a training where one is due. Nothing where nobody asked."""
        self.begin(day)
        today, now = self.stream.rows(day, day + DAY_US), day + DAY_US
        if today.start == today.stop:
            return
        self.answer(today)
        if self.outcome.policy == REFIT:
            self.refit(now)
        if self.policy.drift:
            self.watch(now)
        if self.waiting is not None:  # one challenger at a time: the triggers are not asked
            return
        facts = self.facts(now)
        reason = triggers.due(self.policy, facts)
        if reason is not None and not reason.held:
            self.train(reason, now, now + round(stages_days * DAY_US))
        elif triggers.held_by_fault(self.policy, facts):
            self.held.append(day)

    def begin(self, day: int) -> None:
        """A challenger whose stages have passed answers from here on."""
        if self.waiting is not None and day >= self.waiting[0]:
            _, self.known_upto, self.live = self.waiting
            self.begun, self.waiting, self.number = day, None, self.number + 1
            self.row, self.judged = Row(self.number), self.stream.rows(day, day).start

    def answer(self, today: slice) -> None:
        rows = self.stream.table.slice(today.start, today.stop - today.start)
        self.score[today] = self.live.score(matrix(rows, self.training_set.inputs))

    def facts(self, now: int) -> Facts:
        """What is known in the evening."""
        stream, policy = self.stream, self.policy
        truths = stream.known_us[stream.known_us < now]
        found = Facts(
            now_us=now,
            known_upto_us=self.known_upto,
            labelled_us=int(truths.max()) if len(truths) else None,
            trained_us=self.trained,
            failed_us=self.failed_us,
            alarm=self.row.alarm,
        )
        mine = np.flatnonzero((stream.at_us >= self.begun) & (stream.at_us < now) & (stream.known_us < now))
        if policy.quality is not None and len(mine) >= policy.quality.window:
            recent = mine[-policy.quality.window :]
            estimate = live_quality.by_days(stream.label[recent], self.score[recent], stream.at_us[recent], policy.quality.metric)
            found = replace(found, live=estimate, baseline=self.live.held_out.get(policy.quality.metric))
        return found

    def watch(self, now: int) -> None:
        """The verdicts of the day, one after the other, as the watch comes to them."""
        window, step = self.spec.watch.window, self.spec.watch.step
        first, end = self.stream.rows(self.begun, now).start, self.stream.rows(now, now).start
        self.judged = max(self.judged, first)
        while (upto := max(self.judged + step, first + window)) <= end:
            rows = slice(upto - window, upto)
            seen = matrix(self.stream.table.slice(rows.start, window), self.training_set.inputs)
            known = np.where(self.stream.known_us[rows] < self.stream.at_us[upto - 1], self.stream.label[rows], np.nan)
            verdict = self.drift(self.live, self.number, np.column_stack([seen, self.score[rows]]), self.stream.at_us[rows], known)
            self.outcome.alarms += verdict.triage is not None
            if self.outcome.policy == NEVER_HELD and verdict.triage is not None:
                verdict = replace(verdict, triage=replace(verdict.triage, retrain=True, proof=False))
            self.row, self.judged = after(self.row, verdict), upto

    def train(self, reason: triggers.Reason, now: int, live_us: int) -> None:
        self.row = replace(self.row, alarm=None, quiet=0)
        made, passed, difference = _challenge(self.spec, self.live, now, self.model)
        live = day_text(live_us) if passed else None
        self.outcome.trainings.append(Trained(day_text(now), reason.kind, reason.text, passed, live, difference))
        if made is None:  # it counts for neither cooldown nor budget, and has a rest of its own
            self.failed_us = now
            return
        self.failed_us = None
        self.trained.append(now)
        if passed:
            self.waiting = (live_us, now, made)
        elif reason.kind == "schedule":  # the schedule waits its turn again
            self.known_upto = now

    def refit(self, now: int) -> None:
        known = np.flatnonzero((self.stream.known_us < now) & (self.stream.at_us < now))[-REFIT_ROWS:]
        if len(known) and (now - self.begun) // DAY_US % REFIT_DAYS == 0:
            rows = matrix(self.stream.table.take(known), self.training_set.inputs)
            self.live = self.live.refitted(rows, self.stream.label[known])
            day = day_text(now)
            self.outcome.trainings.append(Trained(day, REFIT, "leaves fitted on the newest truths", True, day, float("nan")))


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


def _count_dear(lives: list[_Life], stream: _Stream, margin: float) -> None:
    """Of the days held, those around which another policy's answers were better by more than the margin (mean log loss)."""
    log_loss = METRICS["log_loss"]
    for life in lives:
        life.outcome.held_days = len(life.held)
        for day in life.held:
            rows = stream.rows(day - AROUND_DAYS * DAY_US, day + (AROUND_DAYS + 1) * DAY_US)
            answered = np.flatnonzero(~np.isnan(life.score[rows]))
            losses = {o.outcome.policy: log_loss.value(stream.label[rows][answered], o.score[rows][answered]) for o in lives}
            life.outcome.dear_days += losses[life.outcome.policy] - min(losses.values()) > margin


def _sum_up(outcome: Outcome, stream: _Stream, score: Floats, start_us: int, end_us: int) -> None:
    span = stream.rows(start_us, end_us)
    month = np.array([f"{moment_at(us):%Y-%m}" for us in (stream.at_us[span] // DAY_US * DAY_US).tolist()])
    label, scored = stream.label[span], score[span]
    for name in sorted(set(month.tolist())):
        rows = month == name
        m = metrics.metrics_of(label[rows], scored[rows])
        outcome.months.append(Month(name, int(rows.sum()), m["auc"], m["calibration_error"], m["log_loss"]))
    outcome.total = metrics.metrics_of(label, scored)
