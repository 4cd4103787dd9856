"""What nothing needs any more: old versions of tables, and the files that no version names.

A version is kept while it is the newest, while the one after it is younger than a stated time (until then somebody may still read it),
and while a registered model was made of it. A file is kept while a kept version names it, and for a day after it was written: a writer may
be at work that has not made its version yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from infra.storage.place import Place
from infra.storage.store import Storage
from streaming.versions import data_version, table_version
from streaming.versions.data_version import DataVersion
from streaming.versions.table_version import MANIFESTS, TableVersion

WRITING_S = 86_400
"""A file that no version names and that is younger may be a writer's, seconds."""
Tables = Mapping[str, int]
"""Version by table, as a data version has them."""


@dataclass(frozen=True)
class Garbage:
    """What can go of one table.

    Attributes:
        versions: their numbers.
        files: names, with their bytes.
        total: bytes of all files of the table.
    """

    table: str
    versions: tuple[int, ...]
    files: tuple[tuple[str, int], ...]
    total: int

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.files)


def kept_versions(versions: Iterable[TableVersion], oldest_us: int, needed: Iterable[int]) -> set[int]:
    """Of a table's versions, ascending, the numbers of those that stay.

    Args:
        oldest_us: what was the newest at this moment or later is kept, microseconds.
        needed: numbers that somebody needs.
    """
    there = list(versions)
    after = [*(v.made_us for v in there[1:]), None]
    wanted = set(needed)
    return {v.number for v, us in zip(there, after, strict=True) if us is None or us >= oldest_us or v.number in wanted}


def find(root: Place, oldest_us: int, now_s: float, needed: Iterable[Tables]) -> list[Garbage]:
    """What can go, by table. Tables without versions are nobody's but their owner's: they are not looked at.

    Args:
        root: the offline store.
        oldest_us: see `kept_versions`.
        now_s: the clock, seconds since the epoch.
        needed: versions by table that registered models were made of.

    Raises:
        VersionError: a manifest cannot be read; nothing is to be deleted by a list that lacks one.
        StorageError: the storage does not answer.
    """
    wanted: dict[str, set[int]] = {}
    for tables in needed:
        for name, number in tables.items():
            wanted.setdefault(name, set()).add(number)
    found = []
    for name in _tables(root):
        table = root / name
        versions = [table_version.load(table, number) for number in table_version.numbers(table)]
        kept = kept_versions(versions, oldest_us, wanted.get(name, ()))
        named = {path for v in versions if v.number in kept for path in v.paths}
        lying = [f for f in Storage(table).list() if MANIFESTS not in f.name.split("/")]
        going = tuple((f.name, f.size) for f in lying if f.name not in named and f.written_s < now_s - WRITING_S)
        gone = tuple(v.number for v in versions if v.number not in kept)
        if gone or going:
            found.append(Garbage(name, gone, going, sum(f.size for f in lying)))
    return found


def _tables(root: Place) -> list[str]:
    """Tables with versions, by their paths relative to the offline store."""
    found = {f.name.partition(f"/{MANIFESTS}/")[0] for f in Storage(root).list() if f"/{MANIFESTS}/" in f.name}
    return sorted(found)


def remove(root: Place, garbage: Iterable[Garbage]) -> None:
    """Delete it. First the versions, newest last, so that nobody finds one whose files are gone; then the files.

    A data version that names a version that is gone goes with it: it could not be read.

    Raises:
        StorageError: the storage does not answer. What was deleted until then was nobody's; the next run goes on.
    """
    some = list(garbage)
    gone = {(one.table, number) for one in some for number in one.versions}
    for record in data_version.listed(root):
        if _names(record, gone):
            Storage(root).delete(data_version.record_name(record.number))
    for one in some:
        storage = Storage(root / one.table)
        for number in sorted(one.versions):
            storage.delete(table_version.manifest_name(number))
        for name, _ in one.files:
            storage.delete(name)


def _names(record: DataVersion, gone: set[tuple[str, int]]) -> bool:
    return any(item in gone for item in record.tables.items())
