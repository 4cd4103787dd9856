"""The commands of versions of data: `versions`, `vacuum`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from infra.cli import console, errors, own_settings
from infra.timestamps import second_text

if TYPE_CHECKING:
    from infra.settings import Settings
    from streaming.versions.vacuum import Tables


def versions() -> None:
    """List the versions of the offline tables: what an ingest made when, and which version of each table belongs to it.

    `train`, `reproduce` and `skew` take a number of these (`--data-version 3`), or a moment.
    """
    from streaming.versions.data_version import listed

    own = own_settings()
    there = listed(own.offline_root)
    if not there:
        console.print("no version yet: `headrace ingest` makes the first one")
        return
    table = Table("version", "made (UTC)", "tables", box=None, pad_edge=False)
    before: dict[str, int] = {}
    for one in there:
        changed = [f"{name} {number}" for name, number in one.tables.items() if before.get(name) != number]
        table.add_row(str(one.number), second_text(one.made_us), ", ".join(changed))
        before = one.tables
    console.print(table)


def vacuum(
    days: Annotated[
        float | None, typer.Option(min=0, help="Keep what was current within so many days. Default: HEADRACE_VERSION_DAYS.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
    allow_most: Annotated[bool, typer.Option("--allow-most", help="Also where it is more than HEADRACE_DELETE_SHARE of a table.")] = False,
) -> None:
    """Remove old versions of tables and files that no version names. First it only says what it would remove.

    Kept are the newest version of each table, those that were current within the last days, and those that a registered model was made of.
    """
    from streaming.versions.vacuum import find, remove

    own = own_settings()
    keep_s = 86_400 * (own.version_days if days is None else days)
    garbage = find(own.offline_root, round((time.time() - keep_s) * 1e6), time.time(), _needed(own))
    table = Table("table", "versions", "files", "MB", "of MB", box=None, pad_edge=False)
    for one in garbage:
        listed = ", ".join(map(str, one.versions))
        table.add_row(one.table, listed, f"{len(one.files):,}", f"{one.bytes / 1e6:,.1f}", f"{one.total / 1e6:,.1f}")
    if not garbage:
        console.print("nothing to remove: every file belongs to a version that is kept")
        return
    console.print(table)
    most = [one.table for one in garbage if one.bytes > own.delete_share * one.total]
    if most and not allow_most:
        errors.print(
            f"{', '.join(most)}: this is more than {own.delete_share:.0%} of the table (HEADRACE_DELETE_SHARE), so nothing is removed. Is "
            "this machine's clock right? `--allow-most` removes it all the same"
        )
        raise typer.Exit(1)
    if not yes:
        console.print("nothing was removed: `headrace vacuum --yes` does it")
        return
    remove(own.offline_root, garbage)
    console.print(f"removed {sum(len(one.files) for one in garbage):,} files, {sum(one.bytes for one in garbage) / 1e6:,.1f} MB")


def _needed(own: Settings) -> Iterator[Tables]:
    """What registered models were made of.

    Raises:
        ContractError: a contract cannot be read; what its model was made of is then not known.
    """
    from feature_repo.records import contract

    for path in sorted(own.model_root.glob(f"*/*/{contract.CONTRACT}")):
        made = contract.load(path.parent)
        yield {str(name): int(number) for name, number in made.training_set.get("tables", {}).items()}
