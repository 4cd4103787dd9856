"""The watch's verdicts on one version, one after the other, made into one alarm. Pure: the loop and its rehearsal (`backtest`) use the same.

A row begins with the first verdict that raises an alarm, and ends after `QUIET` verdicts in a row that raise none. What the alarm is taken
for may change from verdict to verdict; its beginning does not, or a suspicion that comes and goes would hold a training for ever.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from feature_repo.records.verdict import Verdict
from feature_repo.triggers.base import Alarm

QUIET = 2
Answer = Literal["", "dismissed", "confirmed"]


class Row(msgspec.Struct, frozen=True):
    """What the verdicts on a version have come to by now.

    Attributes:
        version: that the verdicts are on.
        seen: id of the newest verdict.
        alarm: None: nothing is odd.
        quiet: how many of the newest verdicts, one after the other, raised no alarm.
        unsound: spans in which a fault is proven, `(first, last)` microseconds, apart and ascending.
    """

    version: int = 0
    seen: str = ""
    alarm: Alarm | None = None
    quiet: int = 0
    unsound: list[tuple[int, int]] = []


def after(row: Row, verdict: Verdict) -> Row:
    """The row with one more verdict; one that is the newest already adds nothing. Verdicts of another version begin a new row; spans of
    proven faults stay.
    """
    if verdict.version == row.version and verdict.id == row.seen:
        return row
    if verdict.version != row.version:
        row = Row(verdict.version, unsound=row.unsound)
    triage = verdict.triage
    if triage is None:
        quiet = row.quiet + 1
        alarm = None if row.alarm is None or quiet >= QUIET else msgspec.structs.replace(row.alarm, changes=0)
        return Row(row.version, verdict.id, alarm, quiet, row.unsound)
    before = row.alarm
    kind: Literal["change", "suspicion", "proof"] = "change" if triage.retrain else "proof" if triage.proof else "suspicion"
    names = [f.name for f in verdict.features if f.drift][:5] or ["the truths" if triage.cause == "concept change" else "the score"]
    text = f"{triage.cause}: {', '.join(names)}" if kind == "change" else f"{triage.cause}: {triage.detail}"
    alarm = Alarm(
        text=text,
        kind=kind,
        since_us=verdict.at_us if before is None else before.since_us,
        changes=(1 if before is None else before.changes + 1) if triage.retrain else 0,
        answer="" if before is None else before.answer,
        why="" if before is None else before.why,
    )
    unsound = joined(row.unsound, (verdict.window.from_us, verdict.window.to_us)) if kind == "proof" else row.unsound
    return Row(row.version, verdict.id, alarm, 0, unsound)


def answered(row: Row, answer: Answer, why: str) -> Row:
    """The row with what a person says of its alarm; as it was where there is none."""
    if row.alarm is None:
        return row
    return msgspec.structs.replace(row, alarm=msgspec.structs.replace(row.alarm, answer=answer, why=why))


def joined(spans: list[tuple[int, int]], more: tuple[int, int]) -> list[tuple[int, int]]:
    """Spans with one more, those that touch made one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted([*(tuple(s) for s in spans), more]):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found
