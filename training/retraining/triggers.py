"""Whether to train again, and why: the triggers, a cooldown and a budget. Pure: the same facts give the same answer.

A person's request comes first and is held by nothing. Of the others the first that fires and that nothing holds is the reason. Where all
that fire are held, the first of them is the answer, with its own words, so that nobody wonders why nothing happens.
"""

from __future__ import annotations

import msgspec

from feature_repo.triggers.base import DAY_US, Facts, Hold
from feature_repo.triggers.table import TRIGGERS, Kind, Triggers
from infra.timestamps import minute_text

RETRY_DAYS = 1.0
"""After a training that came to nothing, so long passes before the next: what broke it is seldom mended in an hour."""


class Reason(msgspec.Struct, frozen=True):
    """Why a training is asked for.

    Attributes:
        at_us: the moment it was, microseconds since the epoch (UTC), in the predictions' time.
        held: what keeps it from happening now; empty: nothing does.
        until_us: until when, at the latest; None: nobody can say.
    """

    kind: Kind
    text: str
    at_us: int
    held: str = ""
    until_us: int | None = None

    @property
    def id(self) -> str:
        return f"{self.kind}@{self.at_us}"


def due(triggers: Triggers, facts: Facts) -> Reason | None:
    """The reason to train now, or the first that is held back; None where there is none."""
    found = all_due(triggers, facts)
    return next((reason for reason in found if not reason.held), found[0] if found else None)


def all_due(triggers: Triggers, facts: Facts) -> list[Reason]:
    """Every trigger that fires, in the order in which they are asked, each with what holds it."""
    found = []
    for trigger in TRIGGERS:
        text = trigger.fires(triggers, facts)
        if text is None:
            continue
        hold = (trigger.hold(triggers, facts) or _held(triggers, facts)) if trigger.holds else None
        until = None if hold is None or hold.until_us is None else f" until {minute_text(hold.until_us)}"
        held = "" if hold is None else hold.text + (until or "")
        found.append(Reason(trigger.kind, text, facts.now_us, held, None if hold is None else hold.until_us))
    return found


def held_by_fault(triggers: Triggers, facts: Facts) -> bool:
    """Whether a trigger that fires is held for its own sake, a suspected or proven fault; cooldown, budget and the like may hold it too."""
    return any(t.fires(triggers, facts) is not None and t.hold(triggers, facts) is not None for t in TRIGGERS)


def _held(triggers: Triggers, facts: Facts) -> Hold | None:
    if facts.known_upto_us is None:
        return Hold("the live version does not say what it was trained on")
    if facts.labelled_us is None or facts.labelled_us <= facts.known_upto_us:
        return Hold(
            f"no truth has become known since the live version was trained, on what was known by {minute_text(facts.known_upto_us)}"
        )
    if facts.failed_us is not None and facts.failed_us <= facts.now_us < facts.failed_us + RETRY_DAYS * DAY_US:
        return Hold(
            "the last training came to nothing (see the log); it is tried again after", round(facts.failed_us + RETRY_DAYS * DAY_US)
        )
    trained = [at for at in facts.trained_us if at <= facts.now_us]  # one in the data's future was counted by another clock
    last = max(trained, default=None)
    rest = triggers.cooldown_days * DAY_US
    if last is not None and facts.now_us - last < rest:
        return Hold("cooldown", round(last + rest))
    spent = [at for at in trained if facts.now_us - at < triggers.budget_days * DAY_US]
    if len(spent) >= triggers.budget:
        free = "the next is free on" if spent else "it is 0"
        text = f"the budget of {triggers.budget} trainings in {triggers.budget_days:g} days is spent; {free}"
        return Hold(text, round(min(spent) + triggers.budget_days * DAY_US) if spent else None)
    return None
