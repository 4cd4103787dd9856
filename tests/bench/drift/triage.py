"""Triage on labelled suites: how often it names what really happened.

Three suites. Rules and thresholds of `serving/monitoring/triage/shape.py` were set on the first; when the second showed what they did not see, they were
extended, so that it is a fitted one too. The third - kinds of fault, months and populations that nothing was set on - was written before
it was run; its first result, the last that is independent, was 18 of 35. Two rules that called other customers a fault were tightened
after it. Whoever wants to know how triage does on what it was not fitted on owes a fourth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from feature_repo.records.verdict import Triage
from infra.cli import console
from infra.settings import Settings
from tests.bench.drift import first_suite, second_suite, third_suite
from tests.bench.drift.injection import POPULATION, SKEW, Fault, Predictions, Suite, inject, joined, skewed
from tests.bench.drift.watch import STEP, WINDOW, Baseline, Bench, prepare
from tests.bench.report import Measurement


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    """The three suites, their faults at `4 * scale` moments each."""
    bench = prepare(own, told)
    found = []
    for name, of in (("first", first_suite), ("second", second_suite), ("third", third_suite)):
        suite = of.suite(bench)
        console.print(f"\n[bold]{suite.title}[/bold]")
        found += [
            Measurement(f"{name}: {m.name}", m.unit, m.value, more=m.more) for m in run_suite(bench, suite, max(1, round(4 * scale)), told)
        ]
    return found


def run_suite(bench: Bench, suite: Suite, places: int, told: Callable[[str], None]) -> list[Measurement]:
    """Prints what triage says of a window full of each fault, and of the window of the first alarm; figures of both.

    Args:
        places: at how many moments of the suite's time each fault is put in.
    """
    reference, live = suite.reference, suite.live
    starts = np.linspace(0, len(live) - 2 * WINDOW, places + 2).astype(int)[1:-1]
    delays: dict[str, list[float]] = {}
    said: dict[str, Counter[str]] = {}
    early: dict[str, Counter[str]] = {}
    for fault in suite.faults:
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
    for skew in suite.skews:
        for start in starts:
            told(f"skew: {skew.name}")
            window = skewed(skew, live[start : start + WINDOW], bench.names, bench.model)
            said.setdefault("training/serving skew", Counter())[_read(reference.triage(window), skew)] += 1
    for name, of, window in suite.others:
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
