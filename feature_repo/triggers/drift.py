"""The watch says that the world has changed; or it suspects a fault, and nobody has proven one in days."""

from __future__ import annotations

from pydantic import Field

from feature_repo.triggers import base
from feature_repo.triggers.base import DAY_US, LONGEST_DAYS, Alarm, Facts, Hold, Trigger


class Settings(base.Settings):
    drift: bool = Field(default=False, description="the watch says that the world has changed (a proven fault of a pipeline never trains)")
    drift_verdicts: int = Field(default=2, ge=1, description="so many verdicts in a row must say so: a fault's first ones can look like it")
    hold_days: float = Field(
        default=7, ge=0, le=LONGEST_DAYS, description="a suspected fault that nobody proves or confirms holds the trigger for so long"
    )


class Drift(Trigger[Settings]):
    """Fires where verdicts in a row call for a training. Where they suspect a fault it is held, for some days; where one is proven, as long
    as it stands. A needless training costs minutes; a loop that is held while the world has moved costs every prediction.
    """

    kind = "drift"
    example = (
        {"drift": True},
        Facts(
            now_us=400 * DAY_US,
            known_upto_us=399 * DAY_US,
            labelled_us=400 * DAY_US,
            alarm=Alarm("population change: temp", "change", 399 * DAY_US, 2),
        ),
    )

    def wanted(self, asked: Settings) -> bool:
        return asked.drift

    def fires(self, asked: Settings, facts: Facts) -> str | None:
        alarm = facts.alarm
        if not asked.drift or alarm is None:
            return None
        if alarm.kind != "change":
            return alarm.text
        return alarm.text if alarm.changes >= asked.drift_verdicts or self._over(asked, facts, alarm) else None

    def hold(self, asked: Settings, facts: Facts) -> Hold | None:
        alarm = facts.alarm
        if alarm is None or alarm.answer == "dismissed":
            return None
        if alarm.answer == "confirmed":  # also where later verdicts say that the world has changed: a person knows more
            return Hold(f"a person has confirmed the fault ({alarm.why}): until no window drifts, or it is dismissed")
        if alarm.kind == "change":
            return None
        if alarm.kind == "proof":
            return Hold("the fault is proven: until no verdict says so, or it is dismissed")
        if self._over(asked, facts, alarm):
            return None
        until = alarm.since_us + round(asked.hold_days * DAY_US)
        return Hold(f"a fault is suspected, not proven: for {asked.hold_days:g} days, if nobody confirms or dismisses it", until)

    def _over(self, asked: Settings, facts: Facts, alarm: Alarm) -> bool:
        """Whether the row of alarms has lasted for so long that nothing but a proof may hold it."""
        return facts.now_us >= alarm.since_us + round(asked.hold_days * DAY_US)
