"""The stages of a release: what a challenger has shown so far in one of them, and whether to go on, to wait, or to end it.

Quality is compared in pairs. In shadow both versions scored the same requests. As canary and in probation only the challenger answered;
what the other version would have said is computed from the very inputs that were logged, so the comparison is paired there too, and needs
neither equal keys nor equal hours. One looks as often as one likes: the test is valid at every moment (`training.evaluation.comparison`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.spec.retraining import Stage, Stages
from feature_repo.triggers.base import DAY_US
from training.evaluation.rescoring import NotComparable, Rescorer
from training.monitoring.live_quality import Labelled

Phase = Literal["shadow", "canary", "probation"]
Floats = NDArray[np.float64]
HOUR_US = 3_600_000_000


class Traffic(msgspec.Struct, frozen=True):
    """One version's requests, as all replicas counted them: answered, failed by a fault of the server, the latency histogram
    (upper bounds ms -> cumulative count), and the predictions in the answers."""

    answered: int = 0
    failed: int = 0
    latency: dict[float, float] = {}
    instances: int = 0

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

    @property
    def slowest_ms(self) -> float:
        """An upper bound of every request's latency, however few there were; infinite where none was timed."""
        total = self.latency.get(float("inf"), 0.0)
        return min((bound for bound, count in self.latency.items() if count >= total), default=float("inf")) if total else float("inf")


@dataclass(frozen=True)
class Evidence:
    """What a stage has seen of the challenger since it began.

    Attributes:
        samples: predictions.
        hours: of the predictions' time.
        label, challenger, other: the paired, labelled ones, arrays `[n]`, in the order in which their truth became known.
        day: of the paired ones, days since the epoch `[n]`: rows of a day share their circumstances.
        spread: of the challenger's gain between days, where the gates compared the two.
        traffic: challenger's and the other version's requests since the stage began; in shadow the challenger's are the instances that it
            followed, in probation the other's are of a time as long, just before. Otherwise the reason, in words, why this is not known.
        unpaired: why there is no comparison, if so.
        broken: of the challenger's scores those that are no probabilities.
        phase: the stage.
    """

    samples: int
    hours: float
    label: Floats
    challenger: Floats
    other: Floats
    day: NDArray[np.int64]
    spread: float | None = None
    traffic: tuple[Traffic, Traffic] | str = "no replica has been asked"
    unpaired: str = ""
    broken: int = 0
    phase: Phase = "canary"


class Ruling(msgspec.Struct, frozen=True):
    """`go` to the next stage, `wait`, or `stop` the challenger; the text says why, with the numbers; `unknown`
    what alone it waits for, once it has seen enough predictions."""

    what: Literal["go", "wait", "stop"]
    text: str
    unknown: str = ""


# wide: what a stage is judged by, each from another source
def evidence(
    phase: Phase,
    rows: Labelled,
    challenger: Rescorer,
    other: Rescorer,
    since_us: int,
    now_us: int,
    spread: float | None,
    traffic: tuple[Traffic, Traffic] | str,
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
    began_us = max(since_us, int(found.at_us.min())) if len(found.at_us) else since_us  # before its first answer it has shown nothing
    hours, paired = (now_us - began_us) / HOUR_US, found.take(known)
    if phase == "shadow":
        by_id = dict(zip(rows.table["prediction_id"].to_pylist(), rows.score.tolist(), strict=True))
        answers = [by_id.get(number, np.nan) for number in paired.table["shadow_of"].to_pylist()]
        theirs, why = np.array(answers, dtype=np.float64), ""
    else:
        try:
            theirs, why = other.score(paired.table), ""
        except NotComparable as error:
            theirs, why = np.full(len(paired.score), np.nan), str(error)
    sound = (paired.score >= 0) & (paired.score <= 1)
    both = (theirs >= 0) & (theirs <= 1) & sound  # what is no probability is not known, and pairs with nothing
    day = paired.at_us[both] // DAY_US
    scores = paired.label[both], paired.score[both], theirs[both]
    broken = int((~((found.score >= 0) & (found.score <= 1))).sum())
    return Evidence(len(found.score), hours, *scores, day, spread, traffic, why, broken, phase)


def rule(stage: Stage, stages: Stages, seen: Evidence) -> Ruling:
    """What follows from what was seen. Pure.

    Faults and latency end a challenger at once; quality as soon as it is surely worse; otherwise the stage lasts as long as it says.
    What is not known never lets it go on: the stage waits, says what it waits for, and ends without promotion when its patience does.
    """
    from training.evaluation.sequential import FEWEST_ROWS, compare_as_it_comes, gains

    told = [f"{seen.samples:,} predictions in {max(0.0, seen.hours):.1f} h, {len(seen.label):,} with a truth"]
    ruling, unknown = _guards(stages, seen, told)
    if ruling is not None:
        return ruling
    if seen.broken:
        return Ruling("stop", f"{seen.broken:,} of its answers are no probabilities")
    verdict = None
    if len(seen.label):
        verdict = compare_as_it_comes(gains(seen.label, seen.other, seen.challenger), seen.day, seen.spread, stages.alpha)
        told.append(f"Brier score better by {verdict.text}")
        if verdict.verdict == "worse":
            return Ruling("stop", f"answers worse: {told[-1]}")
    if seen.unpaired and stage.labelled:
        unknown.append(f"not compared with the other version: {seen.unpaired}")
    labelled = max(stage.labelled, FEWEST_ROWS) if stage.labelled else 0  # of fewer nothing is concluded
    enough = seen.samples >= stage.samples and seen.hours >= stage.hours
    if enough and len(seen.label) >= labelled and not unknown:
        # looked at once, so this test needs fewer rows than one that always holds
        if verdict is not None and not verdict.z >= _normal(stages.alpha):
            return Ruling("stop", f"answers worse, seen at the stage's end (z = {verdict.z:.2f}): {'; '.join(told)}")
        return Ruling("go", "; ".join(told))
    missing = f"; not known, so it waits: {'; '.join(unknown)}" if unknown else ""
    if seen.hours >= 24 * stage.patience_days:
        return Ruling("stop", f"has not seen enough in {stage.patience_days:g} days: {told[0]}{missing}")
    return Ruling("wait", "; ".join(told) + missing, "; ".join(unknown) if enough else "")


def _guards(stages: Stages, seen: Evidence, told: list[str]) -> tuple[Ruling | None, list[str]]:
    """The ruling that faults or latency bring, if any, and else what is not known of them."""
    from training.evaluation.sequential import error_rate_worse

    if isinstance(seen.traffic, str):
        return None, [seen.traffic]
    mine, theirs = seen.traffic
    asked, others, unknown = mine.answered + mine.failed, theirs.answered + theirs.failed, []
    if asked:
        told.append(f"{mine.failed:,} of {asked:,} requests failed")
    rates = error_rate_worse(theirs.failed, others, mine.failed, asked, stages.alpha)
    if rates.worse and rates.rate_b - rates.rate_a > stages.errors:
        text = f"fails more often: {mine.failed:,} of {asked:,} requests, the other {theirs.failed:,} of {others:,}"
        return Ruling("stop", text), []
    if 2 * mine.instances < seen.samples:
        unknown.append(f"replicas count {mine.instances:,} predictions where the log has {seen.samples:,}: counters are missing")
    if not others and rates.rate_b > stages.errors:  # below that, no rate of the other makes it too much
        unknown.append("how often the other version fails")
    if seen.phase == "shadow":  # nobody waits for it
        return None, unknown
    p99, other = mine.p99_ms, theirs.p99_ms
    if p99 is None and mine.slowest_ms > stages.latency_ms:
        unknown.append("the p99 latency of fewer than 300 requests")
    elif p99 is not None and p99 > stages.latency_ms:
        if other is None:
            unknown.append("the other version's p99 latency")
        elif p99 > stages.latency * other:
            return Ruling("stop", f"slower: p99 {p99:.3g} ms, the other {other:.3g} ms, at most {stages.latency:g} times"), []
    return None, unknown


def _normal(alpha: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(alpha))
