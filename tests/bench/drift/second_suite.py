"""The second suite: kinds of fault, months and populations that the first did not have. Fitted since: triage was changed because of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np

from tests.bench.drift.injection import FAULT, SKEW, Act, Fault, Predictions, Suite, changed, gone, joined, rearranged, some
from tests.bench.drift.watch import WINDOW, Baseline, Bench

DAY_ROWS = 960


def suite(bench: Bench) -> Suite:
    elsewhere = joined(bench.between(date(2013, 1, 14), date(2013, 4, 1)), bench.between(date(2013, 6, 8), date(2014, 1, 1)))
    reference, live = Baseline(bench, elsewhere), bench.between(date(2013, 4, 8), date(2013, 6, 1))
    return Suite("The second suite: triage was changed because of it", reference, live, faults(), skews(), populations(bench, reference))


def _frozen(n: int) -> np.ndarray:
    """Served as it was three days before, and said to be fresh."""
    return np.maximum(np.arange(n) - 3 * DAY_ROWS, 0)


def _shuffled(n: int) -> np.ndarray:
    """Joined by a wrong key: some other row's."""
    return np.random.default_rng(2).permutation(n)


def faults() -> list[Fault]:
    made: list[tuple[str, str, Act]] = [
        ("frozen view", "weather", rearranged("weather__", _frozen)),
        ("frozen view", "departures_by_origin", rearranged("departures_by_origin__", _frozen)),
        ("wrong key", "weather", rearranged("weather__", _shuffled)),
        ("wrong key", "departures_by_carrier", rearranged("departures_by_carrier__", _shuffled)),
        ("wrong key", "arrivals_by_route", rearranged("arrivals_by_route__", _shuffled)),
        ("nulls as zeros", "departures_by_tailnum", changed("departures_by_tailnum__", lambda x: np.where(np.isnan(x), 0.0, x))),
        ("nulls as zeros", "arrivals_by_dest", changed("arrivals_by_dest__", lambda x: np.where(np.isnan(x), 0.0, x))),
        ("sentinel in 1 of 10", "weather", changed("weather__temp", lambda x: np.full_like(x, -9999.0), 0.1)),
        ("sentinel in 1 of 10", "plane", changed("plane__year", lambda x: np.zeros_like(x), 0.1)),
        ("cut off", "departures_by_origin", changed("departures_by_origin__mean", lambda x: np.minimum(x, 10.0))),
        ("cut off", "arrivals_by_carrier", changed("arrivals_by_carrier__mean_arr_delay", lambda x: np.maximum(x, 0.0))),
        ("sign turned", "arrivals_by_carrier", changed("arrivals_by_carrier__mean_arr_delay", np.negative)),
        ("sign turned", "weather", changed("weather__temp", np.negative)),
        ("seconds for minutes", "arrivals_by_dest", changed("arrivals_by_dest__mean_arr_delay", lambda x: x * 60)),
        ("seconds for minutes", "departures_by_tailnum", changed("departures_by_tailnum__", lambda x: x * 60)),
        ("unit change in 1 of 2", "weather", changed("weather__wind_speed", lambda x: x * 1.609, 0.5)),
        ("unit change in 1 of 2", "schedule", changed("schedule__miles", lambda x: x * 1.609, 0.5)),
        ("events counted twice", "departures_by_origin", changed("departures_by_origin__count", lambda x: x * 2)),
        ("events counted twice", "arrivals_by_route", changed("arrivals_by_route__count", lambda x: x * 2)),
        ("lost in 3 of 10", "plane", gone("plane__", b"m", some(0.3))),
        ("lost in 3 of 10", "arrivals_by_carrier", gone("arrivals_by_carrier__", b"m", some(0.3))),
    ]
    return [Fault(kind, f"{kind}, {view}", view, FAULT, act) for kind, view, act in made]


def skews() -> list[Fault]:
    """Scored with other values than are logged."""
    acts: list[tuple[str, Act]] = [
        ("plane's nulls scored as zeros", changed("plane__", lambda x: np.where(np.isnan(x), 0.0, x))),
        ("miles scored as kilometres", changed("schedule__miles", lambda x: x * 1.609)),
    ]
    return [Fault("training/serving skew", name, "", SKEW, act) for name, act in acts]


def populations(bench: Bench, reference: Baseline) -> Iterator[tuple[str, Baseline, Predictions]]:
    """Other customers, in the months of the suite: one airport's, large airlines' only, mornings only, weekends only, long ways only."""
    rows = bench.between(date(2013, 4, 8), date(2013, 6, 1))
    minute, weekday = (rows.matrix[:, bench.names.index(f"schedule__{n}")] for n in ("local_minute_of_day", "day_of_week"))
    chosen = {
        **{f"only {origin}": rows.groups["origin"] == origin for origin in sorted(set(rows.groups["origin"]))},
        "large airlines only": np.isin(rows.groups["carrier"], ["UA", "DL", "AA"]),
        "mornings only": minute < 10 * 60,
        "weekends only": weekday >= 6,
        "all but the longest ways": rows.matrix[:, bench.names.index("schedule__miles")] < 2000,
    }
    for name, keep in chosen.items():
        yield name, reference, rows[keep.astype(bool)][:WINDOW]
