"""What the commands of this room show: the plan of a backfill, its progress, its result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from feature_repo.records.source_report import read_source_report
from infra import files
from infra.timestamps import minute_text

if TYPE_CHECKING:
    from streaming.backfill.estimate import Size
    from streaming.backfill.run import Backfilled, Planned, Progress
    from streaming.profiles.latest import Latest


def day(us: int | None) -> str:
    return minute_text(us) if us else "-"


def print_sources(console: Console, found: Latest, only_odd: bool = False) -> None:
    """A row per table, and one per violation of it; then the rows that show it.

    Args:
        only_odd: nothing of tables that are as usual, or that only moved.
    """
    table = Table("source", "newest row", "", "since", "what", box=None)
    shown = [one for one in found.looked.violations if not only_odd or one.says != "moved"]
    for source, why in found.looked.unreadable.items():
        table.add_row(escape(source), "", "[red]unreadable[/red]", "", escape(why))
    for source, us in found.newest.items():
        if source in found.looked.unreadable:
            continue
        own = [one for one in shown if one.source == source]
        if not own and not only_odd:
            known = source in found.looked.profiled
            table.add_row(escape(source), day(us), "", "", "[green]as usual[/green]" if known else "too little past to say what is usual")
        for one in own:
            color = {"proof": "red", "unusual": "yellow"}.get(one.says)
            says = f"[{color}]{one.says}[/{color}]" if color else one.says
            table.add_row(escape(source), day(us), says, day(one.since_us), f"{one.kind}: {escape(one.text)}")
    if table.row_count:
        console.print(table)
    for one in shown:
        for row in one.rows:
            console.print(f"  {escape(one.source)}: {escape(row)}", soft_wrap=True)


def odd_sources(state: Path, project: str) -> list[str]:
    """A line per source of which something odd was found when it was looked at last. `state`: the checkout's state folder."""
    try:
        found = read_source_report(state, project)
    except files.FileError as error:
        return [f"[red]what the sources did cannot be read: {escape(str(error))}[/red]"]
    unreadable = found.unreadable if found is not None else {}
    lines = [f"source {escape(source)}: [red]cannot be read[/red]: {escape(why)}" for source, why in unreadable.items()]
    for one in found.odd if found is not None else []:
        if one.says != "moved":
            color = "red" if one.says == "proof" else "yellow"
            told = f"{one.kind} since {minute_text(one.since_us)}: {escape(one.text)} (`headrace sources`)"
            lines.append(f"source {escape(one.source)}: [{color}]{one.says}[/{color}]: {told}")
    return lines


def plan_table(planned: Sequence[Planned]) -> Table:
    """A row per view, and the sum."""
    table = Table("view", "to", "since", "days", "rows", "about", "", box=None)
    for p in planned:
        if p.error:
            table.add_row(p.view, day(p.end_us), "", "", "", "", f"[red]{escape(p.error)}[/red]")
            continue
        left = f"goes on: {p.done} of {p.buckets} parts are done" if p.done else ""
        table.add_row(p.view, day(p.end_us), day(p.from_us) if p.from_us else "all", str(p.days), f"{p.rows:,}", _span(p.seconds), left)
    if len(planned) > 1:
        rows, seconds = sum(p.rows for p in planned), sum(p.seconds for p in planned)
        table.add_row(f"[bold]{len(planned)} views", "", "", "", f"[bold]{rows:,}", f"[bold]{_span(seconds)}", "")
    return table


def backfill_plan_table(planned: Sequence[Planned], held: Mapping[str, int], sizes: Mapping[str, Size | None]) -> Table:
    """The backfills that a change of definitions asks for, and what they would do to the size of the online store."""
    table = Table("to be backfilled", "rows", "about", "in Redis now", "then", "entities", box=None)
    for p in planned:
        size = sizes.get(p.view)
        now, then = f"{held.get(p.view, 0) / 1e6:.1f} MB", f"{size.bytes / 1e6:.1f} MB" if size else "?"
        rows, about = ("?", "?") if p.error else (f"{p.rows:,}", _span(p.seconds))
        table.add_row(p.view, rows, about, now, then, f"{size.entities:,}" if size else "?")
    return table


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def progress_bars(console: Console, planned: Sequence[Planned]) -> Iterator[Callable[[Progress], None]]:
    """A bar per view, with the time it still takes."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("parts"), TimeElapsedColumn())
    if not console.is_terminal:
        with console.status("backfilling") as status:
            yield lambda now: status.update(f"backfilling {now.view}: {now.done} of {now.buckets} parts")
        return
    with Bars(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks = {p.view: bars.add_task(p.view, total=p.buckets or 1, completed=p.done, start=False) for p in planned if not p.error}

        def show(progress: Progress) -> None:
            task = tasks.get(progress.view)
            if task is not None:
                bars.start_task(task)
                bars.update(task, completed=progress.done, total=progress.buckets)

        yield show


def result_table(done: Sequence[Backfilled]) -> Table:
    table = Table("view", "rows", "entities", "removed", "newest event", "seconds", "", box=None)
    for r in done:
        if r.error:
            table.add_row(r.view, "", "", "", "", f"{r.seconds:.1f}", f"[red]{escape(r.error)}[/red]")
            continue
        notes = ["went on after a kill"] * r.resumed
        notes += [f"[yellow]{r.rejected:,} rows rejected (`headrace rejected`)[/yellow]"] * bool(r.rejected)
        notes += [f"[red]{escape(r.spared)}[/red]"] * bool(r.spared)
        note = "; ".join(notes)
        table.add_row(r.view, f"{r.rows:,}", f"{r.entities:,}", f"{r.removed:,}", day(r.newest_us), f"{r.seconds:.1f}", note)
    return table
