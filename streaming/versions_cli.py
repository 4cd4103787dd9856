"""The commands of versions of data: versions, vacuum; and what ingest says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from infra.cli import Report, console, errors, own_settings, write_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.settings import Settings
    from streaming.offline.ingest import Loaded


def print_ingested(own: Settings, loaded: Sequence[Loaded]) -> None:
    """The tables as an ingest has left them, and the number under which they can be read for a while."""
    from streaming.versions import data_version

    table = Table("table", "rows", "days", "first", "last", "seconds", "version", box=None)
    for one in loaded:
        first, last = ("-" if at is None else f"{at:%Y-%m-%d}" for at in (one.first, one.last))
        table.add_row(one.table, f"{one.rows:,}", str(one.days), first, last, f"{one.seconds:.1f}", str(one.version))
    console.print(table)
    made = data_version.recorded(own.offline_root)
    if made is not None:
        console.print(f"the tables are data version [bold]{made.number}[/bold]")


def versions(report: Report = None) -> None:
    """List the data versions that can still be read (`train`, `skew`, `reproduce --data-version`): an ingest makes one."""
    from infra.timestamps import second_text
    from streaming.versions import data_version

    own = own_settings()
    there = data_version.listed(own.offline_root)
    table = Table("data version", "made (UTC)", "table versions", box=None)
    for one in there:
        table.add_row(str(one.number), second_text(one.made_us), ", ".join(f"{name} {number}" for name, number in one.tables.items()))
    console.print(table if there else "no table has a version yet: `headrace ingest` makes the first")
    write_report(report, there)


class _Made(msgspec.Struct):
    """What is read of a contract here."""

    training_set: dict[str, Any]


def needed_by_models(own: Settings) -> dict[str, frozenset[int]]:
    """By table, the versions that registered models' training sets were made of.

    Raises:
        FileError: a contract cannot be read, so what its model needs is not known.
    """
    from collections import defaultdict

    from infra import files

    found: dict[str, set[int]] = defaultdict(set)
    for path in sorted(own.model_root.glob("*/*/contract.json")):
        for name, number in files.read_json(path, _Made).training_set.get("tables", {}).items():
            found[str(name)].add(int(number))
    return {name: frozenset(numbers) for name, numbers in found.items()}


def vacuum(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")] = False,
    allow_most: Annotated[bool, typer.Option("--allow-most", help="Remove it even where it is most of a table's bytes.")] = False,
    report: Report = None,
) -> None:
    """Remove what no version needs: older versions of tables than HEADRACE_KEEP_VERSIONS_DAYS, and files without a version.

    Kept are versions that a registered model was trained on, and files younger than a day.
    """
    from streaming import clock
    from streaming.versions import vacuum as sweeping

    own = own_settings()
    planned = sweeping.plan(own.offline_root, needed_by_models(own), clock.wall_us(), round(own.keep_versions_days * 86_400e6))
    table = Table("table", "versions", "files", "MB", "of MB", box=None)
    for one in planned:
        gone = ", ".join(map(str, one.versions)) or "-"
        table.add_row(one.table, gone, f"{len(one.files):,}", f"{one.bytes / 1e6:,.1f}", f"{one.total / 1e6:,.1f}")
    console.print(table if planned else "no table has a version: there is nothing to remove")
    write_report(report, planned)
    refused = [] if allow_most else [one for one in planned if one.is_most(own.delete_share)]
    for one in refused:
        errors.print(f"[red]{one.table}[/red]: it is more than a share of {own.delete_share:g}: it is not removed (--allow-most does it)")
    if yes:
        for one in planned:
            if one not in refused and (one.versions or one.files):
                sweeping.remove(own.offline_root, one)
                console.print(f"{one.table}: removed")
    elif any(one.versions or one.files for one in planned):
        console.print("nothing was removed: this is what --yes would do")
    if yes and refused:
        raise typer.Exit(1)
