"""Tests that are looked at all the time: false alarms stay rare under any stopping, and a real difference is found."""

from __future__ import annotations

from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.comparison import ComparisonError
from training.sequential import Running, differences, error_rate_worse, sequential

RUNS, ROWS, LOOK = 200, 3000, 30


def brier(random: np.random.Generator, champion: float, challenger: float) -> np.ndarray:
    """Differences `[ROWS]` of two models that miss the true probability by so much."""
    p = random.beta(2, 5, ROWS)
    label = (random.random(ROWS) < p).astype(float)
    a, b = (np.clip(p + miss * random.choice([-1, 1], ROWS), 0, 1) for miss in (champion, challenger))
    return differences(label, a, b)[0]


def rare(random: np.random.Generator) -> np.ndarray:
    """Mean 0 and as skewed as the bound lets it be: what a bound that trusts the variance seen so far gets wrong."""
    return np.where(random.random(ROWS) < 0.01, -1.0, 0.01 / 0.99)


def first_verdict(rows: np.ndarray, alpha: float, truth: float = 0.0) -> tuple[str, int, bool]:
    """Looked at every LOOK rows until there is one; whether the truth was inside the sequence at every look."""
    running, inside = Running(), True
    for start in range(0, len(rows), LOOK):
        running = running.add(rows[start : start + LOOK])
        now = sequential(running, 1.0, alpha)
        inside &= now.low <= truth <= now.high
        if now.verdict != "undecided":
            return now.verdict, now.rows, inside
    return "undecided", len(rows), inside


def coin(random: np.random.Generator) -> np.ndarray:
    """As much variation as the bound allows."""
    return random.choice([-1.0, 1.0], ROWS)


@pytest.mark.parametrize("kind", ["alike", "rare", "coin"])
def test_stopping_when_it_pleases_gives_no_more_false_alarms_than_alpha(kind: str) -> None:
    random = np.random.default_rng(21)
    alarms = peeked = 0
    for _ in range(RUNS):
        rows = {"alike": lambda r: brier(r, 0.1, 0.1), "rare": rare, "coin": coin}[kind](random)
        alarms += first_verdict(rows, 0.1)[0] != "undecided"
        n = np.arange(1, ROWS + 1)
        mean = np.cumsum(rows) / n
        deviation = np.sqrt(np.maximum(np.cumsum(rows**2) / n - mean**2, 1e-12) / n)
        peeked += bool((np.abs(mean) > 1.645 * deviation)[LOOK::LOOK].any())
    assert alarms <= 0.1 * RUNS
    assert peeked >= 0.3 * RUNS  # what the same looks do to a test for a fixed number of rows


def test_a_real_difference_is_found_and_its_direction_is_right() -> None:
    random = np.random.default_rng(22)
    better = [first_verdict(brier(random, 0.2, 0.0), 0.05) for _ in range(40)]
    worse = [first_verdict(brier(random, 0.0, 0.2), 0.05)[0] for _ in range(40)]
    assert {v for v, *_ in better} == {"better"}
    assert set(worse) == {"worse"}
    assert np.median([n for _, n, _ in better]) < 1500


def test_the_sequence_holds_the_mean_at_every_look() -> None:
    random = np.random.default_rng(23)
    held = [first_verdict(np.where(random.random(ROWS) < 0.3, 0.5, -0.2) - 0.01, 0.1, truth=0.0)[2] for _ in range(100)]
    assert np.mean(held) >= 0.9


@given(st.lists(st.floats(-1, 1), max_size=40), st.integers(0, 40))
@settings(max_examples=60)
def test_running_sums_are_the_same_in_one_call_or_many(rows: list[float], cut: int) -> None:
    whole, parts = Running().add(rows), Running().add(rows[:cut]).add(rows[cut:])
    assert parts.rows == whole.rows == len(rows)
    assert (parts.total, parts.variation) == pytest.approx((whole.total, whole.variation), abs=1e-9)
    naive = sum((x - (np.mean(rows[:i]) if i else 0.0)) ** 2 for i, x in enumerate(rows))
    assert whole.variation == pytest.approx(naive, abs=1e-9)


def test_a_sequence_narrows_like_a_fixed_interval_times_a_small_factor() -> None:
    rows = np.tile([0.1, -0.1], 50_000)
    for n, factor in ((2_000, 3.5), (100_000, 2.2)):
        found = sequential(Running().add(rows[:n]), 1.0)
        assert 1.96 * 0.1 / n**0.5 < found.high < factor * 1.96 * 0.1 / n**0.5
    assert sequential(Running(), 1.0).verdict == "undecided"
    assert sequential(Running(), 1.0).text.startswith("undecided: +0.0000 (-1.0000 to +1.0000)")


def test_differences_are_gains_within_their_bound() -> None:
    label, a, b = [1, 0, 1], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]
    found, bound = differences(label, a, b)
    assert found == pytest.approx([0.25, -0.75, 1.0])
    assert bound == 1
    found, bound = differences(label, a, b, "log_loss", floor=0.1)
    assert bound == pytest.approx(log(9))
    assert found == pytest.approx([log(0.9 / 0.5), log(0.1 / 0.5), log(9)])
    with pytest.raises(ComparisonError, match="floor"):
        differences(label, a, b, "log_loss", floor=0.0)
    with pytest.raises(ComparisonError, match="exceeds the bound"):
        sequential(Running(3, 4.0, 1.0), 1.0)
    with pytest.raises(ComparisonError, match="positive"):
        sequential(Running(), 0.0)


def test_evidence_for_more_failures_is_an_e_value_under_any_rates_without_harm() -> None:
    n_a, n_b = 9, 7
    evidence = np.array([[error_rate_worse(a, n_a, b, n_b).e_value for b in range(n_b + 1)] for a in range(n_a + 1)])

    def chance(n: int, p: float) -> np.ndarray:
        return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])

    for p_a in np.linspace(0, 1, 21):
        for p_b in np.linspace(0, p_a, 5):
            assert chance(n_a, p_a) @ evidence @ chance(n_b, p_b) <= 1 + 1e-9


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.4])
def test_watching_equal_failure_rates_raises_no_more_alarms_than_alpha(rate: float) -> None:
    random = np.random.default_rng(24)
    alarms = 0
    for _ in range(200):
        a, b = np.cumsum(random.random((2, 1500)) < rate, axis=1)
        alarms += any(error_rate_worse(int(a[i]), i + 1, int(b[i // 5]), i // 5 + 1).worse for i in range(29, 1500, 30))
    assert alarms <= 0.05 * 200


def test_a_challenger_that_fails_more_is_found() -> None:
    assert error_rate_worse(1, 1000, 40, 1000).worse
    assert error_rate_worse(0, 9000, 5, 1000).worse
    assert error_rate_worse(0, 30, 15, 30).p_value < 0.001
    assert error_rate_worse(1000, 2000, 1300, 2000).worse
    for counts in ((40, 1000, 1, 1000), (0, 0, 5, 5), (0, 10, 0, 10), (5, 5, 5, 5), (0, 0, 0, 0)):
        found = error_rate_worse(*counts)
        assert not found.worse
        assert found.p_value == 1
    with pytest.raises(ComparisonError, match="6 failures of 5 requests"):
        error_rate_worse(0, 5, 6, 5)
