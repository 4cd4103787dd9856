"""What the watch says: the verdict on one window of predictions, and where all verdicts are kept.

Written by `serving.monitoring.watch` (Redis string `prediction.drift_key`, and the history file), read by the HTTP API, metrics and the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from infra import files
from infra.settings import Settings

Kind = Literal["alibi", "scipy"]


class FeatureVerdict(msgspec.Struct, frozen=True):
    """One column of one window.

    Attributes:
        p_value: the smallest over what was tested, adjusted for all columns of the window.
        effect: Kolmogorov–Smirnov statistic of the non-null values, 0..1.
        null_rate, reference_null_rate: 0..1; the reference's in the window's mix of weekdays and hours.
        cause: what drifted the most (`DriftKind.cause`, or `values and nulls`); empty where nothing did. Histories written before
            `repeated` have `stuck` for it.
        unseen: share of the non-null values that lie out of the reference's range, or are codes it does not know.
        commonest: share of the commonest of the non-null values (1: the column is stuck).
        usual: the largest KS statistic of the reference's own windows; 0 where that is not known.
        kinds: all of `serving.monitoring.kinds.table.KINDS` that drifted.
    """

    name: str
    p_value: float
    effect: float
    null_rate: float
    reference_null_rate: float
    drift: bool
    cause: str = ""
    unseen: float = 0.0
    commonest: float = 0.0
    usual: float = 0.0
    kinds: list[str] = []

    @property
    def size(self) -> float:
        """The larger of the two effects (both are gaps between probabilities); what tables are sorted by."""
        return max(self.effect, abs(self.null_rate - self.reference_null_rate))


class OutlierVerdict(msgspec.Struct, frozen=True):
    """
    Attributes:
        share: share of the window's rows beyond the reference's threshold, 0..1.
        nominal: the share expected without drift.
        p_value: probability of at least this share without drift.
    """

    share: float
    nominal: float
    p_value: float
    alarm: bool


class Span(msgspec.Struct, frozen=True):
    """The predictions a verdict is about: how many, and the first and last one's own moment (microseconds since the epoch, UTC).

    Attributes:
        core: the same without the few that lie far from all others: a client's clock may be wrong. None in verdicts of older versions.
    """

    rows: int
    from_us: int
    to_us: int
    core: tuple[int, int] | None = None


class Suspect(msgspec.Struct, frozen=True):
    """One input that drifted, by what it does to the scores.

    Attributes:
        view: where the input comes from.
        score_effect: mean absolute change of the window's scores if the input were as the reference has it; None without a model.
        evidence: what speaks for a fault; empty where nothing does.
    """

    name: str
    view: str
    score_effect: float | None
    evidence: str = ""


Reason = Literal["pipeline fault", "training/serving skew", "population change", "concept change", "calendar", "unclear"]
Place = Literal["source", "recomputation", "lineage", "truth", "calendar", "shape"]


class Evidence(msgspec.Struct, frozen=True):
    """One thing that was found, so that a person can check it.

    Attributes:
        place: where it was looked: in the raw rows of a source, in a recomputation of what was served, in which inputs drifted together,
            in the truths, in the calendar, or in the shape of one column.
        of: the source or view that it is about; empty: it is about none.
        says: what it speaks for.
        text: a clause that names the figures.
        proof: whether it proves what it says. Everything else is suspicion.
        odds: how many times likelier this is under what it says than otherwise, as measured on the reference; None: not measured.
        rows: a few of the rows that show it, as text: predictions by their id, or rows of a source.
        since_us: from when on, microseconds since the epoch (UTC); None: not known.
    """

    place: Place
    of: str
    says: Reason
    text: str
    proof: bool = False
    odds: float | None = None
    rows: list[str] = []
    since_us: int | None = None


class Triage(msgspec.Struct, frozen=True):
    """Why a window drifted, and so who has to act (`serving.monitoring.triage`).

    Attributes:
        cause: what most likely happened.
        detail: a sentence for whoever has to act.
        views: a fault's: those that caused it, the worst first. Otherwise those of the inputs that drifted.
        features: the inputs that drifted, the largest effect on the scores first.
        retrain: whether a new model would help. Changes of population and concept say so, and what is unclear.
        proof: whether the cause is proven. A cause that is not is a suspicion: it holds a training for `hold_days` at most.
        evidence: what was found, the strongest first.
        sure: how likely the cause is, 0..1; None in verdicts of older versions.
    """

    cause: Reason
    detail: str
    views: list[str]
    features: list[Suspect]
    retrain: bool
    proof: bool = False
    evidence: list[Evidence] = []
    sure: float | None = None


class Calibrated(msgspec.Struct, frozen=True):
    """What the alarm's rate rests on.

    Attributes:
        nominal: the share of windows without drift that may be called drift.
        windows: windows of the reference that this one was ranked among.
        blocks: how many of them it holds end to end; below about 20 the rate is only roughly known.
        hours: their length.
    """

    nominal: float
    windows: int
    blocks: float
    hours: float


class Answers(msgspec.Struct, frozen=True):
    """What the truths of a window say, against what its scores let expect (`serving.monitoring.triage.truth`).

    Attributes:
        known: how many truths are known; where they are too few (0 says so too), only the estimate is told.
        mean, usual: of the truths, and of the reference's.
        by_inputs: the part of the move that the scores expect: the inputs have moved, and the truth with them.
        by_concept: the rest: the same scores have another truth.
        p_value: the chance of a rest so large where nothing has changed.
        changed: whether the concept has.
        loss, expected_loss: mean squared error of the scores that have a truth, and what it would be if the concept were the old one.
        estimated_loss, usual_loss: the same of all scores of the window, whether their truth is known or not, and of the reference.
    """

    known: int
    mean: float | None
    usual: float
    by_inputs: float | None
    by_concept: float | None
    p_value: float | None
    changed: bool
    loss: float | None
    expected_loss: float | None
    estimated_loss: float
    usual_loss: float


class Verdict(msgspec.Struct, frozen=True):
    """What the watch says of one window of one model version.

    Attributes:
        id: `<version>@<stream id of the newest prediction>`: the same window always gets the same id.
        at_us: the newest prediction's own moment, microseconds since the epoch (UTC).
        drift: any input, or the score.
        skipped: log entries that could not be judged so far (malformed, trimmed, or of a version without a readable contract).
        triage: why it drifted; None where it did not, and nothing else is wrong.
        calibrated: None where the reference has no moments: then p-values take successive predictions for independent.
        degraded: share of values not served, by view: `stale`, `null`, `missing` (views where all were fresh are left out).
        oldest_s: age of the oldest value among a view's 99 % freshest, by view, in seconds; what is missing has none.
        label: the base rate of those predictions whose truth was known by then; it calls no drift by itself (what a changed base rate
            does to the answers is live quality's business). None where too few truths were known.
        answers: how truths go with scores; None where the reference has no truths.
    """

    id: str
    model: str
    version: int
    at_us: int
    window: Span
    drift: bool
    features: list[FeatureVerdict]
    score: FeatureVerdict
    outliers: OutlierVerdict
    detector: Kind
    skipped: int = 0
    triage: Triage | None = None
    calibrated: Calibrated | None = None
    degraded: dict[str, dict[str, float]] = {}
    oldest_s: dict[str, float] = {}
    label: FeatureVerdict | None = None
    answers: Answers | None = None


def history_path(settings: Settings, model: str) -> Path:
    """Where every verdict is kept: one JSON object per line, oldest first."""
    return settings.state / "watch" / f"{model}.jsonl"


def history(settings: Settings, model: str) -> list[Verdict]:
    """Every verdict so far, oldest first; a line cut short by a kill is left out, a broken one as well, and is named."""
    return files.read_lines(history_path(settings, model), Verdict)
