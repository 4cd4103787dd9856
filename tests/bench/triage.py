"""Triage on labelled suites: how often it names what really happened.

Two suites. Rules and thresholds of `serving/triage.py` were set on the first. The second is independent: kinds of fault, months and
populations that nothing was set on. It was written once and run; neither it nor triage has been changed after its first result. Whoever
changes triage because of it makes it a fitted one, and owes a third.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date

import numpy as np

from infra.command_line import console
from infra.settings import Settings
from serving.verdict import Triage
from tests.bench.injection import FAULT, POPULATION, SKEW, Fault, Predictions, faults, inject, joined, skewed, skews
from tests.bench.report import Measurement
from tests.bench.watch import STEP, WINDOW, Baseline, Bench, prepare

DAY_ROWS = 960
Act = Callable[[Predictions, list[str]], None]


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    """Both suites: the fitted one at `4 * scale` moments of October to December, the independent one at `3 * scale` of April and May."""
    bench = prepare(own, told)
    reference = Baseline(bench, bench.between(date(2013, 1, 14), date(2013, 10, 1)))
    live = bench.between(date(2013, 10, 1), date(2014, 1, 1))
    console.print("\n[bold]The suite that triage was fitted on[/bold]")
    found = run_suite(bench, reference, live, faults(), skews(), populations(bench, reference), max(1, round(4 * scale)), told)
    reference = Baseline(
        bench, joined(bench.between(date(2013, 1, 14), date(2013, 4, 1)), bench.between(date(2013, 6, 8), date(2014, 1, 1)))
    )
    live = bench.between(date(2013, 4, 8), date(2013, 6, 1))
    console.print("\n[bold]The independent suite[/bold]")
    more = run_suite(bench, reference, live, unseen(), unseen_skews(), other_customers(bench, reference), max(1, round(3 * scale)), told)
    return [*found, *(Measurement(f"independent: {m.name}", m.unit, m.value, more=m.more) for m in more)]


def run_suite(
    bench: Bench,
    reference: Baseline,
    live: Predictions,
    faults: list[Fault],
    skews: list[Fault],
    others: Iterable[tuple[str, Baseline, Predictions]],
    places: int,
    told: Callable[[str], None],
) -> list[Measurement]:
    """Each fault at some moments of `live`, windows whose scores are skewed, and populations that really are others (name, reference, window).

    Prints what triage says of a window full of each, and of the window of the first alarm.
    """
    starts = np.linspace(0, len(live) - 2 * WINDOW, places + 2).astype(int)[1:-1]
    delays: dict[str, list[float]] = {}
    said: dict[str, Counter[str]] = {}
    early: dict[str, Counter[str]] = {}
    for fault in faults:
        for n, start in enumerate(starts):
            told(f"{fault.kind}: {fault.name}, {n + 1} of {places}")
            stream = joined(
                live[start : start + WINDOW], inject(fault, live[start + WINDOW : start + 2 * WINDOW], bench.names, bench.model)
            )
            delay = _delay(reference, stream)
            delays.setdefault(fault.kind, []).append(delay)
            if np.isfinite(delay):
                early.setdefault(fault.kind, Counter())[_read(reference.triage(stream[int(delay) : int(delay) + WINDOW]), fault)] += 1
            said.setdefault(fault.kind, Counter())[_read(reference.triage(stream[-WINDOW:]), fault)] += 1
    for skew in skews:
        for start in starts:
            told(f"skew: {skew.name}")
            window = skewed(skew, live[start : start + WINDOW], bench.names, bench.model)
            said.setdefault("training/serving skew", Counter())[_read(reference.triage(window), skew)] += 1
    for name, of, window in others:
        told(name)
        said.setdefault("population change", Counter())[_read(of.triage(window), None)] += 1
    for start in starts:
        said.setdefault("nothing", Counter())[_read(reference.triage(live[start : start + WINDOW]), None)] += 1
    heads = ("right view", "other view", "skew", "population", "quiet")
    head = "| what happened | cases | alarm after (median, longest) | fault, right view | fault, other view | skew | population | quiet |"
    for title, table in (("a window full of it", said), ("the window of the first alarm", early)):
        lines = ["", f"Triage of {title}:", "", head, "|---|---|---|---|---|---|---|---|"]
        for kind, counts in table.items():
            waits = sorted(delays.get(kind, []))
            wait = f"{_never(float(np.median(waits)))}, {_never(waits[-1])}" if waits else ""
            lines.append(f"| {kind} | {counts.total()} | {wait} | " + " | ".join(str(counts[h] or "") for h in heads) + " |")
        console.print("\n".join(lines), soft_wrap=True)
    right = {"training/serving skew": "skew", "population change": "population", "nothing": "quiet"}
    hits = sum(counts[right.get(kind, "right view")] for kind, counts in said.items())
    everything = sum(counts.total() for counts in said.values())
    wrong = sum(counts["population"] for table in (said, early) for kind, counts in table.items() if kind != "population change")
    console.print(f"right in {hits} of {everything} ({hits / everything:.0%}); would have retrained for no reason: {wrong}")
    return [
        Measurement("triage is right", "share", hits / everything, more=True),
        Measurement("retraining pulled by what is no change", "cases", wrong),
        *(Measurement(f"delay to alarm, {kind}", "predictions", float(np.median(waits))) for kind, waits in delays.items()),
    ]


def _never(rows: float) -> str:
    return "never" if np.isinf(rows) else f"{rows:,.0f}"


def _delay(reference: Baseline, stream: Predictions) -> float:
    """Predictions under the fault until a window alarms; infinite if the first that is full of them does not."""
    return next((float(n) for n in range(STEP, WINDOW + 1, STEP) if reference.alarms(stream[n : n + WINDOW])), np.inf)


def _read(found: Triage | None, fault: Fault | None) -> str:
    if found is None:
        return "quiet"
    if found.cause == SKEW:
        return "skew"
    if found.cause == POPULATION:
        return "population"
    return "right view" if fault is not None and found.views[0] == fault.view else "other view"


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


def _on(beginning: str, change: Callable[[np.ndarray], np.ndarray], share: float = 1.0) -> Act:
    """Change the columns that begin so, in a share of the rows; what comes of a null is taken as served fresh."""

    def act(rows: Predictions, names: list[str]) -> None:
        hit = np.random.default_rng(1).random(len(rows)) < share
        for j in (j for j, name in enumerate(names) if name.startswith(beginning)):
            before = rows.matrix[hit, j]
            rows.matrix[hit, j] = after = change(before)
            letters = rows.statuses[hit, j]
            letters[np.isnan(before) & ~np.isnan(after)] = b"f"
            rows.statuses[hit, j] = letters

    return act


def _rearranged(beginning: str, order: Callable[[int], np.ndarray]) -> Act:
    """A view's values are those of other rows, all columns together."""

    def act(rows: Predictions, names: list[str]) -> None:
        at, of = [j for j, name in enumerate(names) if name.startswith(beginning)], order(len(rows))
        rows.matrix[:, at], rows.statuses[:, at] = rows.matrix[of][:, at], rows.statuses[of][:, at]

    return act


def _frozen(n: int) -> np.ndarray:
    """Served as it was three days before, and said to be fresh."""
    return np.maximum(np.arange(n) - 3 * DAY_ROWS, 0)


def _shuffled(n: int) -> np.ndarray:
    """Joined by a wrong key: some other row's."""
    return np.random.default_rng(2).permutation(n)


def _missing(beginning: str, share: float) -> Act:
    def act(rows: Predictions, names: list[str]) -> None:
        hit = np.random.default_rng(1).random(len(rows)) < share
        for j in (j for j, name in enumerate(names) if name.startswith(beginning)):
            rows.matrix[hit, j], rows.statuses[hit, j] = np.nan, b"m"

    return act


def unseen() -> list[Fault]:
    """Kinds of fault that triage was not fitted on."""
    made: list[tuple[str, str, Act]] = [
        ("frozen view", "weather", _rearranged("weather__", _frozen)),
        ("frozen view", "departures_by_origin", _rearranged("departures_by_origin__", _frozen)),
        ("wrong key", "weather", _rearranged("weather__", _shuffled)),
        ("wrong key", "departures_by_carrier", _rearranged("departures_by_carrier__", _shuffled)),
        ("wrong key", "arrivals_by_route", _rearranged("arrivals_by_route__", _shuffled)),
        ("nulls as zeros", "departures_by_tailnum", _on("departures_by_tailnum__", lambda x: np.where(np.isnan(x), 0.0, x))),
        ("nulls as zeros", "arrivals_by_dest", _on("arrivals_by_dest__", lambda x: np.where(np.isnan(x), 0.0, x))),
        ("sentinel in 1 of 10", "weather", _on("weather__temp", lambda x: np.full_like(x, -9999.0), 0.1)),
        ("sentinel in 1 of 10", "plane", _on("plane__year", lambda x: np.zeros_like(x), 0.1)),
        ("cut off", "departures_by_origin", _on("departures_by_origin__mean", lambda x: np.minimum(x, 10.0))),
        ("cut off", "arrivals_by_carrier", _on("arrivals_by_carrier__mean_arr_delay", lambda x: np.maximum(x, 0.0))),
        ("sign turned", "arrivals_by_carrier", _on("arrivals_by_carrier__mean_arr_delay", np.negative)),
        ("sign turned", "weather", _on("weather__temp", np.negative)),
        ("seconds for minutes", "arrivals_by_dest", _on("arrivals_by_dest__mean_arr_delay", lambda x: x * 60)),
        ("seconds for minutes", "departures_by_tailnum", _on("departures_by_tailnum__", lambda x: x * 60)),
        ("unit change in 1 of 2", "weather", _on("weather__wind_speed", lambda x: x * 1.609, 0.5)),
        ("unit change in 1 of 2", "schedule", _on("schedule__miles", lambda x: x * 1.609, 0.5)),
        ("events counted twice", "departures_by_origin", _on("departures_by_origin__count", lambda x: x * 2)),
        ("events counted twice", "arrivals_by_route", _on("arrivals_by_route__count", lambda x: x * 2)),
        ("lost in 3 of 10", "plane", _missing("plane__", 0.3)),
        ("lost in 3 of 10", "arrivals_by_carrier", _missing("arrivals_by_carrier__", 0.3)),
    ]
    return [Fault(kind, f"{kind}, {view}", view, FAULT, act) for kind, view, act in made]


def unseen_skews() -> list[Fault]:
    """Scored with other values than are logged."""
    acts: list[tuple[str, Act]] = [
        ("plane's nulls scored as zeros", _on("plane__", lambda x: np.where(np.isnan(x), 0.0, x))),
        ("miles scored as kilometres", _on("schedule__miles", lambda x: x * 1.609)),
    ]
    return [Fault("training/serving skew", name, "", SKEW, act) for name, act in acts]


def other_customers(bench: Bench, reference: Baseline) -> Iterator[tuple[str, Baseline, Predictions]]:
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
