"""The stages of a release: what a challenger has shown so far in one of them, and whether to go on, to wait, or to end it.

Quality is compared in pairs. In shadow both versions scored the same requests. As canary and in probation only the challenger answered;
what the other version would have said is computed from the very inputs that were logged, so the comparison is paired there too, and needs
neither equal keys nor equal hours. One looks as often as one likes: the test is valid at every moment (`training.comparison`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.learning import Stage, Stages
from training.counterfactual import NotComparable, Scored
from training.quality import Labelled
from training.trigger import DAY_US

Phase = Literal["shadow", "canary", "probation"]
Floats = NDArray[np.float64]
HOUR_US = 3_600_000_000


class Traffic(msgspec.Struct, frozen=True):
    """One version's requests, as the server counted them: answered, failed, and the latency histogram (upper bounds ms -> count)."""

    answered: int = 0
    failed: int = 0
    latency: dict[float, float] = {}

    def since(self, before: Traffic) -> Traffic:
        """What was added; a server that was started again counts from nothing."""
        if self.answered < before.answered or self.failed < before.failed:
            return self
        added = {bound: count - before.latency.get(bound, 0.0) for bound, count in self.latency.items()}
        return Traffic(self.answered - before.answered, self.failed - before.failed, added)

    @property
    def p99_ms(self) -> float | None:
        """The 99th percentile, interpolated within its bucket; None below 300 requests."""
        total, wanted, below, lower = self.latency.get(float("inf"), 0.0), 0.0, 0.0, 0.0
        if total < 300:
            return None
        wanted = 0.99 * total
        for bound, count in sorted(self.latency.items()):
            if count >= wanted:
                return lower if bound == float("inf") else lower + (bound - lower) * (wanted - below) / (count - below)
            lower, below = bound, count
        return None  # pragma: no cover


@dataclass(frozen=True)
class Evidence:
    """What a stage has seen of the challenger since it began.

    Attributes:
        samples: predictions.
        hours: of the predictions' time.
        label, challenger, other: the paired, labelled ones, arrays `[n]`, in the order in which their truth became known.
        day: of the paired ones, days since the epoch `[n]`: rows of a day share their circumstances.
        spread: of the challenger's gain between days, where the gates compared the two.
        traffic: challenger's and the other version's requests since the stage began; None where the server does not say.
        unpaired: why there is no comparison, if so.
    """

    samples: int
    hours: float
    label: Floats
    challenger: Floats
    other: Floats
    day: NDArray[np.int64]
    spread: float | None = None
    traffic: tuple[Traffic, Traffic] | None = None
    unpaired: str = ""


class Ruling(msgspec.Struct, frozen=True):
    """`go` to the next stage, `wait`, or `stop` the challenger; the text says why, with the numbers."""

    what: Literal["go", "wait", "stop"]
    text: str


def evidence(
    phase: Phase,
    rows: Labelled,
    challenger: Scored,
    other: Scored,
    since_us: int,
    now_us: int,
    spread: float | None,
    traffic: tuple[Traffic, Traffic] | None,
) -> Evidence:
    """Collect what a stage has seen.

    Args:
        rows: archived predictions with their truths, by moment.
        other: the champion, or in probation the version before.
        since_us: the stage's beginning; `now_us` is now, both in the predictions' time.
        spread: of the gain between days, as the gates found it.
    """
    mine = (rows.version == challenger.contract.version) & (rows.at_us >= since_us)
    mine &= rows.role == {"shadow": "shadow", "canary": "canary", "probation": "champion"}[phase]
    found = rows.where(mine)
    known = np.flatnonzero(~np.isnan(found.label))
    known = known[np.argsort(found.known_us[known], kind="stable")]  # a late truth comes last: what was concluded before stays so
    hours, paired = (now_us - since_us) / HOUR_US, found.take(known)
    if phase == "shadow":
        by_id = dict(zip(rows.table["prediction_id"].to_pylist(), rows.score.tolist(), strict=True))
        answers = [by_id.get(number, np.nan) for number in paired.table["shadow_of"].to_pylist()]
        theirs, why = np.array(answers, dtype=np.float64), ""
    else:
        try:
            theirs, why = other.score(paired.table), ""
        except NotComparable as error:
            theirs, why = np.full(len(paired.score), np.nan), str(error)
    both = np.isfinite(theirs)
    day = paired.at_us[both] // DAY_US
    return Evidence(len(found.score), hours, paired.label[both], paired.score[both], theirs[both], day, spread, traffic, why)


def rule(stage: Stage, stages: Stages, seen: Evidence) -> Ruling:
    """What follows from what was seen. Pure.

    Errors and latency end a challenger at once; quality as soon as it is surely worse; otherwise the stage lasts as long as it says.
    """
    from training.sequential import error_rate_worse, gains, sequential

    told = [f"{seen.samples:,} predictions in {seen.hours:.1f} h, {len(seen.label):,} with a truth"]
    if seen.traffic is not None:
        mine, theirs = seen.traffic
        asked, others = mine.answered + mine.failed, theirs.answered + theirs.failed
        if asked:
            told.append(f"{mine.failed:,} of {asked:,} requests failed")
            rates = error_rate_worse(theirs.failed, others, mine.failed, asked, stages.alpha)
            if rates.worse and rates.rate_b - rates.rate_a > stages.errors:
                return Ruling("stop", f"fails more often: {mine.failed:,} of {asked:,} requests, the other {theirs.failed:,} of {others:,}")
        p99, other = mine.p99_ms, theirs.p99_ms
        if p99 is not None and other is not None and p99 > max(stages.latency * other, stages.latency_ms):
            return Ruling("stop", f"slower: p99 {p99:.3g} ms, the other {other:.3g} ms, at most {stages.latency:g} times")
    verdict = None
    if len(seen.label):
        verdict = sequential(gains(seen.label, seen.other, seen.challenger), seen.day, seen.spread, stages.alpha)
        told.append(f"Brier score better by {verdict.text}")
        if verdict.verdict == "worse":
            return Ruling("stop", f"answers worse: {told[-1]}")
    if seen.unpaired:
        told.append(f"not compared: {seen.unpaired}")
    enough = seen.samples >= stage.samples and seen.hours >= stage.hours
    if enough and (len(seen.label) >= stage.labelled or seen.unpaired):
        # looked at once, so this test needs fewer rows than one that always holds
        if verdict is not None and verdict.z < _normal(stages.alpha):
            return Ruling("stop", f"answers worse, seen at the stage's end (z = {verdict.z:.2f}): {'; '.join(told)}")
        return Ruling("go", "; ".join(told))
    if seen.hours >= 24 * stage.patience_days:
        return Ruling("stop", f"has not seen enough in {stage.patience_days:g} days: {told[0]}")
    return Ruling("wait", "; ".join(told))


def _normal(alpha: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(alpha))
