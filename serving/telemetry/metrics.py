"""What serving measures, in Prometheus' text format.

The hot path adds to plain numbers and lists; they become samples at a scrape.
"""

from __future__ import annotations

import logging
import math
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from feature_repo.records.prediction import STATUSES
from feature_repo.records.replica_tally import Count
from infra import files
from infra.supervision.beat import Part
from serving.telemetry.liveness import part_metrics
from serving.telemetry.prediction_log import PredictionLog

CONTENT_TYPE = CONTENT_TYPE_LATEST
log = logging.getLogger(__name__)
LATENCY_MS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 25, 50, 100, 250, 500, 1000, 2500)
FRESHNESS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
_FOLD = 256
LATENCIES = ("read", "score", "request")
STATUS_NAMES = tuple(status.name for status in STATUSES if status.letter != "r")


class Histograms:
    """Histograms side by side, fed a row of values at a time.

    Args:
        names: of the columns.
        bounds: upper bounds of the buckets, ascending.

    Notes:
        What is observed is only kept; it is counted `_FOLD` observations later, or at a scrape, in one pass of NumPy.
    """

    def __init__(self, names: Sequence[str], bounds: Sequence[float]) -> None:
        self.names = list(names)
        self._bounds = np.array(bounds, dtype=np.float64)
        self._counts = np.zeros((len(self.names), len(bounds) + 2), dtype=np.int64)  # a column past +Inf takes the NaNs
        self._sums = np.zeros(len(self.names))
        self._pending: list[Any] = []

    def observe(self, rows: Any) -> None:
        """Count values.

        Args:
            rows: float64 [rows, columns] or a sequence of a row's values, not changed afterwards; NaN is not counted.
        """
        if self.names:
            self._pending.append(rows)
            if len(self._pending) >= _FOLD:
                self._fold()

    def _fold(self) -> None:
        if not self._pending:
            return
        values = np.concatenate([np.reshape(rows, (-1, len(self.names))) for rows in self._pending])
        self._pending.clear()
        unknown = np.isnan(values)
        width = self._counts.shape[1]
        places = np.where(unknown, width - 1, np.searchsorted(self._bounds, values)) + np.arange(len(self.names)) * width
        self._counts += np.bincount(places.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        self._sums += np.where(unknown, 0.0, values).sum(axis=0)

    def cumulative(self, column: int) -> list[int]:
        """How many observations lie at or below each bound, and then all."""
        self._fold()
        return [int(n) for n in np.cumsum(self._counts[column, :-1])]

    def add_to(self, family: HistogramMetricFamily, labels: list[str], column: int) -> None:
        """One column's samples."""
        bounds = [*(str(float(b)) for b in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, map(float, self.cumulative(column)), strict=True)), sum_value=float(self._sums[column]))


@dataclass
class ModelMetrics:
    """What one model version has done; the hot path only counts here.

    Attributes:
        latency: of a request, milliseconds: reading, the model, in all.
        freshness: age of the data served, seconds, by view.
        statuses: stored feature values served, by `STATUS_NAMES`.
    """

    latency: Histograms
    freshness: Histograms
    ok: int = 0
    instances: int = 0
    statuses: list[int] = field(default_factory=lambda: [0, 0, 0, 0])


@dataclass(frozen=True)
class ShadowMetrics:
    """Instances a shadow has scored, failed on, or was too slow for."""

    scored: Counter
    failed: Counter
    dropped: Counter


class Metrics(Collector):
    """Everything one replica measures.

    Args:
        replica: its name, on every sample of a scrape; empty: none is.

    Attributes:
        verdicts: the watch's latest verdict per model, as read just before a scrape.
        quality: live quality per model, as JSON objects, likewise.
        equality: values compared with stock Feast, and those that were not the same, per model, likewise.
        on_demand: calls of slow on-demand functions, by view and outcome; counted where they are made.
        parts, restarts: how the platform's parts fare, and how often each was started again, likewise.
    """

    def __init__(self, replica: str = "") -> None:
        self.registry, self._replica = CollectorRegistry(), replica
        by = ("model", "version")
        self._failures: dict[tuple[str, str, str], int] = {}
        self._answered: dict[tuple[str, str], int] = {}
        self._live = self._make(Gauge, "headrace_model_live", "1 for the version that answers, 0 for one that did.", by)
        self._refused = self._make(Gauge, "headrace_model_refused", "1 where a model's version could not be loaded.", ("model", "role"))
        self._swaps = self._make(Counter, "headrace_model_swaps", "Attempts to load a version.", ("model", "outcome"))
        self._shadows = self._make(Counter, "headrace_shadow", "Instances a shadow was given, by outcome.", (*by, "outcome"))
        self._start = self._make(Gauge, "headrace_start_seconds", "From the replica's first line to every model loaded.", ())
        self._versions: dict[tuple[str, str], ModelMetrics] = {}
        self._log: PredictionLog | None = None
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.equality: dict[str, tuple[int, ...]] = {}
        self.parts: list[Part] = []
        self.restarts: dict[str, int] = {}
        self.quality: dict[str, dict[str, Any]] = {}
        self.held: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.on_demand: Counts[tuple[str, str]] = Counts()
        self.registry.register(self)

    def _make(self, kind: Any, name: str, help_text: str, labels: tuple[str, ...]) -> Any:
        return kind(name, help_text, labels, registry=self.registry)

    def watch_log(self, prediction_log: PredictionLog) -> None:
        self._log = prediction_log

    def started(self, seconds: float) -> None:
        """Every model is loaded."""
        self._start.set(seconds)

    def model(self, model: str, version: int, views: list[str]) -> ModelMetrics:
        """What a predictor counts in; the same one when a version is loaded again."""
        key = (model, str(version))
        found = self._versions.get(key)
        if found is None or found.freshness.names != views:
            found = self._versions[key] = ModelMetrics(Histograms(LATENCIES, LATENCY_MS), Histograms(views, FRESHNESS_S))
        return found

    def shadow(self, model: str, version: int) -> ShadowMetrics:
        return ShadowMetrics(*(self._shadows.labels(model, str(version), outcome) for outcome in ("scored", "failed", "dropped")))

    def failed(self, model: str, version: int | None, status: int) -> None:
        """Count a prediction request that was not answered with predictions."""
        key = (model, "" if version is None else str(version), str(status))
        self._failures[key] = self._failures.get(key, 0) + 1

    def answered(self, door: str, status: int | str) -> None:
        """Count a call by what it asked for and what it ended in: HTTP's status, gRPC's code."""
        key = (door, str(status))
        self._answered[key] = self._answered.get(key, 0) + 1

    def counts(self) -> dict[str, dict[int, Count]]:
        """What this replica has counted of each model version, to be written where all can read it."""
        faults: dict[tuple[str, str], int] = {}
        for (model, version, status), n in self._failures.items():
            if int(status) >= 500:
                faults[model, version] = faults.get((model, version), 0) + n
        shadows: dict[tuple[str, str], dict[str, int]] = {}
        for family in self._shadows.collect():
            for sample in family.samples:
                if sample.name == "headrace_shadow_total":
                    key = sample.labels["model"], sample.labels["version"]
                    shadows.setdefault(key, {})[sample.labels["outcome"]] = int(sample.value)
        found: dict[str, dict[int, Count]] = {}
        for model, version in {*self._versions, *faults, *shadows}:
            if not version.isdigit():
                continue
            mine, beside = self._versions.get((model, version)), shadows.get((model, version), {})
            found.setdefault(model, {})[int(version)] = Count(
                mine.ok if mine else 0,
                mine.instances if mine else 0,
                faults.get((model, version), 0),
                mine.latency.cumulative(LATENCIES.index("request")) if mine else [],
                beside.get("scored", 0),
                beside.get("failed", 0),
            )
        return found

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
        return generate_latest(_Named(self.registry, self._replica) if self._replica else self.registry)

    def collect(self) -> Iterable[Metric]:
        by = ["model", "version"]
        requests = CounterMetricFamily("headrace_requests", "Requests to models, by HTTP status.", labels=[*by, "status"])
        predictions = CounterMetricFamily("headrace_predictions", "Instances scored.", labels=by)
        values = CounterMetricFamily("headrace_feature_values", "Stored feature values served, by status.", labels=[*by, "status"])
        texts = ("Time to read features online.", "Time in the model.", "Time in the replica per prediction request.")
        latencies = [HistogramMetricFamily(f"headrace_{n}_ms", text, labels=by) for n, text in zip(LATENCIES, texts, strict=True)]
        text = "Age of the data served, from its own timestamps to the request's now."
        freshness = HistogramMetricFamily("headrace_freshness_seconds", text, labels=[*by, "view"])
        for key, counted in self._versions.items():
            requests.add_metric([*key, "200"], counted.ok)
            predictions.add_metric(list(key), counted.instances)
            for status, count in zip(STATUS_NAMES, counted.statuses, strict=True):
                values.add_metric([*key, status], count)
            for column, latency in enumerate(latencies):
                counted.latency.add_to(latency, list(key), column)
            for column, view in enumerate(counted.freshness.names):
                counted.freshness.add_to(freshness, [*key, view], column)
        for failed, count in self._failures.items():
            requests.add_metric(list(failed), count)
        yield from (requests, predictions, values, *latencies, freshness)
        text = "Calls by what they asked for and what they ended in (499: the caller went away)."
        calls = CounterMetricFamily("headrace_calls", text, labels=["door", "status"])
        for called, count in self._answered.items():
            calls.add_metric(list(called), count)
        yield calls
        text = "Calls of on-demand functions that were slow: answered, refused, late (504), or held (the event loop waited)."
        slow = CounterMetricFamily("headrace_on_demand_slow", text, labels=["view", "outcome"])
        for key, count in self.on_demand.items():
            slow.add_metric(list(key), count)
        yield slow
        if self._log is not None:
            yield GaugeMetricFamily("headrace_log_depth", "Predictions waiting to be logged.", self._log.depth)
            yield CounterMetricFamily("headrace_log_written", "Predictions logged.", self._log.written)
            yield CounterMetricFamily("headrace_log_dropped", "Predictions not logged: the buffer was full.", self._log.dropped)
            text = "Predictions that were not on the disk before they were sent: a kill would have lost them."
            yield CounterMetricFamily("headrace_log_unspooled", text, self._log.unspooled)
        compared = ("Served values that were read again through stock Feast.", "Of these, values that were not the same.")
        for place, (name, description) in enumerate(zip(("compared", "unequal"), compared, strict=True)):
            family = CounterMetricFamily(f"headrace_equality_{name}", description, labels=["model"])
            for model, counts in self.equality.items():
                family.add_metric([model], counts[place])
            yield family
        yield from drift_gauges(self.verdicts)
        yield from quality_gauges(self.quality)
        yield from held_gauges(self.held)
        yield from source_gauges(self.sources)
        yield from part_metrics(self.parts, self.restarts)


class _Named(Collector):
    """What a registry collects, each sample with the replica's name."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [one._replace(labels={**one.labels, "replica": self._replica}) for one in family.samples]
            yield family


def drift_gauges(verdicts: dict[str, dict[str, Any]]) -> Iterable[Metric]:
    """Gauges of the watch's verdicts; a member a verdict does not have gives no sample."""

    def gauge(name: str, text: str, labels: list[str], samples: Callable[[dict[str, Any]], Iterable[tuple[list[str], Any]]]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["model", *labels])
        for model, verdict in verdicts.items():
            for values, value in samples(verdict):
                if value is not None:
                    family.add_metric([model, *map(str, values)], float(value))
        return family

    def named(verdict: dict[str, Any]) -> list[dict[str, Any]]:
        others = [{**found, "name": f"({name})"} for name in ("score", "label") if isinstance(found := verdict.get(name), dict)]
        return [*verdict.get("features", []), *others]

    def per_feature(member: str) -> Callable[[dict[str, Any]], Iterable[tuple[list[str], Any]]]:
        return lambda v: [([f["name"]], f.get(member)) for f in named(v)]

    yield gauge("headrace_drift", "1 where the watch sees drift.", ["version"], lambda v: [([str(v.get("version"))], v.get("drift"))])
    yield gauge(
        "headrace_drift_triage",
        "1 for what the watch takes the drift for, and the view that a fault is in.",
        ["cause", "view"],
        lambda v: [([v["triage"]["cause"], view], 1) for view in v["triage"]["views"] or [""]] if v.get("triage") else [],
    )
    yield gauge("headrace_drift_window_rows", "Predictions in the watch's window.", [], lambda v: [([], v.get("window", {}).get("rows"))])
    yield gauge(
        "headrace_drift_checked_timestamp_seconds",
        "When the watch's verdict was reached.",
        [],
        lambda v: [([], None if v.get("at_us") is None else v["at_us"] / 1e6)],
    )
    yield gauge("headrace_feature_drift", "1 where an input, (score) or (label) drifted.", ["feature"], per_feature("drift"))
    yield gauge("headrace_feature_drift_p_value", "Significance of the drift test.", ["feature"], per_feature("p_value"))
    yield gauge("headrace_feature_drift_effect", "Effect size of the drift.", ["feature"], per_feature("effect"))
    yield gauge("headrace_outlier_share", "Share of outliers in the window.", [], lambda v: [([], v.get("outliers", {}).get("share"))])
    yield gauge("headrace_outlier_alarm", "1 where outliers raise an alarm.", [], lambda v: [([], v.get("outliers", {}).get("alarm"))])


def held_gauges(held: dict[str, dict[str, Any]]) -> Iterable[Metric]:
    """What the learning loop holds back: how long still, by its last step's own time."""
    text = "What the learning loop holds back: seconds until its end at the latest; +Inf where nobody can date it."
    family = GaugeMetricFamily("headrace_held_seconds", text, labels=["model", "what"])
    for model, listed in held.items():
        for one in listed.get("held", []):
            until = one.get("until_us")
            family.add_metric([model, str(one["what"])], math.inf if until is None else max((until - listed["at_us"]) / 1e6, 0.0))
    yield family


def source_gauges(reports: dict[str, dict[str, Any]]) -> Iterable[Metric]:
    """What the sources of the use case did that they usually do not, or must not."""
    text = "What is odd about a source: how often it says so. `says`: proof, unusual, or moved (no sign of a fault)."
    family = GaugeMetricFamily("headrace_source_violations", text, labels=["source", "kind", "says"])
    upto = GaugeMetricFamily("headrace_sources_checked_timestamp_seconds", "The newest moment of the sources that was looked at.")
    for report in reports.values():
        counts = Counts((str(one["source"]), str(one["kind"]), str(one["says"])) for one in report.get("odd", []))
        for names, count in counts.items():
            family.add_metric(list(names), count)
        upto.add_metric([], report["upto_us"] / 1e6)
    yield from (family, upto)


def quality_gauges(measured: dict[str, dict[str, Any]]) -> Iterable[Metric]:
    """Gauges of live quality: each metric's estimate and both ends of its interval, and what it rests on."""
    value = GaugeMetricFamily(
        "headrace_live_quality", "Quality by the truths that came in.", labels=["model", "version", "role", "metric", "bound"]
    )
    rows = GaugeMetricFamily(
        "headrace_live_labelled", "Predictions whose truth is known, in the window.", labels=["model", "version", "role"]
    )
    delay = GaugeMetricFamily("headrace_label_delay_seconds", "From a prediction to its truth.", labels=["model", "quantile"])
    for model, found in measured.items():
        for one in found.get("versions", []):
            names = [model, str(one["version"]), one["role"]]
            rows.add_metric(names, one["labelled"])
            for metric, estimate in one["metrics"].items():
                for bound in ("value", "low", "high"):
                    if estimate.get(bound) is not None:
                        value.add_metric([*names, metric, bound], estimate[bound])
        for quantile, seconds in (found.get("delay_s") or {}).items():
            delay.add_metric([model, f"0.{quantile[1:]}"], seconds)
    yield from (value, rows, delay)


def readable(
    names: Sequence[str], found: Sequence[bytes | None], gauges: Callable[[dict[str, dict[str, Any]]], Iterable[Metric]]
) -> dict[str, dict[str, Any]]:
    """What others have written of models, as far as gauges can be made of it: one that is broken costs itself and not the scrape."""
    good = {}
    for name, raw in zip(names, found, strict=True):
        if raw is None:
            continue
        try:
            said = files.parse(raw, dict[str, Any])
            for family in gauges({name: said}):
                for sample in family.samples:
                    float(sample.value)  # what the scrape makes of it
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            log.warning("model %s: what Redis holds of its drift or quality is broken and left out: %s", name, error)
            continue
        good[name] = said
    return good
