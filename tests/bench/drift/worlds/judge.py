"""A case played to its end, and what the watch says at every step of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from feature_repo.records.prediction import Prediction
from feature_repo.records.verdict import Verdict
from feature_repo.triggers.base import Alarm
from serving.monitoring.hours import DAY_US
from serving.monitoring.triage.recomputation import Recomputed, compare
from serving.monitoring.triage.seen import Clues
from serving.monitoring.window import Row as Logged
from serving.monitoring.window import Window, judge
from streaming.profiles.lookup import Looked, Usual, violations
from streaming.skew.proof import SkewResult
from tests.bench.drift.worlds.cases import QUIET, Answer, Case
from tests.bench.drift.worlds.ground import Ground
from tests.bench.drift.worlds.pipe import Log
from tests.bench.drift.worlds.world import LIVE_DAYS, TRAINING_DAYS
from training.retraining.alarm import Row, after

NAME = "case"
SAMPLED = 300
"""Predictions of a window that are recomputed, evenly spread."""


@dataclass(frozen=True)
class Seen:
    """A window as the watch has it, with everything that it may ask.

    Attributes:
        log: the predictions of the window; its truths must be asked through `labels`.
        labels: the truths known by the window's end, of this window and of all before it, by prediction id.
        name: of the case's folder: `ground.settings_of(name)` are settings whose offline store has the raw rows of the case.
    """

    ground: Ground
    log: Log
    labels: dict[str, float]
    name: str

    @property
    def at_us(self) -> int:
        return self.log.predictions[-1].at_us

    @property
    def window(self) -> Window:
        """As the watch keeps it."""
        return Window(
            self.ground.reference, len(self.log), [(f"{p.at_us // 1000}-{n}", logged(p)) for n, p in enumerate(self.log.predictions)]
        )

    @cached_property
    def sample(self) -> Log:
        """Those that are recomputed."""
        rows = np.unique(np.linspace(0, len(self.log) - 1, min(SAMPLED, len(self.log))).astype(int))
        return Log([self.log.predictions[i] for i in rows], self.log.label[rows], self.log.known_us[rows])

    @property
    def clues(self) -> Clues:
        """What the watch knows beyond the window (`serving.monitoring.around`), without Redis."""
        ground = self.ground
        read = list(enumerate(self.log.predictions))

        def recompute() -> Recomputed:
            some = [read[i] for i in np.unique(np.linspace(0, len(read) - 1, min(SAMPLED, len(read))).astype(int))]
            matrix = self.window.matrix()[:, :-1]
            return compare(ground.case, ground.settings_of(self.name), ground.contract, some, matrix)

        def at_sources(from_us: int, upto_us: int) -> Looked:
            """What is usual stands in the calm history: the case's own store begins some days before it."""
            usual = Usual(ground.world.at(0), ground.world.live_us, ground.settings.offline_root)
            views, root = [p.view for p in ground.engine.plan], ground.settings_of(self.name).offline_root
            return violations(views, root, from_us, upto_us, usual, ground.case.expectations)

        sources = {p.alias: (p.view.path,) for p in ground.engine.plan}
        return Clues(calendar=ground.calendar, recompute=recompute, look=at_sources, sources=sources)

    def prove(self) -> SkewResult:
        """The skew proof over the sample, from the offline store of the case."""
        return self.ground.prove(self.sample, self.name)


def look(case: Case, seen: Seen) -> Verdict:
    """What the watch says of a window: the one place that knows how it is asked. `case` is for messages only: its truth must not be read."""
    try:
        return judge(seen.window, seen.ground.settings.drift_detector, labels=seen.labels, clues=seen.clues)
    except Exception as error:
        error.add_note(f"while judging {case.world}: {case.name}")
        raise


def logged(prediction: Prediction) -> Logged:
    """What the watch reads of it."""
    return Logged(**{name: getattr(prediction, name) for name in Logged.__struct_fields__})


class Said(msgspec.Struct, frozen=True):
    """One verdict of a case.

    Attributes:
        at_us: the window's newest prediction; `from_us`: its oldest.
        answer: what triage says happened; `quiet` where it says nothing.
        of: what it names first: the source or view of its evidence, then the views.
        drift, retrain, proof: of the verdict and its triage.
        row: what the verdicts have come to by then, as the loop reads them (`training.retraining.alarm`); None: nothing is odd.
    """

    at_us: int
    from_us: int
    answer: Answer
    of: list[str]
    drift: bool
    retrain: bool
    proof: bool
    row: Alarm | None = None

    @property
    def alarm(self) -> bool:
        return self.drift or self.answer != QUIET


def said(verdict: Verdict, row: Alarm | None = None) -> Said:
    triage = verdict.triage
    if triage is None:
        return Said(verdict.at_us, verdict.window.from_us, QUIET, [], verdict.drift, False, False, row)
    named = [e.of for e in triage.evidence if e.of and e.says == triage.cause][:1] or triage.views[:1]
    return Said(verdict.at_us, verdict.window.from_us, triage.cause, named, verdict.drift, triage.retrain, triage.proof, row)


def told(verdicts: Iterable[Verdict]) -> list[Said]:
    """Verdicts on one version, in order, each with what the loop makes of them."""
    found, row = [], Row()
    for verdict in verdicts:
        row = after(row, verdict)
        found.append(said(verdict, row.alarm))
    return found


@dataclass(frozen=True)
class Judged:
    """A case with every verdict from its beginning on, in order."""

    case: Case
    verdicts: list[Said]

    def right(self, one: Said) -> bool:
        """Whether a verdict says what happened, and names where, if it is of one place."""
        truth = self.case.truth
        if one.answer != truth.cause and one.answer not in truth.also:
            return False
        return not truth.of or one.answer == QUIET or bool(truth.of & set(one.of))

    @property
    def first(self) -> Said | None:
        """The first alarm."""
        return next((v for v in self.verdicts if v.alarm), None)

    @property
    def full(self) -> Said:
        """The first verdict on a window that is full of it; the last verdict where there is none."""
        whole = self.case.begins_us + int(self.case.full_days * DAY_US)
        if self.case.full_days and self.case.truth.cause == "concept change":  # its truths have to come in, too
            return next((v for v in self.verdicts if v.from_us >= self.case.begins_us and v.at_us >= whole), self.verdicts[-1])
        return next((v for v in self.verdicts if v.from_us >= whole), self.verdicts[-1])

    def days(self, one: Said | None) -> float:
        """From the beginning to a verdict; infinite where there is none."""
        return np.inf if one is None else (one.at_us - self.case.begins_us) / DAY_US

    @property
    def named(self) -> Said | None:
        """The first verdict that is right and is an alarm."""
        return next((v for v in self.verdicts if v.alarm and self.right(v)), None)


def windows(case: Case, ground: Ground) -> Iterator[Seen]:
    """Play a case: the windows from the first that holds something of it, a step apart, as the watch would come to them."""
    end_us = min(case.begins_us + int(case.days * DAY_US), ground.world.at(TRAINING_DAYS + LIVE_DAYS))
    tables = ground.drawn(case.begins_us, end_us, case.knobs, case.luck)
    before = ground.before(case.begins_us)
    log = before + ground.serve(tables, case.begins_us, end_us, case.faults, NAME)
    window, step = ground.world.window, ground.world.step
    for end in range(len(before) + step, len(log) + 1, step):
        part = log[end - window : end]
        yield Seen(ground, part, log[:end].truths(part.predictions[-1].at_us), NAME)


def judged(case: Case, ground: Ground) -> Judged:
    return Judged(case, told(look(case, seen) for seen in windows(case, ground)))
