"""Every metric, as a member of its kind: what all of them promise, run over each that is in the table."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.metrics.base import Estimate, MeanOfRows, Metric
from feature_repo.metrics.table import COMPARED, METRICS

each = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
compared = pytest.mark.parametrize("metric", [METRICS[name] for name in COMPARED], ids=COMPARED)
rows = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1), st.integers(1, 3)), min_size=1, max_size=40)


@each
def test_a_metric_is_one_class_in_one_file_and_is_found_by_its_name(metric: Metric) -> None:
    module = sys.modules[type(metric).__module__]
    own = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Metric) and one not in (Metric, MeanOfRows)]
    assert own == [type(metric)]
    assert METRICS[metric.name] is metric
    assert metric.title
    assert metric.better in (-1, 0, 1)


@each
@given(some=rows)
@settings(max_examples=60, deadline=None)
def test_a_row_drawn_so_often_counts_as_often(metric: Metric, some: list[tuple[int, float, int]]) -> None:
    """`weighted` against `value` on the rows themselves, repeated."""
    label, score, count = (np.array(column) for column in zip(*some, strict=True))
    label, score = label.astype(np.float64), score.astype(np.float64)
    found = metric.weighted(label, score)(count.astype(np.float64))
    whole = metric.value(np.repeat(label, count), np.repeat(score, count))
    if math.isfinite(whole):
        assert found == pytest.approx(whole, rel=1e-9, abs=1e-9)


@each
@given(some=rows, order=st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_rows_says_nothing(metric: Metric, some: list[tuple[int, float, int]], order: object) -> None:
    label, score = np.array([y for y, *_ in some], float), np.array([s for _, s, _ in some])
    if metric.drawn and len(np.unique(score)) < len(score):
        return  # of equal scores the order decides on which side of a bin's edge they lie
    places = np.arange(len(label))
    order.shuffle(places)  # type: ignore[attr-defined]
    assert metric.value(label[places], score[places]) == pytest.approx(metric.value(label, score), rel=1e-9, abs=1e-12, nan_ok=True)


@each
def test_where_it_is_not_defined_it_is_no_number_and_raises_nothing(metric: Metric) -> None:
    none = np.zeros(0)
    assert math.isnan(metric.value(none, none))
    assert all(math.isnan(bound) for bound in metric.interval(none, none))
    one = np.ones(1)
    value = metric.value(one, one / 2)
    assert math.isnan(value) or math.isfinite(value)


BY_HAND = {
    "auc": 3.5 / 4,  # of the four pairs of a 1 and a 0 three are in order, and one is even
    "base_rate": 0.5,
    "brier": (0.01 + 0.09 + 0.16 + 0.36) / 4,
    "calibration_error": (0.1 + 0.3 + 0.4 + 0.6) / 4,  # each in a bin of its own
    "log_loss": -(math.log(0.9) + math.log(0.7) + math.log(0.6) + math.log(0.4)) / 4,
}
"""Of the labels 1, 0, 1, 0 and the scores 0.9, 0.3, 0.6, 0.6."""


@each
def test_it_is_what_one_works_out_by_hand(metric: Metric) -> None:
    label, score = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.3, 0.6, 0.6])
    assert metric.value(label, score) == pytest.approx(BY_HAND[metric.name]), "add its number to BY_HAND"


@each
def test_its_interval_holds_it_and_becomes_narrower_with_more_rows(metric: Metric) -> None:
    random = np.random.default_rng(7)
    widths = []
    for count in (200, 20_000):
        score = random.uniform(size=count)
        label = (random.uniform(size=count) < score**2).astype(float)
        low, high = metric.interval(label, score)
        assert low <= metric.value(label, score) <= high or metric.drawn  # a drawn one may lie above (see its docstring)
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


@compared
def test_a_better_model_is_better(metric: Metric) -> None:
    random = np.random.default_rng(7)
    truth = random.uniform(size=5_000)
    label = (random.uniform(size=5_000) < truth).astype(float)
    good, bad = metric.value(label, truth), metric.value(label, np.clip(truth[::-1] * 0.5 + 0.4, 0, 1))
    assert metric.better * (good - bad) > 0


@compared
def test_it_is_worse_only_where_its_whole_interval_is(metric: Metric) -> None:
    down = -metric.better
    estimate = Estimate(0.5, 0.49, 0.51)
    assert metric.worse(estimate, 0.5 - down * 0.05, 0.03)
    assert not metric.worse(estimate, 0.5 - down * 0.035, 0.03), "its near bound is not beyond"
    assert not metric.worse(estimate, 0.5 + down * 0.05, 0.03)
