"""What the learning loop found, as tables for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from feature_repo.metrics.table import METRICS
from feature_repo.records.live_quality import Day, Measured, Quality
from infra.timestamps import minute_text
from training.gates.record import Gates
from training.retraining.version_comparison import HeadToHead


def quality_table(found: Quality) -> Table:
    """A row per version and role, then per slice of what was answered."""
    table = Table("version", "", "predictions", "with truth", *METRICS, box=None)
    for one in found.versions:
        table.add_row(str(one.version), one.role, *_cells(one))
    for column, values in found.slices.items():
        for value, one in values.items():
            table.add_row("", f"{column} {value}", *_cells(one))
    return table


def periods_table(name: str, periods: list[Day]) -> Table:
    """A row per day or month."""
    table = Table(name, "predictions", "with truth", *METRICS, box=None)
    for one in periods:
        table.add_row(one.day, *_cells(one.measured))
    return table


def _cells(one: Measured) -> list[str]:
    shown = [one.metrics.get(name) for name in METRICS]
    return [
        f"{one.predictions:,}",
        f"{one.labelled:,}",
        *("-" if e is None else f"{e.value:.4f} [dim]{e.low:.3f}..{e.high:.3f}[/dim]" for e in shown),
    ]


def gates_table(gates: Gates) -> Table:
    """A row per gate."""
    table = Table("gate", "", "measured", box=None)
    for check in gates.checks:
        mark = "[green]passed[/green]" if check.passed else "[yellow]forced[/yellow]" if gates.forced else "[red]failed[/red]"
        table.add_row(check.name, mark, escape(check.text))
    return table


def moment_text(us: int) -> str:
    return f"{minute_text(us)} UTC"


def comparison_table(found: HeadToHead) -> Table:
    """A row per metric."""
    table = Table("metric", f"version {found.version}", f"version {found.against}", "better by", "95 %", "p(worse)", box=None)
    for one in found.metrics:
        row = (
            f"{one.challenger:.4f}",
            f"{one.champion:.4f}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            f"{one.p_worse:.3f}",
        )
        table.add_row(one.metric, *row)
    return table
