"""What verdicts in a row come to: held for some days on a suspicion, for as long as it stands on a proof, and heard from a person."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from feature_repo.records.decisions import Journal
from feature_repo.records.held import HeldList
from feature_repo.records.redis_keys import held_key
from feature_repo.records.verdict import Evidence, FeatureVerdict, OutlierVerdict, Span, Triage, Verdict, history_path
from feature_repo.spec.retraining import Learning
from feature_repo.triggers.base import DAY_US
from feature_repo.triggers.table import Triggers
from tests.training.retraining.world import MODEL, World
from training.data.left_out import interval_of, interval_text
from training.retraining.alarm import LONGEST_US, Row, after, answered, pruned, settled, word_on


def held(world: World) -> HeldList:
    return msgspec.json.decode(world.client.get(held_key(world.project, MODEL)), type=HeldList)


def test_a_suspicion_holds_the_trigger_for_some_days_and_is_on_the_list(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    began = world.now_us
    assert "held: a fault is suspected" in world.pilot().step()
    for day in range(1, 7):
        world.now_us = began + day * DAY_US
        world.serve()
        world.drift(retrain=False, number=f"d{day}")
        assert "held" in world.pilot().step()
    (one,) = held(world).held
    assert (one.what, one.since_us, one.until_us) == ("drift", began, began + 7 * DAY_US)
    assert "dock: charge moved" in one.text
    world.now_us = began + 7 * DAY_US
    world.serve()
    assert "begins its shadow" in world.pilot().step(), "nobody has proven it in seven days"
    assert world.trained[-1].text.startswith("pipeline fault: dock: charge moved")


def test_a_suspicion_that_comes_and_goes_holds_no_longer(world: World) -> None:
    """One quiet verdict, or one that calls it a change, does not begin the days anew; two quiet ones end the alarm."""
    world.serve()
    world.drift(retrain=False)
    began = world.now_us
    spec = world.case.model(MODEL)
    asked = spec.learning.triggers.model_copy(update={"drift_verdicts": 3})
    world.case.models[MODEL] = spec.model_copy(update={"learning": spec.learning.model_copy(update={"triggers": asked})})
    for day in range(1, 7):
        world.now_us = began + day * DAY_US
        world.serve()
        world.drift(retrain=day % 2 == 0, number=f"d{day}", quiet=day % 3 == 0)
        assert "begins" not in world.pilot().step()
    world.now_us = began + 7 * DAY_US
    world.serve()
    world.drift(retrain=False, number="last")
    assert "begins its shadow" in world.pilot().step()


def test_an_alarm_that_has_ended_holds_nothing(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    assert "held" in world.pilot().step()
    for number in ("q1", "q2"):
        world.drift(number=number, quiet=True)
    assert world.pilot().step() == "nothing to do"
    assert held(world).held == []


def test_a_proof_holds_for_as_long_as_it_stands(world: World) -> None:
    world.serve()
    world.drift(retrain=False, proof=True)
    assert "held: the fault is proven" in world.pilot().step()
    world.now_us += 60 * DAY_US
    world.serve()
    world.drift(retrain=False, proof=True, number="later")
    assert "held: the fault is proven" in world.pilot().step()
    assert held(world).held[0].until_us is None
    assert world.trained == []


HOUR_US = 3_600_000_000


def answer(world: World, said: Any, why: str = "the boss knows") -> None:
    """As the command does."""
    alarm = world.pilot().state.row.alarm
    assert alarm is not None
    world.pilot().answer_path.write_bytes(msgspec.json.encode(word_on(alarm, said, why)))


def ask(world: World, text: str = "the boss") -> None:
    world.pilot().request_path.write_text(text)


def test_under_a_proven_fault_others_may_train_and_its_examples_are_left_out(world: World) -> None:
    world.serve()
    world.drift(retrain=False, proof=True, place="source")
    first = (world.now_us - HOUR_US, world.now_us)
    assert "held: the fault is proven" in world.pilot().step()
    ask(world)
    assert "begins its shadow" in world.pilot().step()
    assert world.left_out == [[first]]
    (triggered,) = [d for d in Journal(world.settings.state, MODEL).read() if d.step == "triggered"]
    assert triggered.facts["left out"] == interval_text(first)


def test_what_was_proven_stays_left_out_when_the_fault_is_mended_and_of_the_next_version(world: World) -> None:
    world.serve()
    world.drift(retrain=False, proof=True)
    first = (world.now_us - HOUR_US, world.now_us)
    world.pilot().step()
    world.now_us += DAY_US
    world.serve()
    for number in ("q1", "q2"):
        world.drift(number=number, quiet=True)
    assert world.pilot().step() == "nothing to do"
    ask(world)
    world.until("kept")
    assert world.live() == 2
    world.drift(retrain=False, proof=True, number="again")
    second = (world.now_us - HOUR_US, world.now_us)
    ask(world, "once more")
    world.pilot().step()
    assert world.left_out == [[first], [first, second]]


def test_what_was_only_served_wrongly_is_learnt_from_since_a_training_computes_it_again(world: World) -> None:
    world.serve()
    world.drift(retrain=False, proof=True, place="recomputation")
    assert "held: the fault is proven" in world.pilot().step()
    ask(world)
    world.pilot().step()
    assert world.left_out == [[]]


def test_a_proof_that_a_person_dismisses_leaves_nothing_out(world: World) -> None:
    world.serve()
    world.drift(retrain=False, proof=True)
    world.pilot().step()
    answer(world, "dismissed", "we sold the docks")
    assert "begins its shadow" in world.pilot().step()
    assert world.left_out == [[]]


def test_a_training_for_another_reason_does_not_begin_the_days_anew(world: World) -> None:
    """A version that its gates refuse has not answered the alarm."""
    world.serve()
    world.drift(retrain=False)
    began = world.now_us
    world.pilot().step()
    world.gates_pass = False
    ask(world)
    assert "refused" in world.pilot().step()
    world.now_us = began + 7 * DAY_US
    world.serve()
    world.drift(retrain=False, number="d7")
    assert "refused" in world.pilot().step(), "the drift trigger has fired: nobody has proven the fault in seven days"
    assert [r.kind for r in world.trained] == ["request", "drift"]


def test_a_training_that_comes_to_nothing_does_not_begin_the_days_anew(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    began = world.now_us
    world.pilot().step()
    world.now_us = began + 7 * DAY_US
    world.serve()
    pilot = world.pilot()
    pilot.train = lambda reason, as_of_us, left_out: None
    for _ in range(4):
        text = pilot.step()
    assert "no version came of 3 trainings" in text
    world.now_us = began + 9 * DAY_US
    world.serve()
    world.drift(retrain=False, number="d9")
    assert "begins its shadow" in world.pilot().step()


@pytest.mark.parametrize(("proof", "said", "trains"), [(False, "dismissed", True), (True, "dismissed", True), (False, "confirmed", False)])
def test_a_person_s_word_on_an_alarm_is_heard(world: World, proof: bool, said: str, trains: bool) -> None:
    world.serve()
    world.drift(retrain=False, proof=proof)
    assert "held" in world.pilot().step()
    answer(world, said, "the boss knows")
    if not trains:
        world.now_us += 20 * DAY_US
        world.serve()
    text = world.pilot().step()
    assert ("begins its shadow" in text) == trains
    assert trains or "a person has confirmed the fault (the boss knows)" in text
    assert said in world.steps()
    assert not world.pilot().answer_path.exists()


def test_a_training_that_comes_to_nothing_spends_neither_cooldown_nor_budget(world: World) -> None:
    world.serve()
    world.drift()
    pilot = world.pilot()
    pilot.train = lambda reason, as_of_us, left_out: None
    for _ in range(4):
        text = pilot.step()
    assert "no version came of 3 trainings" in text
    assert pilot.state.trained_us == []
    world.drift(number="v2")
    assert "held: the last training came to nothing" in pilot.step()
    world.now_us += DAY_US
    world.serve()
    assert "begins its shadow" in world.pilot().step()


def test_where_nothing_is_known_no_trigger_goes_by_the_wall_clock(world: World) -> None:
    """On historical data the wall is years ahead: whatever looks at it is due at once."""
    spec = world.case.model(MODEL)
    world.case.models[MODEL] = spec.model_copy(
        update={"spine": spec.spine.model_copy(update={"table": "no_table_yet"}), "learning": Learning(triggers=Triggers(schedule_days=1))}
    )
    world.settings = world.settings.model_copy(update={"request_now": True})
    assert world.pilot().step() == "nothing to do: there is neither a prediction nor a truth yet"
    assert world.trained == []


def test_verdicts_between_two_steps_are_all_seen_and_one_that_is_half_written_waits(world: World) -> None:
    path = history_path(world.settings, MODEL)
    world.serve()
    world.pilot().step()
    world.drift(retrain=False, number="a")
    world.drift(number="b", quiet=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert "held" in world.pilot().step()
    assert world.pilot().state.row.seen == "a"
    path.write_bytes(whole)
    world.drift(number="c", quiet=True)
    assert world.pilot().step() == "nothing to do"
    assert (world.pilot().state.row.seen, world.pilot().state.row.alarm) == ("c", None)


def test_the_command_shows_the_alarm_with_its_evidence_and_takes_a_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from headrace import app
    from training import loop_cli

    def said(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["alarm", *arguments])
        assert found.exit_code == 0, found.output
        return " ".join(found.output.split())

    monkeypatch.setattr(loop_cli, "own_settings", lambda: world.settings)
    monkeypatch.setattr(loop_cli, "model_name", lambda case, model: MODEL)
    world.serve()
    world.pilot().step()
    assert said() == f"no alarm on {MODEL}"
    assert "nothing is noted" in said("--dismiss", "it is hot")
    world.drift(retrain=False)
    world.pilot().step()
    shown = said()
    assert "suspicion: pipeline fault: dock: charge moved" in shown
    assert "drift" in shown
    assert "--confirm WHY" in shown
    assert "noted" in said("--dismiss", "it is hot")
    assert "begins its shadow" in world.pilot().step()
    assert "it is hot" in next(d.text for d in Journal(world.settings.state, MODEL).read() if d.step == "dismissed")


def test_a_training_of_a_person_that_leaves_out_something_is_another_one(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Not the one of the same moment that leaves out nothing, nor other spans; the same spans are the same, however they are said."""
    from typer.testing import CliRunner

    from headrace import app
    from training import loop_cli
    from training.data import training_set
    from training.retraining import retrain

    def asked(*spans: str) -> retrain.Order:
        arguments = [word for span in spans for word in ("--leave-out", span)]
        found = CliRunner().invoke(app, ["retrain", *arguments])
        assert isinstance(found.exception, Asked), found.output
        return found.exception.order

    class Asked(Exception):
        def __init__(self, order: retrain.Order) -> None:
            self.order = order

    def stop(spark: Any, case: Any, own: Any, spec: Any, order: retrain.Order, progress: Any) -> int:
        raise Asked(order)

    monkeypatch.setattr(loop_cli, "own_settings", lambda: world.settings)
    monkeypatch.setattr(training_set, "newest_known", lambda *_: NOW * DAY_US)
    monkeypatch.setattr(retrain, "train_again", stop)
    monkeypatch.setattr(loop_cli, "model_name", lambda case, model: MODEL)
    whole, may = asked(), asked("2024-05-01/2024-05-31")
    assert may.left_out == [interval_of("2024-05-01/2024-05-31")]
    both = asked("2024-05-01/2024-05-31", "2024-07-01/2024-07-02")
    assert len({whole.trigger, may.trigger, both.trigger}) == 3
    assert asked("2024-07-01/2024-07-02", "2024-05-09/2024-05-31", "2024-05-01/2024-05-20").trigger == both.trigger


def test_a_clock_that_was_ahead_holds_for_no_longer_than_one_that_is_right() -> None:
    """The first verdict is dated ten years ahead; the days that a suspicion may hold begin with the first one of the right time."""
    row = Row(1)
    for n, day in enumerate((4000, 10, 11)):
        triage = SimpleNamespace(retrain=False, proof=False, cause="pipeline fault", detail="view guest", evidence=[], views=[])
        said: Any = SimpleNamespace(version=1, id=f"1@{n}", triage=triage, features=[], at_us=day * DAY_US)
        row = after(row, said)
    assert row.alarm is not None
    assert row.alarm.since_us == 10 * DAY_US


# one verdict after the other


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


# in the loop


def journal(world: World, step: str) -> list[str]:
    return [d.text for d in Journal(world.settings.state, MODEL).read() if d.step == step]


def test_a_word_that_is_heard_when_its_alarm_is_over_is_dropped_and_the_journal_says_so(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    world.pilot().step()
    answer(world, "dismissed", "a promotion")
    for number in ("q1", "q2"):
        world.drift(number=number, quiet=True)
    world.now_us += DAY_US
    world.serve()
    world.drift(retrain=False, proof=True, number="other", place="source")
    assert "held: the fault is proven" in world.pilot().step()
    (text,) = journal(world, "unheard")
    assert text == "dismissed (a promotion) is dropped: the alarm that it is about is over"
    assert not world.pilot().answer_path.exists()


def test_a_word_lapses_with_its_alarm_and_where_something_else_is_proven_and_the_journal_says_so(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    world.pilot().step()
    answer(world, "confirmed", "the feed broke")
    world.pilot().step()
    for number in ("p1", "p2"):
        world.drift(retrain=False, proof=True, number=number, place="source")
        world.pilot().step()
    (text,) = journal(world, "lapsed")
    assert text.startswith("confirmed (the feed broke): it does not count for what the alarm is by now (pipeline fault: dock")
    for number in ("q1", "q2"):
        world.drift(number=number, quiet=True)
    world.pilot().step()
    assert journal(world, "lapsed")[1:] == ["confirmed (the feed broke): the alarm that it is about is over"]


@pytest.mark.parametrize("raw", [b"", b"dismi", b'{"alarm":"v1","said":"dism', b"dismissed it is hot", b"\xff"])
def test_a_word_that_cannot_be_read_is_in_the_journal(world: World, raw: bytes) -> None:
    world.serve()
    world.drift(retrain=False)
    world.pilot().step()
    world.pilot().answer_path.write_bytes(raw)
    assert "held" in world.pilot().step()
    (text,) = journal(world, "unheard")
    assert "cannot be read, and is dropped" in text
    assert not world.pilot().answer_path.exists()


def test_a_word_is_heard_after_a_kill_and_one_that_is_said_meanwhile_as_well(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    world.pilot().step()
    answer(world, "confirmed", "first")
    world.pilot().answer_path.rename(world.pilot().home / "answer.heard")  # as a step that is killed leaves it
    answer(world, "dismissed", "second")
    world.pilot().step()
    assert journal(world, "confirmed")
    world.pilot().step()
    assert journal(world, "dismissed")


@pytest.mark.parametrize("change", ["a junk line goes", "a backup comes back", "grown meanwhile"])
def test_a_history_that_was_changed_loses_no_word(world: World, change: str) -> None:
    path = history_path(world.settings, MODEL)
    world.serve()
    path.parent.mkdir(parents=True, exist_ok=True)
    junk = b"x" * 5000 + b"\n"
    kinds, began = ("suspicion", "quiet", "quiet", "suspicion", "suspicion"), world.now_us // DAY_US - 5
    lines = [msgspec.json.encode(verdict(began + n, k)) + b"\n" for n, k in enumerate(kinds, 1)]
    path.write_bytes(junk + b"".join(lines))
    world.pilot().step()
    answer(world, "confirmed", "a broken feed")
    world.pilot().step()
    count = 24 if change == "grown meanwhile" else 0
    more = b"".join(msgspec.json.encode(verdict(began + n, "suspicion")) + b"\n" for n in range(6, 6 + count))
    path.write_bytes(b"".join(lines[:-1] if change == "a backup comes back" else lines) + more)
    assert "a person has confirmed the fault (a broken feed)" in world.pilot().step()
    alarm = world.pilot().state.row.alarm
    assert alarm is not None
    assert (alarm.answer, alarm.since_us) == ("confirmed", (began + 4) * DAY_US)
    assert world.pilot().state.row.seen == f"1@{(began + 5 + count) * DAY_US // 1000}-0"
