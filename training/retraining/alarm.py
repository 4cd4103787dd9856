"""The watch's verdicts on one version, one after the other, made into one alarm. Pure: the loop and its rehearsal (`backtest`) use the same.

A row begins with the first verdict that raises an alarm, and ends after `QUIET` verdicts in a row that raise none. What the alarm is taken
for may change from verdict to verdict; its beginning does not, or a suspicion that comes and goes would hold a training for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from feature_repo.records.verdict import Triage, Verdict
from feature_repo.triggers.base import Alarm
from training.data.left_out import Interval

QUIET = 2
Answer = Literal["", "dismissed", "confirmed"]


class Row(msgspec.Struct, frozen=True):
    """What the verdicts on a version have come to by now.

    Attributes:
        version: that the verdicts are on.
        seen: id of the newest verdict.
        alarm: None: nothing is odd.
        quiet: how many of the newest verdicts, one after the other, raised no alarm.
        unsound: spans of earlier alarms in which a source is proven to have been at fault, `(first, last)` microseconds, apart and ascending.
        proven: the same, of this alarm: a person may still dismiss it.
    """

    version: int = 0
    seen: str = ""
    alarm: Alarm | None = None
    quiet: int = 0
    unsound: list[Interval] = []
    proven: list[Interval] = []

    @property
    def left_out(self) -> list[Interval]:
        """Spans whose examples no model should learn from."""
        dismissed = self.alarm is not None and self.alarm.answer == "dismissed"
        return self.unsound if dismissed else joined(self.unsound, self.proven)


def settled(row: Row, version: int | None = None) -> Row:
    """The row with its alarm over; what was proven stays known. A version: of which the next verdicts are."""
    kept = msgspec.structs.replace(row, alarm=None, quiet=0, unsound=row.left_out, proven=[])
    return kept if version is None else Row(version, unsound=kept.unsound)


def after(row: Row, verdict: Verdict) -> Row:
    """The row with one more verdict; one that is the newest already adds nothing. Verdicts of another version begin a new row; spans of
    proven faults stay.
    """
    if verdict.version == row.version and verdict.id == row.seen:
        return row
    if verdict.version != row.version:
        row = settled(row, verdict.version)
    row = msgspec.structs.replace(row, seen=verdict.id)
    before, triage = row.alarm, verdict.triage
    if triage is None:
        quiet = row.quiet + 1
        if before is None or quiet >= QUIET:
            return msgspec.structs.replace(settled(row), quiet=quiet)
        return msgspec.structs.replace(row, quiet=quiet, alarm=msgspec.structs.replace(before, changes=0))
    kind: Literal["change", "suspicion", "proof"] = "change" if triage.retrain else "proof" if triage.proof else "suspicion"
    names = [f.name for f in verdict.features if f.drift][:5] or ["the truths" if triage.cause == "concept change" else "the score"]
    text = f"{triage.cause}: {', '.join(names)}" if kind == "change" else f"{triage.cause}: {triage.detail}"
    alarm = Alarm(
        text=text,
        kind=kind,
        since_us=verdict.at_us if before is None else min(before.since_us, verdict.at_us),  # a clock may have been ahead
        changes=(1 if before is None else before.changes + 1) if triage.retrain else 0,
        answer="" if before is None else before.answer,
        why="" if before is None else before.why,
    )
    proven = joined(row.proven, [(verdict.window.from_us, verdict.window.to_us)]) if kind == "proof" and _of_source(triage) else row.proven
    return msgspec.structs.replace(row, alarm=alarm, quiet=0, proven=proven)


def _of_source(triage: Triage) -> bool:
    """Whether what is proven is wrong in the rows of a source, and so in a training's. What was only served wrongly is computed again from
    the sources when a model is trained: its examples are sound.
    """
    places = {one.place for one in triage.evidence if one.proof}
    return not places or "source" in places


def answered(row: Row, answer: Answer, why: str) -> Row:
    """The row with what a person says of its alarm; as it was where there is none."""
    if row.alarm is None:
        return row
    return msgspec.structs.replace(row, alarm=msgspec.structs.replace(row.alarm, answer=answer, why=why))


def joined(spans: Sequence[Interval], more: Sequence[Interval]) -> list[Interval]:
    """Spans with others, those that touch made one; ascending."""
    found: list[Interval] = []
    for first, last in sorted([*spans, *more]):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found
