"""What verdicts in a row come to: held for some days on a suspicion, for as long as it stands on a proof, and heard from a person."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from feature_repo.records.decisions import Journal
from feature_repo.records.held import HeldList
from feature_repo.records.redis_keys import held_key
from feature_repo.records.verdict import history_path
from feature_repo.spec.retraining import Learning
from feature_repo.triggers.base import DAY_US
from feature_repo.triggers.table import Triggers
from tests.training.retraining.world import MODEL, World
from training.data.left_out import interval_of, interval_text
from training.retraining.alarm import word_on


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

    def said(*arguments: str, code: int = 0) -> str:
        found = CliRunner().invoke(app, ["alarm", *arguments])
        assert found.exit_code == code, found.output
        return " ".join(found.output.split())

    monkeypatch.setattr(loop_cli, "own_settings", lambda: world.settings)
    monkeypatch.setattr(loop_cli, "model_name", lambda case, model: MODEL)
    world.serve()
    world.pilot().step()
    assert said().startswith(f"no alarm on {MODEL}")
    assert "nothing is noted" in said("--dismiss", "it is hot", code=1)
    world.drift(retrain=False)
    world.pilot().step()
    shown = said()
    assert "a suspicion, since" in shown
    assert "pipeline fault: dock: charge moved" in shown
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
    monkeypatch.setattr(training_set, "newest_known", lambda *_: 20_000 * DAY_US)
    monkeypatch.setattr(retrain, "train_again", stop)
    monkeypatch.setattr(loop_cli, "model_name", lambda case, model: MODEL)
    whole, may = asked(), asked("2024-05-01/2024-05-31")
    assert may.left_out == [interval_of("2024-05-01/2024-05-31")]
    both = asked("2024-05-01/2024-05-31", "2024-07-01/2024-07-02")
    assert len({whole.trigger, may.trigger, both.trigger}) == 3
    assert asked("2024-07-01/2024-07-02", "2024-05-09/2024-05-31", "2024-05-01/2024-05-20").trigger == both.trigger
