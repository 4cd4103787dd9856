"""Challenger against champion: the interval covers what it says, the metrics are those of evaluate.py, slices fail on harm and not on chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from feature_repo.metrics.table import COMPARED, METRICS
from infra.statistics import holm
from training.evaluation import metrics
from training.evaluation.comparison import ComparisonError, compare, slices


def scored(
    random: np.random.Generator, n: int, champion: float = 1.0, challenger: float = 1.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two scores, correlated, whose AUC are Phi(separation / sqrt 2)."""
    label = (random.random(n) < 0.4).astype(float)
    shared = random.normal(size=n)
    own = random.normal(size=(2, n))
    logits = [d * label + 0.8 * shared + 0.6 * o for d, o in zip((champion, challenger), own, strict=True)]
    return label, *(1 / (1 + np.exp(-(z - 1))) for z in logits)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 12))
@settings(max_examples=60)
def test_auc_of_counts_is_sklearns_with_ties(seed: int, n: int, values: int) -> None:
    random = np.random.default_rng(seed)
    label, score = random.integers(0, 2, n).astype(float), random.integers(0, values, n) / values
    counts = random.poisson(1.0, n).astype(float)
    found = METRICS["auc"].weighted(label, score)(counts)
    if len(np.unique(label[counts > 0])) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(label, score, sample_weight=counts), abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 80))
@settings(max_examples=60)
def test_calibration_error_of_counts_is_that_of_the_rows_repeated(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    label, score = random.integers(0, 2, n).astype(float), random.random(n).round(2)
    counts = random.poisson(1.0, n)
    counts[0] += 1
    bins = metrics.calibration(np.repeat(label, counts), np.repeat(score, counts))
    naive = sum(rows * abs(predicted - observed) for predicted, observed, rows in bins) / counts.sum()
    assert METRICS["calibration_error"].weighted(label, score)(counts.astype(float)) == pytest.approx(naive, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("metric", COMPARED)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_is_that_of_rows_really_drawn(metric: str, grouped: bool) -> None:
    label, a, b = scored(np.random.default_rng(3), 240)
    day = np.repeat([f"day {i % 12:02}" for i in range(12)], 20) if grouped else np.arange(240)
    found = compare(label, a, b, metric, groups=day if grouped else None, draws=60, seed=5)
    random, naive, sign = np.random.default_rng(5), [], 1 if metric == "auc" else -1
    names = np.unique(day)
    for _ in range(60):
        rows = np.concatenate([np.flatnonzero(day == names[i]) for i in np.sort(random.integers(0, len(names), len(names)))])
        naive.append(sign * (metrics.metrics_of(label[rows], b[rows])[metric] - metrics.metrics_of(label[rows], a[rows])[metric]))
    assert (found.champion, found.challenger) == pytest.approx([metrics.metrics_of(label, s)[metric] for s in (a, b)], abs=1e-12)
    assert (found.low, found.high) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=1e-9)
    assert found.difference == pytest.approx(sign * (found.challenger - found.champion))
    assert found.blocks == (12 if grouped else 240)


@pytest.mark.parametrize("metric", COMPARED)
def test_positive_means_the_challenger_is_better_and_the_order_can_be_turned(metric: str) -> None:
    random = np.random.default_rng(4)
    p = random.random(3000)
    label = (random.random(3000) < p).astype(float)
    worse = np.clip(0.6 + 0.4 * (p - 0.5) + random.normal(size=3000) / 8, 0.01, 0.99)
    found, turned = compare(label, worse, p, metric, draws=200), compare(label, p, worse, metric, draws=200)
    assert found.difference > 0
    assert found.low > 0
    assert found.p_worse == 0
    assert turned.p_worse == 1
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    same = compare(label, p, p, metric, draws=50)
    assert (same.difference, same.low, same.high, same.p_worse) == (0, 0, 0, 0.5)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    truth = norm.cdf(1.5 / np.sqrt(2)) - norm.cdf(1.0 / np.sqrt(2))
    random = np.random.default_rng(11)
    covered = []
    for _ in range(250):
        found = compare(*scored(random, 300), "auc", draws=200)
        covered.append(found.low <= truth <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.985  # 95 % nominal; four standard errors of 250 are 5.5 %


def test_rows_of_a_day_belong_together_and_blocks_know() -> None:
    random = np.random.default_rng(12)
    day = np.repeat(np.arange(50), 30)
    covered: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(120):
        rate = random.beta(2, 2, 50)[day]  # labels of a day resemble each other
        label = (random.random(len(day)) < rate).astype(float)
        champion, challenger = np.full(len(day), 0.4), np.full(len(day), 0.5)
        truth = 0.4**2 - 0.5**2 - 2 * 0.5 * (0.4 - 0.5)
        for grouped in covered:
            found = compare(label, champion, challenger, "brier", groups=day if grouped else None, draws=150)
            covered[grouped].append(found.low <= truth <= found.high)
    assert np.mean(covered[True]) >= 0.88
    assert np.mean(covered[False]) <= 0.75


def test_slices_fail_on_harm_in_one_value_and_name_it() -> None:
    random = np.random.default_rng(13)
    n = 12_000
    p = random.beta(2, 2, n)
    label = (random.random(n) < p).astype(float)
    region = random.choice(["north", "south", "east", "tiny"], n, p=[0.4, 0.4, 0.195, 0.005])
    challenger = np.where(region == "east", random.beta(2, 2, n), p)
    found = slices(label, p, challenger, {"region": region, "even": np.arange(n) % 2}, 0.02, smallest=50, metric="brier", draws=200)
    assert [(s.column, s.value) for s in found] == [("region", v) for v in ("east", "north", "south", "tiny")] + [
        ("even", "0"),
        ("even", "1"),
    ]
    assert [s.value for s in found if not s.passed] == ["east"]
    assert all(s.passed for s in slices(label, p, challenger, {"region": region}, 0.5, metric="brier", draws=100))
    pooled = slices(label, p, challenger, {"region": region}, 0.02, smallest=2500, metric="brier", draws=50)
    assert [s.value for s in pooled] == ["north", "south"]  # the rest together is smaller still
    assert [s.value for s in slices(label, p, p, {"r": np.arange(n) % 80}, 0.0, draws=5)] == ["other"]


def test_many_slices_without_harm_rarely_fail() -> None:
    random = np.random.default_rng(14)
    n, failed = 40 * 200, 0
    for _ in range(40):
        p = random.beta(2, 2, n)
        label = (random.random(n) < p).astype(float)
        a, b = (np.clip(p + random.normal(size=n) / 10, 0, 1) for _ in range(2))
        found = slices(label, a, b, {"k": np.arange(n) % 40}, 0.0, metric="brier", draws=60)
        failed += any(not s.passed for s in found)
    assert failed <= 6  # 5 % of 40 are 2; unadjusted it would be 35


def test_a_slice_of_one_class_is_not_known_and_does_not_pass() -> None:
    label, a, b = scored(np.random.default_rng(15), 1200)
    kind = np.where(label == 1, "always", "mixed")
    kind[:600] = "mixed"
    found = {s.value: s for s in slices(label, a, b, {"kind": kind}, 0.0, smallest=100, draws=50)}
    assert found["always"].measured is None
    assert not found["always"].passed
    assert "one class" in found["always"].unknown
    assert np.isnan(found["always"].difference)
    assert found["mixed"].measured is not None


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert list(holm([])) == []
    assert list(holm([0.9, 0.9])) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([0, 1], [0.1], [0.1, 0.2], "auc"), "same rows"),
        (([], [], [], "auc"), "at least one"),
        (([0, np.nan], [0.1, 0.2], [0.1, 0.2], "auc"), "labels must be 0 or 1"),
        (([0, 1], [0.1, 0.2], [0.1, 1.2], "auc"), "challenger's scores must be probabilities; row 1"),
        (([0, 1], [0.1, np.nan], [0.1, 0.2], "auc"), "champion's"),
        (([1, 1], [0.1, 0.2], [0.1, 0.2], "auc"), "one class"),
        (([0, 1], [0.1, 0.2], [0.1, 0.2], "f1"), "'f1' cannot be compared"),
        (([0, 1], [0.1, 0.2], [0.1, 0.2], "brier", ["a", "a"]), "single row or group"),
        (([0, 1], [0.1, 0.2], [0.1, 0.2], "brier", ["a"]), "1 groups for 2 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(arguments: tuple, word: str) -> None:
    with pytest.raises(ComparisonError, match=word):
        compare(*arguments)
    with pytest.raises(ComparisonError, match="margin"):
        slices([0, 1], [0.1, 0.2], [0.1, 0.2], {}, -1.0)
    with pytest.raises(ComparisonError, match="'k' has 1 values"):
        slices([0, 1], [0.1, 0.2], [0.1, 0.2], {"k": ["a"]}, 0.0)
