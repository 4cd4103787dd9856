"""Tests that are looked at all the time: false alarms stay rare under any stopping, and a real difference is found."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.comparison import ComparisonError
from training.evaluation.sequential import compare_as_it_comes, error_rate_worse, gains, spread

RUNS, DAYS, PER_DAY, LOOK = 200, 12, 250, 30


def brier(random: np.random.Generator, champion: float, challenger: float) -> np.ndarray:
    """Gains of two models that miss the true probability by so much, rows of a day sharing nothing."""
    n = DAYS * PER_DAY
    p = random.beta(2, 5, n)
    label = (random.random(n) < p).astype(float)
    a, b = (np.clip(p + miss * random.choice([-1, 1], n), 0, 1) for miss in (champion, challenger))
    return gains(label, a, b)


DAY = np.repeat(np.arange(DAYS), PER_DAY)


def shared(random: np.random.Generator, between: float, mean: float = 0.0, within: float = 0.15) -> np.ndarray:
    """Gains that a day's rows share a part of."""
    return mean + random.normal(0, between, DAYS)[DAY] + random.normal(0, within, len(DAY))


def first_verdict(rows: np.ndarray, alpha: float, known: float | None, truth: float = 0.0) -> tuple[str, int, bool]:
    """Looked at every LOOK rows until there is one; whether the truth was inside the sequence at every look."""
    inside = True
    for end in range(LOOK, len(rows) + 1, LOOK):
        now = compare_as_it_comes(rows[:end], DAY[:end], known, alpha)
        inside &= now.low <= truth <= now.high
        if now.verdict != "undecided":
            return now.verdict, now.rows, inside
    return "undecided", len(rows), inside


@pytest.mark.slow
@pytest.mark.parametrize(("between", "known"), [(0.0, None), (0.02, 0.02), (0.05, 0.05)])
def test_stopping_when_it_pleases_gives_no_more_false_alarms_than_alpha(between: float, known: float | None) -> None:
    random = np.random.default_rng(21)
    alarms = peeked = 0
    for _ in range(RUNS):
        rows = shared(random, between) if between else brier(random, 0.1, 0.1)
        alarms += first_verdict(rows, 0.1, known)[0] != "undecided"
        n = np.arange(1, len(rows) + 1)
        mean = np.cumsum(rows) / n
        deviation = np.sqrt(np.maximum(np.cumsum(rows**2) / n - mean**2, 1e-12) / n)
        peeked += bool((np.abs(mean) > 1.645 * deviation)[LOOK::LOOK].any())
    assert alarms <= 0.1 * RUNS
    assert peeked >= 0.3 * RUNS  # what the same looks do to a test for a fixed number of rows


def test_one_day_is_not_enough_for_what_a_day_may_do_and_enough_for_what_none_does() -> None:
    random = np.random.default_rng(25)
    usual = [compare_as_it_comes(shared(random, 0.02, mean=-0.005)[:PER_DAY], DAY[:PER_DAY], 0.02, 0.01).verdict for _ in range(100)]
    assert usual.count("worse") <= 1
    rows_alone = [compare_as_it_comes(shared(random, 0.05)[:PER_DAY], DAY[:PER_DAY], None, 0.01).verdict for _ in range(100)]
    assert rows_alone.count("undecided") < 70, "without the spread a day's luck looks like a difference"
    broken = [compare_as_it_comes(shared(random, 0.02, mean=-0.2)[:PER_DAY], DAY[:PER_DAY], 0.02, 0.01).verdict for _ in range(100)]
    assert set(broken) == {"worse"}


def test_a_real_difference_is_found_and_its_direction_is_right() -> None:
    random = np.random.default_rng(22)
    better = [first_verdict(brier(random, 0.2, 0.0), 0.05, None) for _ in range(40)]
    worse = [first_verdict(brier(random, 0.0, 0.2), 0.05, None)[0] for _ in range(40)]
    assert {v for v, *_ in better} == {"better"}
    assert set(worse) == {"worse"}
    assert np.median([n for _, n, _ in better]) < 1000


def test_the_sequence_holds_the_mean_at_every_look() -> None:
    random = np.random.default_rng(23)
    held = [first_verdict(shared(random, 0.03, mean=0.01), 0.1, 0.03, truth=0.01)[2] for _ in range(100)]
    assert np.mean(held) >= 0.9


@given(st.integers(0, 2**32 - 1), st.integers(5, 20), st.floats(0, 0.3))
@settings(max_examples=40)
def test_the_spread_is_that_of_a_naive_one_way_table(seed: int, days: int, between: float) -> None:
    random = np.random.default_rng(seed)
    day = np.sort(random.integers(0, days, 60 * days))
    gain = random.normal(0, between, days)[day] + random.normal(0, 0.2, len(day))
    groups = [gain[day == d] for d in range(days) if (day == d).any()]
    k, n = len(groups), len(gain)
    if k < 5:
        assert spread(gain, day) is None
        return
    among = sum(len(x) * (x.mean() - gain.mean()) ** 2 for x in groups) / (k - 1)
    within = sum(((x - x.mean()) ** 2).sum() for x in groups) / (n - k)
    size = (n - sum(len(x) ** 2 for x in groups) / n) / (k - 1)
    assert spread(gain, day * 7 - 3) == pytest.approx(max(0.0, (among - within) / size) ** 0.5, abs=1e-9)


def test_the_spread_is_found_again() -> None:
    random = np.random.default_rng(26)
    day = np.repeat(np.arange(300), 100)
    assert spread(random.normal(0, 0.05, 300)[day] + random.normal(0, 0.3, len(day)), day) == pytest.approx(0.05, rel=0.15)


def test_a_sequence_narrows_like_a_fixed_interval_times_a_small_factor() -> None:
    for days, factor in ((2, 2.0), (7, 1.6), (100, 1.9)):
        rows = np.tile([0.1, -0.1], 50 * days)
        found = compare_as_it_comes(rows, np.repeat(np.arange(days), 100), 0.05)
        error = (0.05**2 / days + 0.01 / len(rows)) ** 0.5
        assert 1.96 * error < found.high < factor * 1.96 * error
    nothing = compare_as_it_comes([], [])
    assert (nothing.verdict, nothing.text) == ("undecided", "+0.0000 (-1.0000 to +1.0000 at any time)")


def test_gains_are_what_the_challenger_is_closer_by() -> None:
    assert gains([1, 0, 1], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]) == pytest.approx([0.25, -0.75, 1.0])
    with pytest.raises(ComparisonError):
        gains([1, 0], [0.5], [0.5, 0.5])
    with pytest.raises(ComparisonError, match="alpha"):
        compare_as_it_comes([0.0], [0], alpha=1)


def test_evidence_for_more_failures_is_an_e_value_under_any_rates_without_harm() -> None:
    n_a, n_b = 9, 7
    evidence = np.array([[error_rate_worse(a, n_a, b, n_b).e_value for b in range(n_b + 1)] for a in range(n_a + 1)])

    def chance(n: int, p: float) -> np.ndarray:
        return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])

    for p_a in np.linspace(0, 1, 21):
        for p_b in np.linspace(0, p_a, 5):
            assert chance(n_a, p_a) @ evidence @ chance(n_b, p_b) <= 1 + 1e-9


@pytest.mark.slow
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
