"""The watch's verdicts on one version, one after the other, made into one alarm. Pure: the loop and its rehearsal (`backtest`) use the same.

A row begins with the first verdict that raises an alarm, and ends after `QUIET` verdicts in a row that raise none. What the alarm is taken
for may change from verdict to verdict; its beginning does not, or a suspicion that comes and goes would hold a training for ever.

What a person says is of one alarm, and of what it was taken for then: it counts for no other alarm, for no other place, and what was said of
a suspicion does not count for a proof.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from feature_repo.records.verdict import Triage, Verdict
from feature_repo.triggers.base import DAY_US, Alarm
from training.data.left_out import Interval

QUIET = 2
LONGEST_US = 31 * DAY_US
"""No verdict proves more than this of the time before it, where nothing says which of its predictions are dated wrongly."""
_STREAM_ID = re.compile(r"(\d+)@(\d+)(?:-(\d+))?")


class Word(msgspec.Struct, frozen=True):
    """What a person says of an alarm.

    Attributes:
        alarm: id of the verdict that the alarm began with.
        why: the person's words.
        kind, of: what the alarm was taken for when it was said, and of which sources and views.
    """

    alarm: str
    said: Literal["dismissed", "confirmed"]
    why: str
    kind: Literal["change", "suspicion", "proof"]
    of: list[str]

    def covers(self, alarm: Alarm) -> bool:
        """Whether it is of what the alarm is taken for by now."""
        if alarm.began != self.alarm:
            return False
        if alarm.kind == "proof":
            return self.kind == "proof" and set(alarm.of) <= set(self.of)
        return alarm.kind == "change" or bool(set(alarm.of) & set(self.of)) or not (alarm.of or self.of)


class Row(msgspec.Struct, frozen=True):
    """What the verdicts on a version have come to by now.

    Attributes:
        version: that the verdicts are on.
        seen: id of the newest verdict.
        alarm: None: nothing is odd.
        quiet: how many of the newest verdicts, one after the other, raised no alarm.
        word: what a person said of this alarm, whether it counts for what it is taken for by now or not.
        unsound: spans of earlier alarms in which a source is proven to have been at fault, `(first, last)` microseconds, apart and ascending.
        faults: the same, of this alarm, by source: a person may still dismiss it.
        parked: the row of the version that was live before, without its own: that one may come back.
    """

    version: int = 0
    seen: str = ""
    alarm: Alarm | None = None
    quiet: int = 0
    word: Word | None = None
    unsound: list[Interval] = []
    faults: dict[str, list[Interval]] = {}
    parked: Row | None = None

    @property
    def left_out(self) -> list[Interval]:
        """Spans whose examples no model should learn from."""
        return joined(self.unsound, [span for spans in self.faults.values() for span in spans])


def settled(row: Row, version: int | None = None) -> Row:
    """The row with its alarm over; what was proven stays known. A version: of which the next verdicts are. Where it is the one that was live
    before, its row goes on.
    """
    if version is None:
        return msgspec.structs.replace(row, alarm=None, word=None, quiet=0, unsound=row.left_out, faults={})
    parked = msgspec.structs.replace(row, parked=None, unsound=[], faults={})
    back = row.parked if row.parked is not None and row.parked.version == version else Row(version)
    return msgspec.structs.replace(back, unsound=row.left_out, parked=parked if row.version else None)


def after(row: Row, verdict: Verdict) -> Row:
    """The row with one more verdict; one that is no newer than the newest already adds nothing. Verdicts of another version begin a new row;
    spans of proven faults stay.
    """
    if verdict.version != row.version:
        row = settled(row, verdict.version)
    if _is_old(verdict.id, row.seen):
        return row
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
        began=verdict.id if before is None else before.began,
        of=_about(triage),
    )
    row = _heard(msgspec.structs.replace(row, alarm=alarm, quiet=0))
    if kind != "proof" or (row.alarm is not None and row.alarm.answer == "dismissed"):
        return row
    return msgspec.structs.replace(row, faults=_with(row.faults, _at_fault(triage), _span(verdict, triage)))


def _is_old(verdict: str, seen: str) -> bool:
    """Whether a verdict is the newest that was seen, or was reached before it: a history may be read again, from wherever."""
    one, other = _STREAM_ID.fullmatch(verdict), _STREAM_ID.fullmatch(seen)
    if one is None or other is None or one[1] != other[1]:
        return verdict == seen
    return (int(one[2]), int(one[3] or 0)) <= (int(other[2]), int(other[3] or 0))


def _about(triage: Triage) -> list[str]:
    """Sources and views that a verdict is about."""
    if triage.proof:
        return sorted({one.of for one in triage.evidence if one.proof and one.of} or set(triage.views))
    return sorted({*triage.views, *(one.of for one in triage.evidence if one.says == triage.cause and one.of)})


def _at_fault(triage: Triage) -> list[str]:
    """Sources whose rows are proven to be wrong, and so a training's. What was only served wrongly is computed again from the sources when a
    model is trained: its examples are sound. Without evidence nobody knows which source it is: an empty name.
    """
    proofs = [one for one in triage.evidence if one.proof]
    return sorted({one.of for one in proofs if one.place == "source"}) if proofs else [""]


def _span(verdict: Verdict, triage: Triage) -> Interval:
    """Of which predictions a proof says that their examples are unsound: not of one that is dated 1970, nor of those before the fault."""
    window = verdict.window
    first, last = window.core or (max(window.from_us, window.to_us - LONGEST_US), window.to_us)
    since = [one.since_us for one in triage.evidence if one.proof and one.place == "source"]
    known = [us for us in since if us is not None]
    if known and len(known) == len(since):
        first = min(max(first, min(known)), last)
    return first, last


def _with(faults: Mapping[str, list[Interval]], of: Collection[str], span: Interval) -> dict[str, list[Interval]]:
    return {**faults, **{one: joined(faults.get(one, []), [span]) for one in of}}


def _heard(row: Row) -> Row:
    """The row whose alarm has the answer that counts for it."""
    if row.alarm is None:
        return row
    counts = row.word is not None and row.word.covers(row.alarm)
    said, why = (row.word.said, row.word.why) if row.word is not None and counts else ("", "")
    return msgspec.structs.replace(row, alarm=msgspec.structs.replace(row.alarm, answer=said, why=why))


def word_on(alarm: Alarm, said: Literal["dismissed", "confirmed"], why: str) -> Word:
    """A person's answer to an alarm as it stands."""
    return Word(alarm.began, said, why, alarm.kind, alarm.of)


def answered(row: Row, word: Word) -> Row:
    """The row with what a person says of its alarm; as it was where that is of another alarm, or of none. What is dismissed as no fault was
    never unsound.
    """
    if row.alarm is None or row.alarm.began != word.alarm:
        return row
    faults = row.faults
    if word.said == "dismissed" and word.kind == "proof":
        faults = {of: spans for of, spans in faults.items() if of and of not in word.of}
    return _heard(msgspec.structs.replace(row, word=word, faults=faults))


def pruned(row: Row, from_us: int) -> Row:
    """The row without the spans that end before any example that a model is trained on."""
    return msgspec.structs.replace(row, unsound=[span for span in row.unsound if span[1] >= from_us])


def words_of(row: Row) -> list[Word]:
    """What persons have said that may still count."""
    return [one.word for one in (row, row.parked) if one is not None and one.word is not None]


def joined(spans: Sequence[Interval], more: Sequence[Interval] = ()) -> list[Interval]:
    """Spans with others, those that touch made one; ascending."""
    found: list[Interval] = []
    for first, last in sorted([*spans, *more]):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found
