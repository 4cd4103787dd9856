"""`headrace bench triage`: both suites, from drawing the worlds to the tables. The worlds are played side by side, in processes of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from feature_repo.registry.apply import quiet
from infra.cli import console
from infra.settings import Settings
from tests.bench.drift.worlds import ground, score
from tests.bench.drift.worlds.cases import Case, Suite
from tests.bench.drift.worlds.judge import Judged, Said, judged
from tests.bench.drift.worlds.suites import Entry, Which, entries
from tests.bench.report import Measurement

QUIET_DRAWS = 5
"""So many times are the live weeks of each world drawn anew without anything in them, at full scale."""


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    """Every world of both suites; `scale` below 1 takes only so many of the cases of each, evenly."""
    found: list[Measurement] = []
    for which in ("fitted", "independent"):
        found += run_suite(which, own, scale, told)
    return found


def run_suite(which: Which, own: Settings, scale: float, told: Callable[[str], None]) -> list[Measurement]:
    worlds = entries(which)
    if not worlds:
        console.print(f"The {which} suite has no world yet.")
        return []
    played: dict[int, tuple[list[Judged], list[Judged]]] = {}
    # a process that was forked from one with threads may hang
    with ProcessPoolExecutor(min(len(worlds), os.cpu_count() or 1), get_context("spawn")) as pool:
        jobs = {pool.submit(play, which, n, own.state / "worlds", scale): n for n in range(len(worlds))}
        told(f"{which} suite: {len(jobs)} worlds")
        for done in as_completed(jobs):
            n = jobs[done]
            said = done.result()
            played[n] = tuple([Judged(case, said[case.name]) for case in some] for some in chosen(worlds[n], scale))  # type: ignore[assignment]
            told(f"{which} suite: {worlds[n].world.name} is done, {len(played)} of {len(jobs)} worlds")
    cases = [one for n in sorted(played) for one in played[n][0]]
    calm = [one for n in sorted(played) for one in played[n][1]]
    windows = {entry.world.name: Suite(entry.world).window_days for entry in worlds}
    figures, tables = score.measured(which, cases, calm, windows)
    sorts = ", ".join(f"{entry.world.name} ({entry.world.sort})" for entry in worlds)
    console.print(f"\n[bold]The {which} suite: {sorts}[/bold]")
    for table in tables:
        console.print(f"\n{table}", soft_wrap=True, markup=False, highlight=False)
    return figures


def chosen(entry: Entry, scale: float) -> tuple[list[Case], list[Case]]:
    """The cases of a world that are played at a scale, and its quiet weeks."""
    cases = entry.cases(entry.world)
    wanted = max(1, round(len(cases) * min(scale, 1)))
    calm = [Suite(entry.world).quiet_weeks(luck) for luck in range(1, round(QUIET_DRAWS * scale) + 1)]
    return [cases[n * len(cases) // wanted] for n in range(wanted)], calm


def play(which: Which, number: int, state: Path, scale: float) -> dict[str, list[Said]]:
    """One world, in a process of its own: the verdicts of each of its cases, by name (a case itself holds functions, and cannot be sent)."""
    entry = entries(which)[number]
    folder = state / which / entry.world.name
    folder.mkdir(parents=True)
    cases, calm = chosen(entry, scale)
    with quiet():  # Feast's notes, each time that it reads a definition
        made = ground.make(entry.world, folder)
        found = {case.name: judged(case, made).verdicts for case in [*cases, *calm]}
    shutil.rmtree(folder)
    return found
