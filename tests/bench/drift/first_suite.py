"""The first suite: plain faults in October to December, and windows that really are others. Rules and thresholds were set on it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np

from tests.bench.drift.injection import FAULT, SKEW, Act, Fault, Predictions, Suite, columns, exchanged, gone, some
from tests.bench.drift.watch import WINDOW, Baseline, Bench


def suite(bench: Bench) -> Suite:
    reference = Baseline(bench, bench.between(date(2013, 1, 14), date(2013, 10, 1)))
    live = bench.between(date(2013, 10, 1), date(2014, 1, 1))
    return Suite("The first suite: triage was fitted on it", reference, live, faults(), skews(), populations(bench, reference))


def _unit(beginning: str) -> Act:
    def act(rows: Predictions, names: list[str]) -> None:
        at = columns(names, beginning)
        rows.matrix[:, at] = rows.matrix[:, at] * 1.8 + 32

    return act


def _stuck(beginning: str) -> Act:
    def act(rows: Predictions, names: list[str]) -> None:
        for j in columns(names, beginning):
            known = rows.matrix[~np.isnan(rows.matrix[:, j]), j]
            if len(known):
                rows.matrix[:, j] = known[0]
                rows.statuses[:, j] = b"f"

    return act


def _clock(hours: int) -> Act:
    def act(rows: Predictions, names: list[str]) -> None:
        minute, day = names.index("schedule__local_minute_of_day"), names.index("schedule__day_of_week")
        shifted = rows.matrix[:, minute] + 60 * hours
        rows.matrix[:, minute] = shifted % 1440
        rows.matrix[:, day] = (rows.matrix[:, day] - 1 + shifted // 1440) % 7 + 1

    return act


def faults() -> list[Fault]:
    """All faults of the suite. A skew's `act` makes what was scored; what is logged stays (see `skewed`)."""
    units = [
        ("weather__temp", "weather"),
        ("weather__wind_speed", "weather"),
        ("departures_by_origin__mean_dep_delay_1h", "departures_by_origin"),
        ("arrivals_by_route__mean_arr_delay_7d", "arrivals_by_route"),
        ("plane__seats", "plane"),
        ("schedule__miles", "schedule"),
        ("departures_by_carrier__mean", "departures_by_carrier"),
    ]
    found = [Fault("unit change", name, view, FAULT, _unit(name)) for name, view in units]
    found += [
        Fault("stuck sensor", view, view, FAULT, _stuck(f"{view}__")) for view in ("weather", "departures_by_origin", "arrivals_by_dest")
    ]
    found += [
        Fault("dropped join", view, view, FAULT, gone(f"{view}__", b"m", some(1, 0))) for view in ("plane", "weather", "arrivals_by_route")
    ]
    found += [
        Fault("stale view", "weather, all", "weather", FAULT, gone("weather__", b"s", some(1, 0))),
        Fault("stale view", "weather, 1 in 5", "weather", FAULT, gone("weather__", b"s", some(0.2, 0))),
        Fault(
            "stale view", "departures_by_origin, 1 in 2", "departures_by_origin", FAULT, gone("departures_by_origin__", b"s", some(0.5, 0))
        ),
    ]
    found += [Fault("shifted clock", f"{hours} h", "schedule", FAULT, _clock(hours)) for hours in (1, 3, 6, 12)]
    return found


def skews() -> list[Fault]:
    pairs = [("weather__temp", "weather__dewp"), ("departures_by_carrier__mean_dep_delay_3h", "departures_by_carrier__mean_dep_delay_24h")]
    return [Fault("columns swapped at scoring", a, "", SKEW, exchanged(a, b)) for a, b in pairs]


def populations(bench: Bench, reference: Baseline) -> Iterator[tuple[str, Baseline, Predictions]]:
    """Windows of real predictions that are not what their reference is: another season, or other customers. Name, reference, window."""
    winter = Baseline(bench, bench.between(date(2013, 1, 14), date(2013, 4, 1)))
    july = Baseline(bench, bench.between(date(2013, 7, 1), date(2013, 8, 1)))
    for month in (6, 7, 8):
        yield f"reference of winter, month {month}", winter, bench.between(date(2013, month, 8), date(2013, month, 28))[:WINDOW]
    for day in (1, 8, 15, 22):
        yield f"reference of July, September {day}", july, bench.between(date(2013, 9, day), date(2013, 9, day + 8))[:WINDOW]
    miles = bench.names.index("schedule__miles")
    for month in (10, 11, 12):
        rows = bench.between(date(2013, month, 1), date(2013, month, 30))
        yield f"long routes only, month {month}", reference, rows[rows.matrix[:, miles] > 1500][:WINDOW]
        yield f"regional airlines only, month {month}", reference, rows[np.isin(rows.groups["carrier"], ["EV", "MQ", "9E"])][:WINDOW]
        yield f"short routes only, month {month}", reference, rows[rows.matrix[:, miles] < 500][:WINDOW]
