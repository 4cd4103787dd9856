from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.core import HistogramMetricFamily

from serving.telemetry.metrics import FRESHNESS_S, Histograms, Metrics, readable, source_gauges


@pytest.mark.parametrize("batches", [1, 3, 600])
def test_freshness_counts_what_a_loop_would_count(batches: int) -> None:
    rng = np.random.default_rng(batches)
    freshness = Histograms(["a", "b"], FRESHNESS_S)
    seen = [np.where(rng.random((2, 2)) < 0.2, np.nan, 10 ** rng.uniform(-2, 7, (2, 2))) for _ in range(batches)]
    for ages in seen:
        freshness.observe(ages)
    family = HistogramMetricFamily("f", "", labels=["view"])
    for column, view in enumerate(["a", "b"]):
        freshness.add_to(family, [view], column)
    counted = {(s.labels["view"], s.labels["le"]): s.value for s in family.samples if s.name == "f_bucket"}
    for column, view in enumerate(["a", "b"]):
        ages = [float(row[column]) for batch in seen for row in batch if not np.isnan(row[column])]
        for bound in FRESHNESS_S:
            assert counted[view, str(float(bound))] == sum(age <= bound for age in ages)
        assert counted[view, "+Inf"] == len(ages)
        (total,) = [s.value for s in family.samples if s.name == "f_sum" and s.labels["view"] == view]
        assert total == pytest.approx(sum(ages))


def test_a_version_loaded_again_goes_on_counting() -> None:
    metrics = Metrics()
    metrics.model("m", 1, ["a"]).freshness.observe(np.ones((1, 1)))
    metrics.model("m", 1, ["a"]).freshness.observe(np.ones((1, 1)))
    assert b'headrace_freshness_seconds_count{model="m",version="1",view="a"} 2.0' in metrics.text()


def test_a_verdict_with_members_missing_gives_the_samples_it_has() -> None:
    metrics = Metrics()
    metrics.verdicts = {"m": {"version": 2, "drift": False}}
    text = metrics.text().decode()
    assert 'headrace_drift{model="m",version="2"} 0.0' in text
    assert "headrace_outlier_share{" not in text


def test_what_is_held_is_told_with_the_seconds_until_its_end() -> None:
    metrics = Metrics()
    metrics.held = {
        "m": {
            "at_us": 1_000_000,
            "held": [{"what": "drift", "until_us": 61_000_000}, {"what": "schedule", "until_us": None}, {"what": "shadow", "until_us": 5}],
        }
    }
    text = metrics.text().decode()
    assert 'headrace_held_seconds{model="m",what="drift"} 60.0' in text
    assert 'headrace_held_seconds{model="m",what="schedule"} +Inf' in text
    assert 'headrace_held_seconds{model="m",what="shadow"} 0.0' in text


def test_what_is_odd_about_sources_is_counted_by_what_it_says() -> None:
    metrics = Metrics()
    odd = [{"source": "tills", "kind": "nulls", "says": "unusual"}] * 2 + [{"source": "doors", "kind": "silent", "says": "proof"}]
    metrics.sources = {"shop": {"upto_us": 5_000_000, "odd": odd}}
    text = metrics.text().decode()
    assert 'headrace_source_violations{kind="nulls",says="unusual",source="tills"} 2.0' in text
    assert 'headrace_source_violations{kind="silent",says="proof",source="doors"} 1.0' in text
    assert "headrace_sources_checked_timestamp_seconds 5.0" in text


def test_a_broken_report_of_the_sources_costs_its_own_samples_only() -> None:
    for raw in (b"{}", b"[]", b"no json", b'{"upto_us": 1, "odd": [{"source": "tills"}]}'):
        assert readable(["shop"], [raw], source_gauges) == {}
