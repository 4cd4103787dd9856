"""What a stage concludes, and how often it is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from feature_repo.records.replica_tally import Count
from feature_repo.spec.retraining import Stage, Stages
from training.evaluation.sequential import gains, spread
from training.retraining.rollout import Evidence, Traffic, rule
from training.retraining.server_metrics import HOUR_US, Mark, Unknown, from_mark, marked, since, summed

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
    fine = Traffic(n, 0, {1.0: float(n), float("inf"): float(n)}, n)
    values = {
        "traffic": (fine, fine),
        "samples": n,
        "hours": float(hours),
        "label": label,
        "challenger": 1 / (1 + np.exp(-off)),
        "other": 1 / (1 + np.exp(-other)),
    }
    return Evidence(**(values | {"day": day} | changes))


def test_a_stage_waits_until_it_has_seen_enough_and_not_for_ever() -> None:
    random = np.random.default_rng(0)
    assert rule(STAGE, STAGES, seen(random, samples=499)).what == "wait"
    assert rule(STAGE, STAGES, seen(random, hours=10)).what == "wait"
    assert rule(STAGE, STAGES, seen(random)).what == "go"
    late = rule(STAGE, STAGES, Evidence(3, 31 * 24.0, *(np.zeros(0),) * 3, np.zeros(0, np.int64)))
    assert late.what == "stop"
    assert "has not seen enough" in late.text
    begun = rule(STAGE, STAGES, Evidence(0, -1 / HOUR_US, *(np.zeros(0),) * 3, np.zeros(0, np.int64)))  # it begins a microsecond from now
    assert begun.text.startswith("0 predictions in 0.0 h")
    unpaired = seen(random, unpaired="version 3 reads x")
    assert rule(STAGE, STAGES, unpaired).what == "wait"
    assert "not compared" in rule(STAGE, STAGES, unpaired).text
    assert rule(STAGE, STAGES, seen(random, unpaired="version 3 reads x", hours=31 * 24)).what == "stop"


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

    def timed(answered: int, failed: int, **latency: float) -> Traffic:
        return Traffic(answered, failed, {float(b.lstrip("b")): n for b, n in latency.items()} | {float("inf"): float(answered)}, answered)

    good = timed(1000, 1, b1=990.0, b2=1000.0)
    assert of(good, good) == "go"
    assert of(timed(1000, 60, b2=1000.0), good) == "stop"
    assert of(timed(1000, 0, b1=0.0, b2=900.0, b10=1000.0), good) == "stop"
    assert of(Traffic(1000, 0, {0.5: 0.0, 2.0: 900.0, 4.0: 1000.0, float("inf"): 1000.0}, 1000), good) == "go", "slower, and fast enough"
    few = Traffic(20, 1, {1.0: 20.0, float("inf"): 20.0}, 600)
    assert of(few, good) == "go", "one failure is no rate"
    assert of(Traffic(100, 0, {1.0: 0.0, 10.0: 100.0, float("inf"): 100.0}, 600), good) == "wait", "too few to tell is not told"


GOOD = Traffic(1000, 0, {1.0: 1000.0, float("inf"): 1000.0}, 1000)
SLOW = Traffic(1000, 0, {1.0: 0.0, 10.0: 1000.0, float("inf"): 1000.0}, 1000)
counts = st.integers(0, 3000)
UNKNOWN = st.one_of(
    st.just({"traffic": "no replica answers"}),
    st.just({"unpaired": "version 3 reads x"}),
    st.builds(lambda n: {"traffic": (replace(GOOD, instances=n), GOOD)}, st.integers(0, 299)),  # another replica's, or one's of many
    st.builds(lambda n: {"traffic": (SLOW, Traffic(n, 0, {}, n))}, counts),  # the other was not timed
    st.just({"traffic": (replace(SLOW, answered=200, latency={1.0: 0.0, 10.0: 200.0, float("inf"): 200.0}), GOOD)}),
    st.builds(lambda bad: {"traffic": (Traffic(1000, bad, GOOD.latency, 1000), Traffic())}, st.integers(11, 25)),  # nobody to compare with
    st.just({"label": np.zeros(0), "challenger": np.zeros(0), "other": np.zeros(0), "day": np.zeros(0, np.int64)}),
    st.just({"traffic": (Traffic(), Traffic())}),
    st.just({"broken": 1}),
)


@given(unknown=UNKNOWN, seed=st.integers(0, 20), phase=st.sampled_from(["canary", "probation"]))
@settings(max_examples=60, deadline=None)
def test_unknown_never_means_go(unknown: dict[str, Any], seed: int, phase: str) -> None:
    known = seen(np.random.default_rng(seed), phase=phase, traffic=(GOOD, GOOD))
    if rule(STAGE, STAGES, known).what != "go":
        return
    found = rule(STAGE, STAGES, dataclasses.replace(known, **unknown))
    assert found.what != "go", found.text
    assert found.what == "stop" or found.unknown or "label" in unknown, "what it waits for is said"
    young = rule(STAGE, STAGES, dataclasses.replace(known, **unknown, samples=10))
    assert not young.unknown, "a stage that has only begun waits for nothing else"
    late = rule(STAGE, STAGES, dataclasses.replace(known, **unknown, hours=31 * 24.0))
    assert late.what == "stop", "and its patience ends"


def test_a_shadow_that_fails_is_ended_and_one_whose_counts_are_missing_waits() -> None:
    random = np.random.default_rng(5)
    fails, follows = Traffic(500, 100, {}, 500), Traffic(600, 0, {}, 600)
    assert rule(STAGE, STAGES, seen(random, phase="shadow", traffic=(fails, GOOD))).what == "stop"
    assert rule(STAGE, STAGES, seen(random, phase="shadow", traffic=(follows, GOOD))).what == "go"
    assert rule(STAGE, STAGES, seen(random, phase="shadow", traffic=(Traffic(), GOOD))).what == "wait"


@given(
    st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.integers(1, 3), st.tuples(counts, counts, counts)), max_size=3),
    st.dictionaries(st.sampled_from("abcd"), st.dictionaries(st.integers(1, 3), st.tuples(counts, counts, counts)), max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_what_replicas_added_is_never_a_step_back_nor_another_s(before: dict[str, Any], added: dict[str, Any]) -> None:
    def of(found: dict[str, Any]) -> dict[str, dict[int, Count]]:
        return {start: {v: Count(a, i, f, [a, a]) for v, (a, i, f) in mine.items()} for start, mine in found.items()}

    now = {start: dict(mine) for start, mine in before.items()}
    for start, mine in added.items():
        for v, more in mine.items():
            old = now.setdefault(start, {}).get(v, (0, 0, 0))
            now[start][v] = tuple(a + b for a, b in zip(old, more, strict=True))
    found = since(of(now), of(before))
    for v in (1, 2, 3):
        total = summed(found.values(), v, [1.0])
        assert (total.answered, total.instances, total.failed) == tuple(
            sum(m.get(v, (0, 0, 0))[k] for m in added.values()) for k in range(3)
        )
    if any(any(c) for mine in added.values() for c in mine.values()):  # the other way round something fell or vanished
        with pytest.raises(Unknown):
            since(of(before), of(now))


@given(st.lists(st.tuples(counts, counts), min_size=2, max_size=30), st.integers(0, 40), st.booleans())
def test_what_the_other_version_did_is_counted_over_a_time_as_long(hours: list[tuple[int, int]], long: int, restarts: bool) -> None:
    """An hour each of requests and faults; at the end it is asked what came in the last so many."""
    totals: dict[str, dict[int, Count]] = {"ancient": {1: Count(10_000, 10_000, 9_000)}}
    marks: list[Mark] = []
    for n, (answered, failed) in enumerate(hours):
        marks = marked(marks, n * HOUR_US, totals, 1)
        assert marked(marks, n * HOUR_US + 1, totals, 1) is marks, "one an hour"
        start = f"start {n // 5}" if restarts else "ancient"
        was = totals.get(start, {}).get(1, Count())
        totals = totals | {start: {1: Count(was.answered + answered, was.instances, was.failed + failed), 2: Count(7)}}
    end = len(hours) * HOUR_US
    found = summed(from_mark(marks, totals, 1, end - long * HOUR_US).values(), 1, [1.0])
    last = hours[-long:] if long else []
    assert (found.answered, found.failed) == (sum(a for a, _ in last), sum(f for _, f in last)) or not long
    assert found.failed < 9_000 or sum(f for _, f in hours) >= 9_000, "what was before the first mark never counts"
    gone = {start: mine for start, mine in totals.items() if start != "ancient"}
    assert summed(from_mark(marks, gone, 1, 0).values(), 1, [1.0]).failed <= sum(f for _, f in hours)
    assert summed(from_mark([], totals, 1, 0).values(), 1, [1.0]) == Traffic(), "without a mark nothing is known"
