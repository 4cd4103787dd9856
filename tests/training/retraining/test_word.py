"""A person's word on an alarm reaches the loop, and the journal says which did not count and why."""

from __future__ import annotations

import msgspec
import pytest

from feature_repo.records.decisions import Journal
from feature_repo.records.verdict import history_path
from feature_repo.triggers.base import DAY_US
from tests.training.retraining.test_alarm import answer
from tests.training.retraining.test_alarm_row import verdict
from tests.training.retraining.world import MODEL, World


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


def told(began: int, kinds: str) -> list[bytes]:
    """Lines of a history, a verdict a day: s, a suspicion; q, a quiet one."""
    return [msgspec.json.encode(verdict(began + n, {"s": "suspicion", "q": "quiet"}[kind])) + b"\n" for n, kind in enumerate(kinds, 1)]


JUNK = b"x" * 5000 + b"\n"


@pytest.mark.parametrize("kept", [4, 5], ids=["a backup comes back", "a junk line goes"])
def test_a_history_that_became_shorter_loses_no_word(world: World, kept: int) -> None:
    path = history_path(world.settings, MODEL)
    world.serve()
    path.parent.mkdir(parents=True, exist_ok=True)
    began = world.now_us // DAY_US - 5
    lines = told(began, "sqqss")
    path.write_bytes(JUNK + b"".join(lines))
    world.pilot().step()
    answer(world, "confirmed", "a broken feed")
    world.pilot().step()
    path.write_bytes(b"".join(lines[:kept]))
    assert "a person has confirmed the fault (a broken feed)" in world.pilot().step()
    row = world.pilot().state.row
    assert row.alarm is not None
    assert (row.alarm.answer, row.alarm.since_us) == ("confirmed", (began + 4) * DAY_US)
    assert row.seen == f"1@{(began + 5) * DAY_US // 1000}-0"


def test_a_history_that_became_another_and_grew_is_read_from_its_beginning(world: World) -> None:
    path = history_path(world.settings, MODEL)
    world.serve()
    path.parent.mkdir(parents=True, exist_ok=True)
    began = world.now_us // DAY_US - 12
    path.write_bytes(JUNK + b"".join(told(began, "ss")))
    world.pilot().step()
    path.write_bytes(b"".join(told(began, "ssqq" + 12 * "s")))
    assert path.stat().st_size > world.pilot().state.read
    world.pilot().step()
    row = world.pilot().state.row
    assert row.alarm is not None
    assert row.alarm.since_us == (began + 5) * DAY_US, "the two quiet ones ended the first"
