"""Verdicts made into an alarm, one after the other: what a person's word counts for, and which spans a proof leaves out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from feature_repo.records.verdict import Evidence, FeatureVerdict, OutlierVerdict, Span, Triage, Verdict
from feature_repo.triggers.base import DAY_US, Facts
from feature_repo.triggers.drift import Drift
from feature_repo.triggers.table import Triggers
from training.retraining.alarm import LONGEST_US, Row, after, answered, pruned, settled, word_on

ASKED = Triggers(drift=True)


def verdict(
    number: int, kind: str, of: str = "weather", *, version: int = 1, span: Span | None = None, since_us: int | None = None
) -> Verdict:
    """Of a day: `quiet`, `change`, `suspicion` or `proof`."""
    at_us = number * DAY_US
    cause: Any = "population change" if kind == "change" else "pipeline fault"
    shown = [Evidence("source", of, cause, "it breaks", kind == "proof", since_us=since_us)]
    triage = None if kind == "quiet" else Triage(cause, f"{of} breaks", [f"by {of}"], [], kind == "change", kind == "proof", shown)
    moved = FeatureVerdict("temp", 0.0, 1, 0, 0, True)
    span = span or Span(100, at_us - DAY_US, at_us)
    outliers = OutlierVerdict(0, 0, 1, False)
    return Verdict(f"{version}@{at_us // 1000}-0", "m", version, at_us, span, True, [moved], moved, outliers, "scipy", triage=triage)


def row_of(*verdicts: Verdict, row: Row = Row()) -> Row:  # noqa: B008 - it is frozen
    for one in verdicts:
        row = after(row, one)
    return row


def said_of(row: Row, said: Any) -> Row:
    assert row.alarm is not None
    return answered(row, word_on(row.alarm, said, "I know"))


def answer_in(row: Row) -> str:
    assert row.alarm is not None
    return row.alarm.answer


@pytest.mark.parametrize(
    ("asked", "then", "counts"),
    [
        (("suspicion", "weather"), ("suspicion", "weather"), True),
        (("suspicion", "weather"), ("suspicion", "sales"), False),
        (("suspicion", "weather"), ("proof", "sales"), False),
        (("suspicion", "weather"), ("proof", "weather"), False),
        (("proof", "weather"), ("proof", "weather"), True),
        (("proof", "weather"), ("proof", "sales"), False),
        (("proof", "weather"), ("suspicion", "weather"), True),
    ],
)
@pytest.mark.parametrize("said", ["dismissed", "confirmed"])
def test_a_word_counts_for_what_it_was_said_of_and_for_nothing_else(
    said: str, asked: tuple[str, str], then: tuple[str, str], counts: bool
) -> None:
    row = said_of(row_of(verdict(1, *asked)), said)
    assert answer_in(row) == said
    row = row_of(verdict(2, *then), row=row)
    assert answer_in(row) == (said if counts else "")
    row = row_of(verdict(3, *asked), row=row)
    assert answer_in(row) == said, "what it was said of is back"


def test_a_word_on_one_alarm_does_not_count_for_the_next() -> None:
    first = row_of(verdict(1, "suspicion"))
    assert first.alarm is not None
    word = word_on(first.alarm, "dismissed", "a promotion")
    second = row_of(verdict(2, "quiet"), verdict(3, "quiet"), verdict(4, "proof"), row=first)
    assert answered(second, word) == second
    assert second.left_out == [(3 * DAY_US, 4 * DAY_US)]
    of_another = row_of(verdict(4, "suspicion", version=2))
    assert answered(of_another, word) == of_another
    over = row_of(verdict(2, "quiet"), verdict(3, "quiet"), verdict(4, "suspicion"), row=answered(first, word))
    assert answer_in(over) == ""
    assert over.alarm is not None
    assert not word.covers(over.alarm)


def test_a_proof_that_is_dismissed_leaves_those_of_other_sources_proven() -> None:
    row = row_of(verdict(1, "proof", "sales"), verdict(3, "proof", "weather"))
    assert row.left_out == [(0, DAY_US), (2 * DAY_US, 3 * DAY_US)]
    row = said_of(row, "dismissed")
    assert row.left_out == [(0, DAY_US)]
    assert row_of(verdict(4, "proof", "weather"), row=row).left_out == [(0, DAY_US)]
    assert said_of(row_of(verdict(5, "suspicion", "sales"), row=row), "dismissed").left_out == [(0, DAY_US)]


NOW = 20_000


@pytest.mark.parametrize(
    ("span", "since_day", "first_us"),
    [
        (Span(100, 0, NOW * DAY_US, ((NOW - 2) * DAY_US, NOW * DAY_US)), None, (NOW - 2) * DAY_US),
        (Span(100, 0, NOW * DAY_US, ((NOW - 2) * DAY_US, NOW * DAY_US)), NOW - 1, (NOW - 1) * DAY_US),
        (Span(100, 0, NOW * DAY_US, ((NOW - 2) * DAY_US, NOW * DAY_US)), NOW - 9, (NOW - 2) * DAY_US),
        (Span(100, 0, NOW * DAY_US), None, NOW * DAY_US - LONGEST_US),
        (Span(100, 0, NOW * DAY_US), NOW - 1, (NOW - 1) * DAY_US),
    ],
)
def test_one_prediction_of_1970_does_not_leave_out_all_history(span: Span, since_day: int | None, first_us: int) -> None:
    since_us = None if since_day is None else since_day * DAY_US
    row = row_of(verdict(NOW, "proof", span=span, since_us=since_us))
    assert row.left_out == [(first_us, NOW * DAY_US)]
    assert settled(row).left_out == [(first_us, NOW * DAY_US)]


def test_spans_before_all_examples_are_forgotten() -> None:
    row = settled(row_of(verdict(3, "proof"), verdict(9, "proof")))
    assert pruned(row, 8 * DAY_US).left_out == [(8 * DAY_US, 9 * DAY_US)]
    assert pruned(row, 9 * DAY_US + 1).left_out == []


def test_a_version_that_comes_back_finds_its_alarm_and_the_word_on_it() -> None:
    row = said_of(row_of(verdict(1, "suspicion")), "confirmed")
    row = row_of(verdict(2, "proof", version=2), verdict(3, "suspicion"), row=row)
    assert answer_in(row) == "confirmed"
    assert row.alarm is not None
    assert row.alarm.since_us == DAY_US
    assert row.left_out == [(DAY_US, 2 * DAY_US)], "what was proven of the sources is of all versions"
    row = row_of(verdict(4, "suspicion", version=3), verdict(5, "suspicion", version=4), verdict(6, "suspicion"), row=row)
    assert answer_in(row) == "", "only the version before is remembered"


def test_verdicts_that_are_read_again_add_nothing() -> None:
    kinds = ["suspicion", "quiet", "quiet", "suspicion", "proof"]
    told = [verdict(n, kind) for n, kind in enumerate(kinds, 1)]
    row = said_of(row_of(*told), "dismissed")
    assert row_of(*told, row=row) == row
    assert row_of(*told, verdict(9, "proof"), row=row) == row_of(verdict(9, "proof"), row=row)


def test_a_clock_that_was_ahead_holds_for_no_longer_than_one_that_is_right() -> None:
    """The first verdict is dated ten years ahead; the days that a suspicion may hold begin with the first one of the right time."""
    row = Row(1)
    for n, day in enumerate((4000, 10, 11)):
        triage = SimpleNamespace(retrain=False, proof=False, cause="pipeline fault", detail="view guest", evidence=[], views=[])
        said: Any = SimpleNamespace(version=1, id=f"1@{n}", triage=triage, features=[], at_us=day * DAY_US)
        row = after(row, said)
    assert row.alarm is not None
    assert row.alarm.since_us == 10 * DAY_US


@pytest.mark.parametrize("first", ["suspicion", "proof", "change"])
def test_what_a_person_has_confirmed_is_held_until_the_alarm_is_over(first: str) -> None:
    """Also where later verdicts call it a change, and `hold_days` are over: a person knows more."""

    def due(row: Row, day: int) -> bool:
        facts = Facts(now_us=day * DAY_US, known_upto_us=DAY_US, labelled_us=DAY_US, alarm=row.alarm)
        return Drift().fires(ASKED, facts) is not None and Drift().hold(ASKED, facts) is None

    row = said_of(row_of(verdict(1, first)), "confirmed")
    changed = row_of(verdict(2, "change"), verdict(3, "change"), verdict(12, "change"), row=row)
    assert not due(changed, 12)
    over = row_of(*(verdict(day, "quiet") for day in (13, 14, 15)), row=changed)
    assert due(row_of(verdict(16, "change"), verdict(17, "change"), row=over), 17), "the next alarm is another one"
    assert due(row_of(verdict(2, "change"), verdict(3, "change"), row=row_of(verdict(1, first))), 3), "without a word it is not held"
