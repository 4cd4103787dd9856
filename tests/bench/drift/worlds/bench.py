"""`headrace bench triage`: both suites, from drawing the worlds to the tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from infra.cli import console
from infra.settings import Settings
from tests.bench.drift.worlds import ground, score
from tests.bench.drift.worlds.cases import Suite
from tests.bench.drift.worlds.judge import Judged, judged
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
    played: list[Judged] = []
    quiet: list[Judged] = []
    for entry in worlds:
        some, calm = _play(entry, own, scale, lambda text: told(f"{which}, {text}"))
        played += some
        quiet += calm
    windows = {entry.world.name: Suite(entry.world).window_days for entry in worlds}
    figures, tables = score.measured(which, played, quiet, windows)
    sorts = ", ".join(f"{entry.world.name} ({entry.world.sort})" for entry in worlds)
    console.print(f"\n[bold]The {which} suite: {sorts}[/bold]")
    for table in tables:
        console.print(f"\n{table}", soft_wrap=True, markup=False, highlight=False)
    return figures


def _play(entry: Entry, own: Settings, scale: float, told: Callable[[str], None]) -> tuple[list[Judged], list[Judged]]:
    """All cases of one world, and its quiet weeks."""
    world = entry.world
    told(f"{world.name}: drawing, training")
    folder = own.state / "worlds" / world.name
    folder.mkdir(parents=True)
    made = ground.make(world, folder)
    cases = entry.cases(world)
    wanted = max(1, round(len(cases) * min(scale, 1)))
    played = []
    for n in range(wanted):
        case = cases[n * len(cases) // wanted]
        told(f"{world.name}: {case.name}, {n + 1} of {wanted}")
        played.append(judged(case, made))
    quiet = []
    for luck in range(1, round(QUIET_DRAWS * scale) + 1):
        told(f"{world.name}: quiet weeks, {luck}")
        quiet.append(judged(Suite(world).quiet_weeks(luck), made))
    shutil.rmtree(folder)
    return played, quiet
