"""What truths say: inputs that moved and took the truth along, or the same scores with another truth."""

from __future__ import annotations

import numpy as np
import pytest

from serving.monitoring.hours import DAY_US
from serving.monitoring.triage.truth import FEWEST, Expected

DAYS, PER_DAY = 120, 60


def drawn(
    days: int, seed: int, shift: float = 0.0, concept: float = 0.0, numbers: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, truths and moments; `shift` moves the scores, `concept` the truth of a score."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, days * DAY_US, days * PER_DAY))
    logit = rng.normal(-0.5 + shift, 1, len(at)) + 0.3 * np.sin(at / DAY_US / 9)
    score = 1 / (1 + np.exp(-logit))
    if numbers:
        return logit, 20 + 5 * logit + concept * 5 + rng.normal(0, 4, len(at)), at
    return score, (rng.random(len(at)) < 1 / (1 + np.exp(-logit - concept))).astype(float), at


@pytest.fixture(scope="module")
def expected() -> Expected:
    return Expected(*drawn(DAYS, 0), 7 * DAY_US)


def test_inputs_that_move_take_the_truth_along_and_that_is_no_other_concept(expected: Expected) -> None:
    found = expected.look(*drawn(7, 1, shift=1.2))
    assert found is not None
    assert not found.changed
    assert found.by_inputs == pytest.approx(found.mean - found.usual, abs=0.06)
    assert found.by_inputs > 0.15


@pytest.mark.parametrize("concept", [-1.0, 1.0])
def test_the_same_scores_with_another_truth_are_another_concept(expected: Expected, concept: float) -> None:
    found = expected.look(*drawn(7, 2, concept=concept))
    assert found is not None
    assert found.changed
    assert found.by_concept * concept > 0.1
    assert abs(found.by_inputs) < 0.06
    assert abs(found.loss - found.expected_loss) > 0.02


def test_both_parts_make_the_whole_move(expected: Expected) -> None:
    found = expected.look(*drawn(7, 3, shift=1, concept=1))
    assert found is not None
    assert found.by_inputs + found.by_concept == pytest.approx(found.mean - found.usual)


def test_weeks_without_a_change_are_seldom_called_one(expected: Expected) -> None:
    found = [expected.look(*drawn(7, 100 + seed)) for seed in range(60)]
    assert sum(one.changed for one in found if one is not None) <= 2


def test_too_few_truths_say_nothing_but_the_estimate(expected: Expected) -> None:
    score, truth, at = drawn(7, 4)
    truth[FEWEST - 1 :] = np.nan
    assert expected.look(score, truth, at) is None
    told = expected.summary(score, None)
    assert told is not None
    assert (told.known, told.changed, told.loss) == (0, False, None)
    assert told.estimated_loss == pytest.approx(told.usual_loss, rel=0.15)
    assert Expected(score[:0], truth[:0], at[:0], DAY_US).summary(score, None) is None


def test_truths_that_are_numbers_are_judged_in_their_own_deviations() -> None:
    usual = Expected(*drawn(DAYS, 5, numbers=True), 7 * DAY_US)
    assert not usual.binary
    same, other = usual.look(*drawn(7, 6, numbers=True)), usual.look(*drawn(7, 7, concept=1, numbers=True))
    assert same is not None
    assert other is not None
    assert not same.changed
    assert other.changed
    assert other.by_concept == pytest.approx(5, abs=1.5)


def test_a_seldom_truth_that_doubles_is_another_concept() -> None:
    """One in forty becomes one in twelve: four points, and more than twice as many."""
    rng = np.random.default_rng(6)

    def seldom(days: int, by: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.sort(rng.integers(0, days * DAY_US, days * 300))
        logit = rng.normal(-4, 0.7, len(at))
        return 1 / (1 + np.exp(-logit)), (rng.random(len(at)) < 1 / (1 + np.exp(-logit - by))).astype(float), at

    rare = Expected(*seldom(120, 0.0), 6 * DAY_US)
    assert rare.usual < 0.03
    calm = [rare.look(*seldom(6, 0.0)) for _ in range(40)]
    assert sum(one.changed for one in calm if one is not None) <= 2
    found = rare.look(*seldom(6, 1.2))
    assert found is not None
    assert found.changed
    assert found.by_concept < 0.06, "few points, and yet it matters"
