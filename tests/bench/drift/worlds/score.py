"""What the verdicts of a suite are worth: right or wrong by cause, false alarms by clusters, delays, what was held, and what it cost.

* *Right*: the verdict on the window that is full of a case names what happened, and where, if it happened in one place. (Of a change of
  concept: the first such window whose truths have come in.)
* *False alarms*, where nothing happens: consecutive alarms are one. Of windows laid end to end, the nominal rate is the share that may
  alarm. Holiday weeks are counted by themselves.
* *Held too long*: a real change at which more than `hold_days` after its first alarm the training still had not begun although a verdict was
  there, because it said that it must not. The rule is the loop's own (`training.retraining.alarm`, `feature_repo.triggers.drift`).
* *Cost*: days of a wrong model (of real changes, from their beginning to the training; to the end of the case where there is none), plus
  trainings wasted (in cases that are no real change; after one there is none for `cooldown_days`). The two are added as they are. Two other
  policies beside it: *never hold* begins a training after `drift_verdicts` alarms in a row, whatever triage says of them; *always train*
  trains every day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np

from feature_repo.triggers.base import Alarm, Facts
from feature_repo.triggers.drift import Drift
from feature_repo.triggers.table import Triggers
from serving.monitoring.detectors.base import NOMINAL_RATE
from serving.monitoring.hours import DAY_US
from tests.bench.drift.worlds.cases import CALENDAR, CONCEPT, FAULT, POPULATION, QUIET, SKEW, Answer
from tests.bench.drift.worlds.judge import Judged, Said
from tests.bench.report import Measurement

DRIFT, TRIGGERS = Drift(), Triggers(drift=True)
"""The trigger of the loop, with the settings that a spec has where it says nothing else."""
ANSWERS: tuple[Answer, ...] = (FAULT, SKEW, POPULATION, CONCEPT, CALENDAR, "unclear", QUIET)


def trainings(verdicts: Sequence[Said], hold: bool = True) -> list[int]:
    """Moments at which the loop's own trigger would begin a training.

    Args:
        hold: whether what triage says holds anything; if not, every alarm calls for a training.
    """
    found: list[int] = []
    alarms = 0
    for one in verdicts:
        alarms = alarms + 1 if one.alarm else 0
        row = one.row if hold else Alarm("an alarm", "change", one.at_us, alarms) if alarms else None
        facts = Facts(now_us=one.at_us, known_upto_us=None, alarm=row)
        due = DRIFT.fires(TRIGGERS, facts) is not None and DRIFT.hold(TRIGGERS, facts) is None
        if due and (not found or one.at_us - found[-1] >= TRIGGERS.cooldown_days * DAY_US):
            found.append(one.at_us)
    return found


def held_too_long(one: Judged) -> bool:
    """Of a real change: see the module's description."""
    first = one.first
    if first is None:
        return False
    begun = next(iter(trainings(one.verdicts)), None)
    withheld = [v for v in one.verdicts if v.alarm and not v.retrain and v.at_us - first.at_us > TRIGGERS.hold_days * DAY_US]
    return any(begun is None or v.at_us < begun for v in withheld)


def clusters(verdicts: Sequence[Said]) -> int:
    """Alarms, where consecutive ones are one."""
    alarms = [v.alarm for v in verdicts]
    return sum(now and not before for before, now in zip([False, *alarms[:-1]], alarms, strict=True))


def end_to_end(one: Judged, window_days: float) -> float:
    """So many windows, laid end to end, does a case hold."""
    return (one.verdicts[-1].at_us - one.case.begins_us) / DAY_US / window_days if one.verdicts else 0.0


def costs(all_of: Sequence[Judged]) -> dict[str, tuple[float, int]]:
    """By policy: days of a wrong model, and trainings wasted."""
    found = {}
    for policy in ("ours", "never hold", "always train"):
        days, wasted = 0.0, 0
        for one in all_of:
            begun = trainings(one.verdicts, policy == "ours")
            if policy == "always train":
                begun = [one.case.begins_us + (n + 1) * DAY_US for n in range(int(one.case.days))]
            if one.case.real:
                end = begun[0] if begun else one.case.begins_us + int(one.case.days * DAY_US)
                days += (end - one.case.begins_us) / DAY_US
            else:
                wasted += len(begun)
        found[policy] = (days, wasted)
    return found


def measured(
    suite: str, all_of: Sequence[Judged], quiet: Sequence[Judged], window_days: dict[str, float]
) -> tuple[list[Measurement], list[str]]:
    """Figures, and Markdown tables.

    Args:
        quiet: weeks in which nothing happens, for false alarms; they are no part of right or wrong.
        window_days: how long a window of each world is.
    """
    right = [one for one in all_of if one.right(one.full)]
    real = [one for one in all_of if one.case.real]
    long = [one for one in real if held_too_long(one)]
    calm = [*quiet, *(one for one in all_of if one.case.truth.cause == QUIET)]
    false = sum(clusters(one.verdicts) for one in calm)
    windows = sum(end_to_end(one, window_days[one.case.world]) for one in calm)
    holidays = [one for one in all_of if one.case.truth.cause == CALENDAR]
    bad_holidays = sum(any(v.alarm and not one.right(v) for v in one.verdicts) for one in holidays)
    changes = [one for one in all_of if one.case.truth.cause not in (QUIET, CALENDAR)]
    cost = {policy: days + wasted for policy, (days, wasted) in costs([*all_of, *quiet]).items()}
    first_right = [one for one in changes if one.first is not None and one.right(one.first)]
    figures = [
        Measurement(
            f"right on the {suite} suite", "share", len(right) / max(len(all_of), 1), more=True, note=f"{len(right)} of {len(all_of)}"
        ),
        Measurement(f"{suite}: right at the first alarm", "share", len(first_right) / max(len(changes), 1), more=True),
        Measurement(f"{suite}: real changes held too long", "cases", len(long), note=f"of {len(real)}"),
        Measurement(
            f"{suite}: false alarms, clusters per window",
            "share",
            false / max(windows, 1e-9),
            note=f"{false} in {windows:.0f} windows, nominal {NOMINAL_RATE:.0%}",
        ),
        Measurement(f"{suite}: holiday weeks called something else", "cases", bad_holidays, note=f"of {len(holidays)}"),
        Measurement(f"{suite}: delay to the alarm", "days", _median([one.days(one.first) for one in changes])),
        Measurement(f"{suite}: delay to the named cause", "days", _median([one.days(one.named) for one in changes])),
        Measurement(f"{suite}: cost", "days and trainings", cost.pop("ours"), cost),
    ]
    return figures, [by_cause(all_of), confusion(all_of), by_kind(all_of), policies([*all_of, *quiet])]


def _median(days: list[float]) -> float:
    return float(np.median(days)) if days else 0.0


def _span(days: Iterable[float]) -> str:
    """The median and the longest."""
    listed = sorted(days)
    return ", ".join(f"{one:.1f}" if np.isfinite(one) else "never" for one in (median(listed), listed[-1]))


def by_cause(all_of: Sequence[Judged]) -> str:
    lines = ["| what happened | cases | right | right at the first alarm | alarm after (median, longest), days | right cause after |"]
    lines.append("|---|---|---|---|---|---|")
    for cause in ANSWERS:
        some = [one for one in all_of if one.case.truth.cause == cause]
        if not some:
            continue
        right = sum(one.right(one.full) for one in some)
        first = sum(one.first is not None and one.right(one.first) for one in some)
        spans = (_span(one.days(one.first) for one in some), _span(one.days(one.named) for one in some)) if cause != QUIET else ("", "")
        lines.append(f"| {cause} | {len(some)} | {right} | {first if cause != QUIET else ''} | {spans[0]} | {spans[1]} |")
    return "\n".join(lines)


def confusion(all_of: Sequence[Judged]) -> str:
    lines = ["| what happened | " + " | ".join(f"said: {answer}" for answer in ANSWERS) + " |", "|---" * (len(ANSWERS) + 1) + "|"]
    for cause in ANSWERS:
        said = Counter(one.full.answer for one in all_of if one.case.truth.cause == cause)
        if said:
            lines.append(f"| {cause} | " + " | ".join(str(said[answer] or "") for answer in ANSWERS) + " |")
    return "\n".join(lines)


def by_kind(all_of: Sequence[Judged]) -> str:
    """Of each kind: where it was right, and what was said where it was not."""
    lines = ["| kind | place | right | said where it was wrong |", "|---|---|---|---|"]
    for kind in dict.fromkeys(one.case.kind for one in all_of):
        some = [one for one in all_of if one.case.kind == kind]
        right = sum(one.right(one.full) for one in some)
        wrong = [
            f"{one.case.world}: {one.full.answer}{f' ({one.full.of[0]})' if one.full.of else ''}" for one in some if not one.right(one.full)
        ]
        lines.append(f"| {kind} | {some[0].case.place} | {right} of {len(some)} | {', '.join(wrong)} |")
    return "\n".join(lines)


def policies(all_of: Sequence[Judged]) -> str:
    lines = ["| policy | days of a wrong model | trainings wasted | together |", "|---|---|---|---|"]
    lines += [f"| {policy} | {days:.0f} | {wasted} | {days + wasted:.0f} |" for policy, (days, wasted) in costs(all_of).items()]
    return "\n".join(lines)
