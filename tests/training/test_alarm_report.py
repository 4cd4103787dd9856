"""What a person is shown of an alarm: whole at 80 columns, without a contradiction, and with what to do."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import msgspec
from rich.console import Console

from feature_repo.records.answers import Given, read_given
from feature_repo.records.held import Held
from feature_repo.records.verdict import Evidence, FeatureVerdict, OutlierVerdict, Span, Triage, Verdict
from feature_repo.triggers.base import Alarm
from training.alarm_report import Work, print_alarm, why_proof_does_not_decide
from training.retraining.alarm import Row, word_on

NUMBER = "01a222b1-ef86-7411-bfe2-6ce5dce21947"
LATE = Evidence("recomputation", "orders", "training/serving skew", "of 2,100 values 69% are not what was served: late data", proof=True)
MOVED = Evidence("lineage", "weather", "pipeline fault", "4 of 9 inputs moved", odds=62.0, rows=[f"{NUMBER}: weather__temperature = 24.4"])
TRIAGE = Triage("pipeline fault", "view weather: temp moved", ["weather"], [], False, evidence=[MOVED, LATE])
HOUR_US = 3_600_000_000
MADE_MS = 1_795_879_074_000
ALARM = Alarm("pipeline fault: view weather: temp moved", "suspicion", 5 * HOUR_US)
RUNS = Work("runs", "runs")


def verdict(triage: Triage | None = TRIAGE) -> Verdict:
    score = FeatureVerdict("score", 1.0, 0.0, 0.0, 0.0, triage is not None)
    return Verdict(
        f"1@{MADE_MS}-0", "m", 1, 6 * HOUR_US, Span(1000, 2 * HOUR_US, 6 * HOUR_US), triage is not None, [], score,
        OutlierVerdict(0.0, 0.01, 1.0, False), "scipy", triage=triage,
    )  # fmt: skip


def shown(row: Row, newest: Verdict | None, given: Given | None = None, work: Work = RUNS, held: list[Held] | None = None) -> str:
    out = StringIO()
    print_alarm(Console(file=out, width=80), "m", row, held or [], newest, given, work)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def test_ids_are_whole_and_the_verdict_says_when_it_was_made() -> None:
    held = [Held("drift", "pipeline fault: temp; held: a fault is suspected: for 7 days", 5 * HOUR_US, 173 * HOUR_US)]
    said = shown(Row(1, f"1@{MADE_MS}-0", ALARM), verdict(), held=held)
    assert NUMBER in said
    assert "a suspicion, since 1970-01-01 05:00 in the predictions' time" in said
    assert "made 2026-11-28 15:17 UTC, on 1,000 predictions of 1970-01-01 02:00 to 1970-01-01 06:00" in words(said)
    assert "held: drift, since 1970-01-01 05:00, until 1970-01-08 05:00 at the latest a fault is suspected: for 7 days" in words(said)
    assert "`headrace alarm m --confirm WHY` or `--dismiss WHY`" in said


def test_a_proof_beside_another_cause_is_said_not_to_decide_and_why() -> None:
    said = words(shown(Row(1, f"1@{MADE_MS}-0", ALARM), verdict()))
    assert "proven too: training/serving skew of orders. It does not decide: with the values computed again, the window is odd" in said
    assert "what is left is taken for a pipeline fault." in said
    assert why_proof_does_not_decide(msgspec.structs.replace(TRIAGE, evidence=[MOVED])) == ""
    decides = Triage("training/serving skew", "orders", ["orders"], [], False, proof=True, evidence=[LATE])
    assert why_proof_does_not_decide(decides) == ""
    many = [msgspec.structs.replace(LATE, of=f"view{i}") for i in range(7)]
    assert "of view0, view1, view2 and 4 others." in why_proof_does_not_decide(msgspec.structs.replace(TRIAGE, evidence=many))


def test_who_is_not_at_work_is_said_with_the_command_that_starts_it() -> None:
    said = words(shown(Row(1, f"1@{MADE_MS}-0", ALARM), verdict(), work=Work("failing: no room", "")))
    assert "the watch: failing: no room" in said
    assert "the autopilot does not run: `headrace up`, or `headrace autopilot m`" in said


def test_an_alarm_that_no_autopilot_has_read_is_shown() -> None:
    said = words(shown(Row(1), verdict(), work=Work("runs", "")))
    assert "m: the watch alarms, and the autopilot has not read it yet pipeline fault: view weather: temp moved" in said
    assert NUMBER in said


def test_nothing_odd_is_said_as_that_and_by_which_verdict() -> None:
    assert words(shown(Row(1), None)).startswith("no alarm on m the watch has judged nothing of the live version yet")
    assert "no alarm on m newest verdict (says no drift)" in words(shown(Row(1, f"1@{MADE_MS}-0"), verdict(None)))
    quiet = words(shown(Row(1, f"1@{MADE_MS}-0", ALARM, 1), verdict(None)))
    assert "raises no alarm: after 2 such in a row this one is over" in quiet


def test_a_word_is_shown_before_and_after_it_is_heard() -> None:
    given = words(shown(Row(1, f"1@{MADE_MS}-0", ALARM), verdict(), Given("confirmed", "the vane is stuck")))
    assert "given, not yet heard: confirmed: the vane is stuck" in given
    assert "--confirm WHY" not in given
    heard = msgspec.structs.replace(ALARM, answer="dismissed", why="a storm")
    assert "a person has dismissed it: a storm" in words(shown(Row(1, f"1@{MADE_MS}-0", heard), verdict()))


def test_a_word_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "autopilot" / "m" / "answer"
    assert read_given(tmp_path, "m") is None
    path.parent.mkdir(parents=True)
    for raw, found in (
        (msgspec.json.encode(word_on(ALARM, "dismissed", "a storm")), Given("dismissed", "a storm")),
        (b"confirmed the vane", Given("something that cannot be read", "confirmed the vane")),
        (b"", Given("something that cannot be read", "")),
        (b"{\xff", Given("something that cannot be read", "{\ufffd")),
    ):
        path.write_bytes(raw)
        assert read_given(tmp_path, "m") == found
