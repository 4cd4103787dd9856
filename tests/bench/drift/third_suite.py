"""The third suite: other kinds of fault, in July and August, and other customers. Two rules were tightened after its first result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

import numpy as np

from tests.bench.drift.injection import FAULT, SKEW, Act, Fault, Predictions, Suite, Which, changed, exchanged, gone, joined, rearranged
from tests.bench.drift.watch import WINDOW, Baseline, Bench


def suite(bench: Bench) -> Suite:
    elsewhere = joined(bench.between(date(2013, 1, 14), date(2013, 6, 28)), bench.between(date(2013, 9, 7), date(2014, 1, 1)))
    reference, live = Baseline(bench, elsewhere), bench.between(date(2013, 7, 8), date(2013, 8, 25))
    return Suite("The third suite: two rules were tightened after it", reference, live, faults(), skews(), populations(bench, reference))


def _earlier(by: int) -> Callable[[int], np.ndarray]:
    """Those of predictions so many before: another hour's, and other keys'."""
    return lambda n: np.maximum(np.arange(n) - by, 0)


def _of(group: str, value: str) -> Which:
    """A shard is gone: no row for some keys, those of one group."""
    return lambda rows: np.asarray(rows.groups[group] == value, dtype=bool)


def _now_and_then(rows: Predictions) -> np.ndarray:
    """Every other 200 predictions find nothing."""
    return np.arange(len(rows)) // 200 % 2 == 1


def _noise(x: np.ndarray) -> np.ndarray:
    return np.asarray(x + 2 * np.nanstd(x) * np.random.default_rng(3).normal(size=len(x)))


def faults() -> list[Fault]:
    made: list[tuple[str, str, Act]] = [
        ("noise", "weather", changed("weather__temp", _noise)),
        ("noise", "departures_by_origin", changed("departures_by_origin__mean_dep_delay_3h", _noise)),
        ("logarithm", "departures_by_origin", changed("departures_by_origin__count", np.log1p)),
        ("logarithm", "schedule", changed("schedule__miles", np.log)),
        ("percent for share", "arrivals_by_dest", changed("arrivals_by_dest__mean_arr_late", lambda x: x * 100)),
        ("percent for share", "departures_by_carrier", changed("departures_by_carrier__mean_dep_late", lambda x: x * 100)),
        ("columns exchanged", "weather", exchanged("weather__temp", "weather__humid")),
        ("columns exchanged", "plane", exchanged("plane__year", "plane__seats")),
        (
            "columns exchanged",
            "departures_by_origin",
            exchanged("departures_by_origin__mean_dep_delay_1h", "departures_by_origin__count_dep_delay_3h"),
        ),
        ("an hour late", "departures_by_origin", rearranged("departures_by_origin__", _earlier(60))),
        ("a day late", "weather", rearranged("weather__", _earlier(960))),
        ("a day late", "arrivals_by_carrier", rearranged("arrivals_by_carrier__", _earlier(960))),
        ("a shard is gone", "departures_by_carrier", gone("departures_by_carrier__", b"m", _of("carrier", "UA"))),
        ("a shard is gone", "weather", gone("weather__", b"m", _of("origin", "JFK"))),
        ("-1 for null", "plane", changed("plane__", lambda x: np.where(np.isnan(x), -1.0, x))),
        ("-1 for null", "departures_by_tailnum", changed("departures_by_tailnum__", lambda x: np.where(np.isnan(x), -1.0, x))),
        ("rounded to tens", "plane", changed("plane__year", lambda x: np.round(x, -1))),
        ("rounded to tens", "schedule", changed("schedule__block_minutes", lambda x: np.round(x / 60) * 60)),
        ("sensor off by a constant", "weather", changed("weather__pressure", lambda x: x - 30.0)),
        ("sensor off by a constant", "weather", changed("weather__wind_dir", lambda x: (x + 180) % 360)),
        ("half gone for an outage", "arrivals_by_route", gone("arrivals_by_route__", b"m", _now_and_then)),
        ("half gone for an outage", "departures_by_origin", gone("departures_by_origin__", b"m", _now_and_then)),
    ]
    return [Fault(kind, f"{kind}, {view}, {n}", view, FAULT, act) for n, (kind, view, act) in enumerate(made)]


def skews() -> list[Fault]:
    """Scored with other values than are logged."""
    acts: list[tuple[str, Act]] = [
        ("a day of the week too few", changed("schedule__day_of_week", lambda x: x - 1)),
        ("rounded to whole numbers", changed("departures_by_origin__mean", np.round)),
    ]
    return [Fault("training/serving skew", name, "", SKEW, act) for name, act in acts]


def populations(bench: Bench, reference: Baseline) -> Iterator[tuple[str, Baseline, Predictions]]:
    """Other customers, in the months of the suite; and another season."""
    rows = bench.between(date(2013, 7, 8), date(2013, 8, 25))
    at = {
        n: rows.matrix[:, bench.names.index(n)] for n in ("schedule__local_minute_of_day", "schedule__miles", "plane__year", "plane__seats")
    }
    chosen = {
        "evenings only": at["schedule__local_minute_of_day"] > 17 * 60,
        "noon only": np.abs(at["schedule__local_minute_of_day"] - 12 * 60) < 120,
        "old planes only": at["plane__year"] < 1999,
        "large planes only": at["plane__seats"] > 170,
        "unknown planes mostly": np.isnan(at["plane__year"]) | (np.arange(len(rows)) % 8 == 0),
        "one airline": rows.groups["carrier"] == "B6",
        "two airlines of one kind": np.isin(rows.groups["carrier"], ["EV", "9E"]),
        "middle ways only": np.abs(at["schedule__miles"] - 900) < 300,
    }
    for name, keep in chosen.items():
        yield name, reference, rows[keep.astype(bool)][:WINDOW]
    spring = Baseline(bench, bench.between(date(2013, 3, 1), date(2013, 6, 1)))
    yield "reference of spring, July", spring, bench.between(date(2013, 7, 8), date(2013, 7, 28))[:WINDOW]
    yield "reference of spring, November", spring, bench.between(date(2013, 11, 4), date(2013, 11, 24))[:WINDOW]
