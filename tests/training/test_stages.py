"""What a stage concludes, and how often it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_repo.learning import Stage, Stages
from training.sequential import gains, spread
from training.stages import Evidence, Traffic, rule

STAGE, STAGES = Stage(samples=500, labelled=300, hours=24), Stages(alpha=0.05, latency_ms=5)


def seen(
    random: np.random.Generator, worse: float = 0.0, hours: int = 30, per_hour: int = 20, shared: float = 0.0, **changes: Any
) -> Evidence:
    """A challenger whose odds are off by `worse`, and off on each day by chance (`shared`), beside one that is off by chance too."""
    n = hours * per_hour
    day = np.repeat(np.arange(hours), per_hour) // 24
    days = int(day.max()) + 1
    odds = random.normal(-1, 1, n)
    label = (random.random(n) < 1 / (1 + np.exp(-odds))).astype(float)
    off, other = (odds + random.normal(0, shared, days)[day] if shared else odds for _ in range(2))
    off = off + worse
    values = {"samples": n, "hours": float(hours), "label": label, "challenger": 1 / (1 + np.exp(-off)), "other": 1 / (1 + np.exp(-other))}
    return Evidence(**(values | {"day": day} | changes))


def test_a_stage_waits_until_it_has_seen_enough_and_not_for_ever() -> None:
    random = np.random.default_rng(0)
    assert rule(STAGE, STAGES, seen(random, samples=499)).what == "wait"
    assert rule(STAGE, STAGES, seen(random, hours=10)).what == "wait"
    assert rule(STAGE, STAGES, seen(random)).what == "go"
    late = rule(STAGE, STAGES, Evidence(3, 31 * 24.0, *(np.zeros(0),) * 3, np.zeros(0, np.int64)))
    assert late.what == "stop"
    assert "has not seen enough" in late.text
    unpaired = Evidence(600, 30.0, *(np.zeros(0),) * 3, np.zeros(0, np.int64), unpaired="version 3 reads x")
    assert rule(STAGE, STAGES, unpaired).what == "go"
    assert "not compared" in rule(STAGE, STAGES, unpaired).text


def test_one_that_is_much_worse_ends_at_once_and_one_that_is_worse_at_the_end() -> None:
    random = np.random.default_rng(1)
    at_once = rule(STAGE, STAGES, seen(random, worse=4.0, samples=10))
    assert at_once.what == "stop"
    assert at_once.text.startswith("answers worse: Brier")
    ends = [rule(STAGE, STAGES, seen(random, worse=0.8, hours=40)).what for _ in range(40)]
    assert ends.count("stop") >= 36


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_one_that_is_no_worse_is_seldom_ended_though_rows_of_a_day_go_together(shared: float) -> None:
    random = np.random.default_rng(2)
    before = seen(random, shared=shared, hours=24 * 200)
    varies = spread(gains(before.label, before.other, before.challenger), before.day)
    ended = [rule(STAGE, STAGES, seen(random, shared=shared, hours=48, spread=varies)).what for _ in range(300)]
    assert ended.count("stop") <= 0.09 * 300
    if shared:
        careless = [rule(STAGE, STAGES, seen(random, shared=shared, hours=48)).what for _ in range(300)]
        assert careless.count("stop") > 0.2 * 300, "two days say less than their rows"


def test_failures_and_latency_count_only_where_they_are_sure_and_large() -> None:
    random = np.random.default_rng(3)

    def of(mine: Traffic, other: Traffic) -> str:
        return rule(STAGE, STAGES, seen(random, traffic=(mine, other))).what

    good = Traffic(1000, 1, {1.0: 990.0, 2.0: 1000.0, float("inf"): 1000.0})
    assert of(good, good) == "go"
    assert of(Traffic(1000, 60, {}), good) == "stop"
    assert of(Traffic(20, 1, {}), good) == "go", "one failure is no rate"
    assert of(Traffic(1000, 0, {1.0: 0.0, 2.0: 900.0, 10.0: 1000.0, float("inf"): 1000.0}), good) == "stop"
    fast = Traffic(1000, 0, {0.5: 0.0, 2.0: 900.0, 4.0: 1000.0, float("inf"): 1000.0})
    assert of(fast, Traffic(1000, 0, {0.5: 990.0, 1.0: 1000.0, float("inf"): 1000.0})) == "go", "slower, and fast enough"
    assert of(Traffic(100, 0, {1.0: 0.0, 10.0: 100.0, float("inf"): 100.0}), good) == "go", "too few to tell"
