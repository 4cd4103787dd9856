"""What serving measures, in Prometheus' text format.

The hot path touches only children resolved once per model version; freshness, observed per row and view, is counted in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.prediction_log import PredictionLog

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_MS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 25, 50, 100, 250, 500, 1000, 2500)
FRESHNESS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
_FOLD = 256
STATUS_NAMES = ("fresh", "stale", "null", "missing")


class Freshness:
    """Age of served data per view, one histogram each.

    Args:
        views: view names; their order is that of the columns observed.

    Notes:
        What is observed is only kept; it is counted `_FOLD` observations later, or at a scrape, in one pass.
    """

    def __init__(self, views: list[str]) -> None:
        self.views = views
        self._bounds = np.array(FRESHNESS_S)
        self._counts = np.zeros((len(views), len(FRESHNESS_S) + 2), dtype=np.int64)  # a column past +Inf takes the NaNs
        self._sums = np.zeros(len(views))
        self._pending: list[NDArray[np.float64]] = []

    def observe(self, ages: NDArray[np.float64]) -> None:
        """Count ages.

        Args:
            ages: seconds, float64 [rows, views], not changed afterwards; NaN (no data) is not counted.
        """
        if self.views:
            self._pending.append(ages)
        if len(self._pending) >= _FOLD:
            self._fold()

    def _fold(self) -> None:
        if not self._pending or not self.views:
            return
        ages = np.concatenate(self._pending)
        self._pending.clear()
        unknown = np.isnan(ages)
        width = self._counts.shape[1]
        places = np.where(unknown, width - 1, np.searchsorted(self._bounds, ages)) + np.arange(len(self.views)) * width
        self._counts += np.bincount(places.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        self._sums += np.where(unknown, 0.0, ages).sum(axis=0)

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        self._fold()
        bounds = [*(str(float(b)) for b in FRESHNESS_S), "+Inf"]
        for row, view in enumerate(self.views):
            cumulative = np.cumsum(self._counts[row, :-1])
            buckets = list(zip(bounds, map(float, cumulative), strict=True))
            family.add_metric([*labels, view], buckets, sum_value=float(self._sums[row]))


@dataclass(frozen=True)
class ModelMetrics:
    """The children of one model version."""

    total: Histogram
    read: Histogram
    score: Histogram
    ok: Counter
    instances: Counter
    statuses: tuple[Counter, ...]
    freshness: Freshness


@dataclass(frozen=True)
class ShadowMetrics:
    """Instances a shadow has scored, failed on, or was too slow for."""

    scored: Counter
    failed: Counter
    dropped: Counter


class Metrics(Collector):
    """Everything one replica measures.

    Attributes:
        verdicts: the watch's latest verdict per model, as read just before a scrape.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by = ("model", "version")
        self._requests = self._make(Counter, "headrace_requests", "Requests to models, by HTTP status.", (*by, "status"))
        self._total = self._make(Histogram, "headrace_request_ms", "Time in the replica per prediction request.", by)
        self._read = self._make(Histogram, "headrace_read_ms", "Time to read features online.", by)
        self._score = self._make(Histogram, "headrace_score_ms", "Time in the model.", by)
        self._instances = self._make(Counter, "headrace_predictions", "Instances scored.", by)
        self._statuses = self._make(Counter, "headrace_feature_values", "Stored feature values served, by status.", (*by, "status"))
        self._live = self._make(Gauge, "headrace_model_live", "1 for the version that answers, 0 for one that did.", by)
        self._refused = self._make(Gauge, "headrace_model_refused", "1 where a model's version could not be loaded.", ("model", "role"))
        self._swaps = self._make(Counter, "headrace_model_swaps", "Attempts to load a version.", ("model", "outcome"))
        self._shadows = self._make(Counter, "headrace_shadow", "Instances a shadow was given, by outcome.", (*by, "outcome"))
        self._versions: dict[tuple[str, str], Freshness] = {}
        self._log: PredictionLog | None = None
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.registry.register(self)

    def _make(self, kind: Any, name: str, help_text: str, labels: tuple[str, ...]) -> Any:
        buckets = {"buckets": LATENCY_MS} if kind is Histogram else {}
        return kind(name, help_text, labels, registry=self.registry, **buckets)

    def watch_log(self, prediction_log: PredictionLog) -> None:
        self._log = prediction_log

    def model(self, model: str, version: int, views: list[str]) -> ModelMetrics:
        """The children a predictor uses; the same ones when a version is loaded again."""
        key = (model, str(version))
        freshness = self._versions.get(key)
        if freshness is None or freshness.views != views:
            freshness = self._versions[key] = Freshness(views)
        return ModelMetrics(
            total=self._total.labels(*key),
            read=self._read.labels(*key),
            score=self._score.labels(*key),
            ok=self._requests.labels(*key, "200"),
            instances=self._instances.labels(*key),
            statuses=tuple(self._statuses.labels(*key, status) for status in STATUS_NAMES),
            freshness=freshness,
        )

    def shadow(self, model: str, version: int) -> ShadowMetrics:
        return ShadowMetrics(*(self._shadows.labels(model, str(version), outcome) for outcome in ("scored", "failed", "dropped")))

    def failed(self, model: str, version: int | None, status: int) -> None:
        """Count a prediction request that was not answered with predictions."""
        self._requests.labels(model, "" if version is None else str(version), str(status)).inc()

    def swapped(self, model: str, version: int, before: int | None) -> None:
        """A version is live now."""
        if before is not None:
            self._live.labels(model, str(before)).set(0)
        self._live.labels(model, str(version)).set(1)
        self._refused.labels(model, "champion").set(0)
        self._swaps.labels(model, "loaded").inc()

    def refused(self, model: str, role: str = "champion") -> None:
        """A version could not be loaded."""
        self._refused.labels(model, role).set(1)
        self._swaps.labels(model, "refused").inc()

    def text(self) -> bytes:
        """The scrape."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        freshness = HistogramMetricFamily(
            "headrace_freshness_seconds",
            "Age of the data served, from its own timestamps to the request's now.",
            labels=["model", "version", "view"],
        )
        for (model, version), ages in self._versions.items():
            ages.add_to(freshness, [model, version])
        yield freshness
        if self._log is not None:
            yield GaugeMetricFamily("headrace_log_depth", "Predictions waiting to be logged.", self._log.depth)
            yield CounterMetricFamily("headrace_log_written", "Predictions logged.", self._log.written)
            yield CounterMetricFamily("headrace_log_dropped", "Predictions not logged: the buffer was full.", self._log.dropped)
        yield from _drift(self.verdicts)


def _drift(verdicts: dict[str, dict[str, Any]]) -> Iterable[Metric]:
    """Gauges of the watch's verdicts; a member a verdict does not have gives no sample."""

    def gauge(name: str, text: str, labels: list[str], samples: Callable[[dict[str, Any]], Iterable[tuple[list[str], Any]]]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["model", *labels])
        for model, verdict in verdicts.items():
            for values, value in samples(verdict):
                if value is not None:
                    family.add_metric([model, *map(str, values)], float(value))
        return family

    def named(verdict: dict[str, Any]) -> list[dict[str, Any]]:
        score = verdict.get("score")
        return [*verdict.get("features", []), *([{**score, "name": "(score)"}] if isinstance(score, dict) else [])]

    def per_feature(member: str) -> Callable[[dict[str, Any]], Iterable[tuple[list[str], Any]]]:
        return lambda v: [([f["name"]], f.get(member)) for f in named(v)]

    yield gauge("headrace_drift", "1 where the watch sees drift.", ["version"], lambda v: [([str(v.get("version"))], v.get("drift"))])
    yield gauge("headrace_drift_window_rows", "Predictions in the watch's window.", [], lambda v: [([], v.get("window", {}).get("rows"))])
    yield gauge(
        "headrace_drift_checked_timestamp_seconds",
        "When the watch's verdict was reached.",
        [],
        lambda v: [([], None if v.get("at_us") is None else v["at_us"] / 1e6)],
    )
    yield gauge("headrace_feature_drift", "1 where an input, or (score), drifted.", ["feature"], per_feature("drift"))
    yield gauge("headrace_feature_drift_p_value", "Significance of the drift test.", ["feature"], per_feature("p_value"))
    yield gauge("headrace_feature_drift_effect", "Effect size of the drift.", ["feature"], per_feature("effect"))
    yield gauge("headrace_outlier_share", "Share of outliers in the window.", [], lambda v: [([], v.get("outliers", {}).get("share"))])
    yield gauge("headrace_outlier_alarm", "1 where outliers raise an alarm.", [], lambda v: [([], v.get("outliers", {}).get("alarm"))])
