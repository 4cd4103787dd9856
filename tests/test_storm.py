"""The parts of the storm: its inputs, its ledger, and when it calls something recovered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.storm import recovery
from tests.bench.storm.client import REFUSED, TIMEOUT, Answer
from tests.bench.storm.ground import Ground, ground
from tests.bench.storm.hostile_events import FUTURE, MADE, event
from tests.bench.storm.hostile_requests import KINDS, hostile
from tests.bench.storm.ledger import Ledger, Outcome


@pytest.fixture
def place() -> Iterator[Ground]:
    with ground() as made:
        yield made


def test_every_hostile_event_is_one_of_a_kind_and_says_what_must_become_of_it() -> None:
    made = [event(n) for n in range(3 * len(MADE))]
    assert len({one.data for one in made}) >= len(made) - 3  # a deep one may come again
    assert all((one.row is not None) == (one.expect == "applied") for one in made)
    assert {kind for kind, _, _ in FUTURE} < {kind for kind, _, _ in MADE}
    assert [hostile(n).kind for n in range(KINDS)] == [hostile(n).kind for n in range(KINDS, 2 * KINDS)]


@pytest.mark.parametrize(
    ("answer", "hostile", "verdict"),
    [
        (Answer(200, 0.1), False, "ok"),
        (Answer(200, 0.1), True, "unexpected"),
        (Answer(422, 0.1), True, "refused"),
        (Answer(422, 0.1), False, "unexpected"),
        (Answer(500, 0.1), True, "unexpected"),
        (Answer(503, 0.1, {"retry-after": "1"}), False, "busy"),
        (Answer(503, 0.1), False, "unexpected"),
        (Answer(503, 9.0, {"retry-after": "1"}), False, "unexpected"),
        (Answer(None, 0.1, error=REFUSED), False, "unreached"),
        (Answer(None, 20.0, error=TIMEOUT), False, "unexpected"),
    ],
)
def test_an_answer_is_judged_by_what_was_asked(answer: Answer, hostile: bool, verdict: str) -> None:
    assert Ledger().note("predict", answer, hostile=hostile).verdict == verdict


def _answers(*spans: tuple[float, float, str]) -> list[Outcome]:
    """Ten answers a second of a verdict from one moment to another."""
    return [
        Outcome(start + i / 10, "predict", verdict, False, "", 0.01)  # type: ignore[arg-type]
        for start, end, verdict in spans
        for i in range(round((end - start) * 10))
    ]


def test_serving_has_recovered_when_answers_stay_right() -> None:
    assert recovery.serving_s(_answers((0, 5, "ok")), 1.0, 10) == 0.0
    outage = _answers((0, 1, "ok"), (1, 3, "busy"), (3, 4, "ok"), (4, 4.5, "busy"), (4.5, 9, "ok"))
    assert recovery.serving_s(outage, 1.0, 10) == pytest.approx(3.4)
    assert recovery.serving_s(_answers((0, 1, "ok"), (1, 3, "busy")), 1.0, 10) is None
    silence = _answers((0, 1, "ok"), (6, 9, "ok"))
    assert recovery.serving_s(silence, 1.0, 10) == pytest.approx(5.0)


def test_a_stream_has_recovered_when_it_keeps_up() -> None:
    lags: list[tuple[float, float | None]] = [(0, 0.1), (1, None), (2, 9.0), (3, 0.5), (5, 0.5), (7, 0.5)]
    assert recovery.stream_s(lags, 1.0) == 1.0
    assert recovery.stream_s(lags[:4], 1.0) is None


def test_a_full_disk_is_freed_again(place: Ground) -> None:
    if not place.own_disk:
        pytest.skip("mounting a file system takes a right that this user does not have")
    assert not place.is_full()
    assert place.fill() > 0
    assert place.is_full()
    place.free()
    assert not place.is_full()
