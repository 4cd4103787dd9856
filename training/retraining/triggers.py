"""Whether to train again, and why: the triggers, a cooldown and a budget. Pure: the same facts give the same answer.

A person's request comes first and is held by nothing. Of the others the first that fires is the reason; when the cooldown or the budget
holds it, that is an answer too, with its own words, so that nobody wonders why nothing happens.
"""

from __future__ import annotations

import msgspec

from feature_repo.triggers.base import DAY_US, Facts
from feature_repo.triggers.table import TRIGGERS, Kind, Triggers
from infra.timestamps import minute_text


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


def due(triggers: Triggers, facts: Facts) -> Reason | None:
    """The reason to train now, or the one that is held back; None where there is none."""
    for trigger in TRIGGERS:
        text = trigger.fires(triggers, facts)
        if text is not None:
            return Reason(trigger.kind, text, facts.now_us, _held(triggers, facts) if trigger.holds else "")
    return None


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
