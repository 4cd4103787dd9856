"""What nothing needs any more: old versions of tables, and files that no version names. First a plan, then - if asked - the deed.

Kept is, of every table: the newest version; those that were the newest at any time within the stated days; those that a model's training
set was made of; and every file that a kept version names. A file that is younger than a day is kept whoever names it: somebody may be
about to. Manifests go first and files after them, so a kill in between leaves files without a name, which the next run removes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra.storage.place import Place
from infra.storage.store import Storage, Stored
from streaming.versions import data_version, table_version
from streaming.versions.table_version import MANIFESTS, TableVersion, VersionError, manifest_name

YOUNG_S = 86_400
"""A file that was written since is not touched, seconds."""


@dataclass(frozen=True)
class Unneeded:
    """
    Attributes:
        newest: the table's newest version when this was planned.
        versions: numbers of those that go, ascending.
        files: that go, by name, without manifests.
        total: bytes of all files that lie there, without manifests.
    """

    table: str
    newest: int
    versions: tuple[int, ...]
    files: tuple[Stored, ...]
    total: int

    @property
    def bytes(self) -> int:
        return sum(f.size for f in self.files)

    def is_most(self, share: float) -> bool:
        """Whether it is more than a share of the table's bytes."""
        return self.bytes > share * self.total


def versions_kept(versions: Sequence[TableVersion], needed: frozenset[int], now_us: int, keep_us: int) -> frozenset[int]:
    """Numbers of the versions (ascending) that stay. A version was the newest until the next one was made."""
    kept = {v.number for v, then in itertools.pairwise(versions) if then.made_us >= now_us - keep_us}
    return frozenset(kept | {v.number for v in versions[-1:]} | {v.number for v in versions if v.number in needed})


def files_unneeded(lying: Sequence[Stored], kept: Sequence[TableVersion], now_s: float) -> list[Stored]:
    """Of the files that lie in a table's place, those that no kept version names, and that are not young."""
    named = frozenset[str]().union(*(v.paths for v in kept))
    return [f for f in lying if not f.name.startswith(f"{MANIFESTS}/") and f.name not in named and f.written_s < now_s - YOUNG_S]


def plan(root: Place, needed: Mapping[str, frozenset[int]], now_us: int, keep_us: int) -> list[Unneeded]:
    """What could go, table by table; tables without versions are left alone.

    Args:
        needed: by table, versions that a model's training set was made of.
        now_us: the wall clock, microseconds.
        keep_us: for how long a version that is not the newest any more stays readable.

    Raises:
        VersionError: a manifest cannot be read: what it needs is not known.
        StorageError: the storage does not answer.
    """
    names = sorted({name for one in data_version.listed(root) for name in one.tables})
    found = []
    for name in names:
        table = root / name
        lying = Storage(table).list()  # before the manifests: a file that is newer than they are is no longer seen as nameless
        versions = [table_version.load(table, number) for number in table_version.numbers(table)]
        if not versions:
            continue
        kept = versions_kept(versions, needed.get(name, frozenset()), now_us, keep_us)
        gone = tuple(v.number for v in versions if v.number not in kept)
        files = files_unneeded(lying, [v for v in versions if v.number in kept], now_us / 1e6)
        found.append(
            Unneeded(name, versions[-1].number, gone, tuple(files), sum(f.size for f in lying if not f.name.startswith(MANIFESTS)))
        )
    return found


def remove(root: Place, one: Unneeded) -> None:
    """Remove what was planned of a table, and the data versions that name a version of it which goes.

    Raises:
        VersionError: the table has got another version since.
        StorageError: the storage does not answer.
    """
    table = root / one.table
    storage = Storage(table)
    if table_version.numbers(table)[-1:] != [one.newest]:
        raise VersionError(f"the table at {table} has got a version since this was planned: nothing of it was removed; run it again")
    for record in data_version.listed(root)[:-1]:
        if record.tables.get(one.table) in one.versions:
            Storage(root).delete(data_version.record_name(record.number))
    for number in one.versions:
        storage.delete(manifest_name(number))
    lying = {f.name: f.written_s for f in storage.list()}
    for file in one.files:
        if lying.get(file.name) == file.written_s:  # else an ingest has put it there again meanwhile
            storage.delete(file.name)
