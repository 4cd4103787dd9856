"""A table's versions: `<table>/_manifests/<number>.json`, each a list of the table's files. A number is made once, by one writer.

Who would make version 8 puts the file of that number if there is none. Of two, one finds it there: it reads again, and decides. That is
all the order there is (as in Delta's log); no lock is held, so none is ever left behind by a process that died. A table's files never
change, so an older version reads as it did. A folder without manifests is a table as well: it consists of what lies in it.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence

import msgspec

from infra.files import parse
from infra.storage.place import Place, StorageError
from infra.storage.store import Storage

MANIFESTS = "_manifests"
_NAME = re.compile(rf"{MANIFESTS}/(\d{{20}})\.json")


class VersionError(ValueError):
    """A version is not there, cannot be read, or was made by somebody else first; the message says which, and what to do."""


class DataFile(msgspec.Struct, frozen=True):
    """
    Attributes:
        path: relative to the table.
        day: of its rows (UTC); None: the table has no days.
        hash: SHA-256 of its bytes; empty where it was there before there were versions.
        first_us, last_us: its earliest and latest timestamp, microseconds; None: not known.
    """

    path: str
    rows: int
    bytes: int
    day: str | None = None
    hash: str = ""
    first_us: int | None = None
    last_us: int | None = None


class TableVersion(msgspec.Struct, frozen=True):
    """
    Attributes:
        number: from 1; 0: the table is being made for the first time, and there is nothing yet.
        made_us: when, by the clock of who made it, microseconds.
        source: what it was made from, in words.
        writer: a number of who made it, never the same twice.
    """

    number: int
    made_us: int
    source: str
    writer: str
    files: tuple[DataFile, ...]

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(f.path for f in self.files)


NOTHING = TableVersion(0, 0, "nothing", "", ())
"""What version 1 comes after."""


def numbers(table: Place) -> list[int]:
    """Of the versions that a table has, ascending; none: it is a folder as others make it.

    Raises:
        StorageError: the storage does not answer.
    """
    named = (_NAME.fullmatch(f.name) for f in Storage(table).list(MANIFESTS))
    return sorted(int(m[1]) for m in named if m)


def newest(table: Place) -> TableVersion | None:
    """The version that is read unless another is asked for.

    Raises:
        VersionError: its manifest cannot be read.
        StorageError: the storage does not answer.
    """
    found = numbers(table)
    return load(table, found[-1]) if found else None


def load(table: Place, number: int) -> TableVersion:
    """
    Raises:
        VersionError: there is no such version any more, or its manifest cannot be read.
        StorageError: the storage does not answer.
    """
    try:
        return parse(Storage(table).read(manifest_name(number)), TableVersion)
    except FileNotFoundError:
        raise VersionError(
            f"the table at {table} has no version {number} (any more): `headrace versions` lists what there is; "
            "`headrace vacuum` removes what is old"
        ) from None
    except StorageError:
        raise
    except ValueError as error:
        raise VersionError(f"the table at {table} cannot be read: its manifest {manifest_name(number)} is broken: {error}") from None


def manifest_name(number: int) -> str:
    return f"{MANIFESTS}/{number:020d}.json"


def commit(table: Place, base: TableVersion | None, files: Sequence[DataFile], source: str) -> TableVersion:
    """Make the version after `base` (None: version 0); where `base` consists of these very files, it stays the newest.

    Raises:
        VersionError: somebody else has made a version after `base` meanwhile, of other files; or a file is not there.
        StorageError: the storage does not answer.
    """
    storage = Storage(table)
    wanted = frozenset(f.path for f in files)
    if base is not None and base.number and base.paths == wanted and numbers(table)[-1] == base.number:
        return base
    lying = {f.name: f.size for f in storage.list()}
    lost = [f.path for f in files if lying.get(f.path) != f.bytes]
    if lost:
        raise VersionError(f"the table at {table}: {lost[0]} is not there as it was written; make the table again")
    number = base.number + 1 if base else 0
    made = TableVersion(number, time.time_ns() // 1000, source, uuid.uuid4().hex, tuple(sorted(files, key=lambda f: f.path)))
    if storage.create(manifest_name(number), msgspec.json.encode(made)):
        return made
    there = load(table, number)  # ours, where an answer was lost and the request repeated
    if there.writer == made.writer:
        return made
    last = newest(table)
    if last is not None and last.paths == wanted:
        return last
    raise VersionError(f"the table at {table}: somebody else has made version {number} meanwhile, from {there.source}; run it again")
