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
from infra.cli import print_indented
from infra.timestamps import minute_text

if TYPE_CHECKING:
    from streaming.backfill.estimate import Size
    from streaming.backfill.run import Backfilled, Planned, Progress
    from streaming.profiles.latest import Latest


def day(us: int | None) -> str:
    return minute_text(us) if us else "-"


def print_sources(console: Console, found: Latest, only_odd: bool = False) -> None:
    """What each table does, and under what is odd the rows that show it; folded, not cut, where the terminal is narrow.

    Args:
        only_odd: nothing of tables that are as usual, or that only moved.
    """
    shown = [one for one in found.looked.violations if not only_odd or one.says != "moved"]
    for source, why in found.looked.unreadable.items():
        print_indented(console, f"[bold]{escape(source)}[/bold]: [red]unreadable[/red]: {escape(why)}", 0)
    for source, us in found.newest.items():
        if source in found.looked.unreadable:
            continue
        own = [one for one in shown if one.source == source]
        if only_odd and not own:
            continue
        usual = "[green]as usual[/green]" if source in found.looked.profiled else "no past yet to compare with"
        console.print(f"[bold]{escape(source)}[/bold], newest row {day(us)}{'' if own else f': {usual}'}")
        for one in own:
            color = {"proof": "red", "unusual": "yellow"}.get(one.says)
            says = f"[{color}]{one.says}[/{color}]" if color else one.says
            print_indented(console, f"{says} since {day(one.since_us)}: {one.kind}: {escape(one.text)}", 2)
            for row in one.rows:
                print_indented(console, f"[dim]{escape(row)}[/dim]", 4)
    console.print(_looked(found, only_odd))


def _looked(found: Latest, with_young: bool) -> str:
    """How far was looked; and, if asked, of which tables nothing can be said."""
    span = f"{day(found.from_us)} to {day(found.upto_us)}"
    clock = " (where the rehearsal's clock stands)" if found.rehearsed else ""
    young = sorted(found.newest.keys() - found.looked.profiled - found.looked.unreadable.keys())
    past = f"; no past yet to compare with (two weeks of rows): {escape(', '.join(young))}" if young and with_young else ""
    live = "" if found.live else "; Redis does not answer: what came live and is in no table was not looked at"
    return f"looked at {span}{clock}, against what was before: {_counted(found)}{past}{live}"


def _counted(found: Latest) -> str:
    counts = {says: sum(one.says == says for one in found.looked.violations) for says in ("proof", "unusual", "moved")}
    said = ", ".join(f"{n} {says}" for says, n in {**counts, "unreadable": len(found.looked.unreadable)}.items() if n)
    return said or ("nothing is odd" if found.looked.profiled else "nothing to say")


def odd_sources(state: Path, project: str, clock_us: int | None = None) -> list[str]:
    """A line per source of which something odd was found when it was looked at last.

    Args:
        state: the checkout's state folder.
        clock_us: where a rehearsal's clock stands; None: there is no rehearsal.
    """
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
    if found is not None and found.is_ahead(clock_us) and lines:
        upto = minute_text(found.upto_us)
        return [f"the sources were looked at last up to {upto}, where the rehearsal's clock has not got to: `headrace sources` looks by it"]
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
