"""Sketches: within their stated error, and the same whatever the order and grouping of merges."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from ddsketch import DDSketch
from hypothesis import given
from hypothesis import strategies as st

from streaming.aggregation.sketches import (
    ACCURACY,
    DISTINCT,
    buckets,
    combine,
    concatenate,
    finish,
    hash_of,
    hashed,
    kind_of,
    leaves,
    quantile_of,
    values_of,
)


def sketched(kind: str, values: np.ndarray, pieces: list[int]) -> object:
    """One sketch of all values, merged from pieces of these sizes, the later ones first."""
    parts, at = [], 0
    for size in (*pieces, len(values)):
        some = leaves(kind, values[at : at + size])
        parts.append(combine(kind, np.zeros(len(some.items), np.int64), some.items, some.weights, 1))
        at += size
    whole = concatenate(parts[::-1])
    return combine(kind, np.zeros(len(whole.items), np.int64), whole.items, whole.weights, 1)


numbers = st.lists(st.one_of(st.floats(-1e307, 1e307), st.sampled_from([math.inf, -math.inf])), min_size=1, max_size=60)


@given(numbers, st.lists(st.integers(0, 20), max_size=4), st.sampled_from(["p0", "p1", "p50", "p95", "p99.9", "p100", "median"]))
def test_a_quantile_is_within_its_accuracy_and_knows_no_order(values: list[float], pieces: list[int], function: str) -> None:
    array = np.array(values)
    one = finish(function, sketched("quantile", array, pieces))
    other = finish(function, sketched("quantile", array[::-1], []))
    q = quantile_of(function)
    assert q is not None
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    assert one[0] == other[0]
    assert one[0] == exact or abs(one[0] - exact) <= ACCURACY * abs(exact) * (1 + 1e-9) or abs(exact) < 1e-300


@pytest.mark.parametrize("q", [0, 0.01, 0.5, 0.9, 0.999, 1])
def test_quantiles_are_the_librarys(q: float) -> None:
    values = np.concatenate([np.random.default_rng(2).lognormal(3, 2, 2000), -np.random.default_rng(3).lognormal(0, 1, 500), np.zeros(40)])
    reference = DDSketch(ACCURACY)
    for value in values.tolist():
        reference.add(value)
    got = finish(f"p{q * 100:g}", sketched("quantile", values, [300, 7, 900]))[0]
    assert got == pytest.approx(reference.get_quantile_value(q), rel=1e-12)


def test_buckets_sort_as_values_do() -> None:
    values = np.array([-np.inf, -1e300, -2.0, -1e-9, -0.0, 0.0, 1e-9, 2.0, 1e300, np.inf])
    items = buckets(values)
    assert (np.diff(items) >= 0).all()
    assert values_of(items)[[0, 4, -1]].tolist() == [-math.inf, 0.0, math.inf]


@given(st.lists(st.integers(-50, 50).map(float), max_size=300), st.lists(st.integers(0, 40), max_size=4))
def test_few_distinct_values_are_counted_exactly(values: list[float], pieces: list[int]) -> None:
    hashes = hashed(pa.array(values, pa.float64()))
    assert finish("count_distinct", sketched("distinct", hashes, pieces))[0] == len(set(values))


@pytest.mark.parametrize("n", [DISTINCT, DISTINCT + 1, 5_000, 100_000])
def test_many_distinct_values_are_counted_within_the_stated_error(n: int) -> None:
    errors = []
    for seed in range(12):
        hashes = hashed(pa.array([f"{seed}:{i}" for i in range(n)]))
        one = finish("count_distinct", sketched("distinct", hashes, [n // 3, n // 5]))[0]
        assert one == finish("count_distinct", sketched("distinct", np.random.default_rng(seed).permutation(hashes), []))[0]
        errors.append(one / n - 1)
    if n <= DISTINCT:
        assert not any(errors)
    else:  # 1 / sqrt(k - 1) is 3.1 %: 12 draws within 4 sigma, their mean within 3 of its own
        assert max(map(abs, errors)) < 4 * 0.0313
        assert abs(np.mean(errors)) < 3 * 0.0313 / math.sqrt(12)


def test_equal_numbers_hash_alike_and_nulls_not_at_all() -> None:
    assert hash_of(1) == hash_of(1.0) == hashed(pa.array([1], pa.int64()))[0]
    assert hash_of(0.0) == hash_of(-0.0)
    assert hash_of(None) == hash_of(math.nan) == -1
    assert hashed(pa.array([None, "a", ""])).tolist() == [-1, hash_of("a"), hash_of("")]


def test_functions_are_told_apart() -> None:
    assert [kind_of(f) for f in ("count_distinct", "p95", "p99.9", "median", "mean", "p101", "percentile")] == [
        "distinct",
        "quantile",
        "quantile",
        "quantile",
        None,
        None,
        None,
    ]
