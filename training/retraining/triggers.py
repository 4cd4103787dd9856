"""Whether to train again, and why: five triggers, a cooldown and a budget. Pure: the same facts give the same answer.

A person's request comes first and is held by nothing. Of the others the first that fires is the reason; when the cooldown or the budget
holds it, that is an answer too, with its own words, so that nobody wonders why nothing happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from feature_repo.spec.retraining import RISES, QualityDrop, Triggers
from infra.timestamps import minute_text
from training.monitoring.live_quality import Estimate

DAY_US = 86_400_000_000
Kind = Literal["request", "schedule", "new_data", "quality", "drift"]


class Reason(msgspec.Struct, frozen=True):
    """Why a training is asked for.

    Attributes:
        at_us: the moment it was, microseconds since the epoch (UTC), in the predictions' time.
        held: what keeps it from happening now; empty: nothing does.
    """

    kind: Kind
    text: str
    at_us: int
    held: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}@{self.at_us}"


class Facts(msgspec.Struct, frozen=True):
    """What the triggers look at.

    Attributes:
        now_us: microseconds since the epoch, in the data's own time.
        known_upto_us: the champion's knowledge cut-off; None: its contract does not say.
        labelled_us: when the newest truth there is, by now, became known; None: nothing is labelled yet.
        new_labels: examples whose truth became known after that cut-off, and by now.
        live: the champion's live estimate of the quality trigger's metric, on its newest labelled predictions; None: too few of them.
        baseline: the champion's held-out value of the same metric.
        drift: what changed, in words, where the watch calls for a training; empty otherwise.
        request: a person's words, None where nobody asked.
        trained_us: moments of earlier trainings that nobody asked for, oldest first.
    """

    now_us: int
    known_upto_us: int | None
    labelled_us: int | None = None
    new_labels: int = 0
    live: Estimate | None = None
    baseline: float | None = None
    drift: str = ""
    request: str | None = None
    trained_us: Sequence[int] = ()


def due(triggers: Triggers, facts: Facts) -> Reason | None:
    """The reason to train now, or the one that is held back; None where there is none."""
    if facts.request is not None:
        return Reason("request", facts.request or "asked for", facts.now_us)
    found = _schedule(triggers, facts) or _new_data(triggers, facts) or _quality(triggers, facts) or _drift(triggers, facts)
    return found and msgspec.structs.replace(found, held=_held(triggers, facts))


def _schedule(triggers: Triggers, facts: Facts) -> Reason | None:
    if triggers.schedule_days is None or facts.known_upto_us is None:
        return None
    age = (facts.now_us - facts.known_upto_us) / DAY_US
    if age < triggers.schedule_days:
        return None
    return Reason(
        "schedule", f"the live version knows nothing of the last {age:.1f} days (schedule: {triggers.schedule_days:g})", facts.now_us
    )


def _new_data(triggers: Triggers, facts: Facts) -> Reason | None:
    if triggers.new_labels is None or facts.new_labels < triggers.new_labels:
        return None
    return Reason("new_data", f"{facts.new_labels:,} new examples with a truth (asked: {triggers.new_labels:,})", facts.now_us)


def _quality(triggers: Triggers, facts: Facts) -> Reason | None:
    asked = triggers.quality
    if asked is None or facts.live is None or facts.baseline is None or not dropped(asked, facts.live, facts.baseline):
        return None
    text = (
        f"live {asked.metric} is {facts.live.value:.4f} ({facts.live.low:.4f} to {facts.live.high:.4f}), "
        f"{facts.baseline:.4f} when it was trained (drop allowed: {asked.drop:g})"
    )
    return Reason("quality", text, facts.now_us)


def dropped(asked: QualityDrop, live: Estimate, baseline: float) -> bool:
    """Whether the whole interval lies beyond what is allowed."""
    return live.high < baseline - asked.drop if asked.metric in RISES else live.low > baseline + asked.drop


def _drift(triggers: Triggers, facts: Facts) -> Reason | None:
    return Reason("drift", facts.drift, facts.now_us) if triggers.drift and facts.drift else None


def _held(triggers: Triggers, facts: Facts) -> str:
    if facts.known_upto_us is None:
        return "the live version does not say what it was trained on"
    if facts.labelled_us is None or facts.labelled_us <= facts.known_upto_us:
        return f"no truth has become known since the live version was trained, on what was known by {minute_text(facts.known_upto_us)}"
    trained = [at for at in facts.trained_us if at <= facts.now_us]  # one in the data's future was counted by another clock
    last = max(trained, default=None)
    rest = triggers.cooldown_days * DAY_US
    if last is not None and facts.now_us - last < rest:
        return f"cooldown until {minute_text(last + rest)}"
    spent = [at for at in trained if facts.now_us - at < triggers.budget_days * DAY_US]
    if len(spent) >= triggers.budget:
        free = f"the next is free on {minute_text(min(spent) + triggers.budget_days * DAY_US)}" if spent else "it is 0"
        return f"the budget of {triggers.budget} trainings in {triggers.budget_days:g} days is spent; {free}"
    return ""
