"""A data version: which version each table had at one moment, under one number (`<offline store>/_versions/<number>.json`).

An ingest says the number it has made. Training notes the one it has read. A number or a moment names it afterwards.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import msgspec

from infra.files import parse
from infra.storage.place import Place, StorageError
from infra.storage.store import Storage
from infra.timestamps import second_text
from streaming.versions import table_version
from streaming.versions.table_version import VersionError

VERSIONS = "_versions"
_NAME = re.compile(rf"{VERSIONS}/(\d{{20}})\.json")


class DataVersion(msgspec.Struct, frozen=True):
    """
    Attributes:
        made_us: when, microseconds.
        tables: version by table, the table's path relative to the offline store.
    """

    number: int
    made_us: int
    tables: dict[str, int]


def listed(root: Place) -> list[DataVersion]:
    """Those that there are, ascending.

    Raises:
        VersionError: one cannot be read.
        StorageError: the storage does not answer.
    """
    storage = Storage(root)
    return [_load(storage, int(m[1])) for f in storage.list(VERSIONS) if (m := _NAME.fullmatch(f.name))]


def newest(root: Place) -> DataVersion | None:
    storage = Storage(root)
    found = [int(m[1]) for f in storage.list(VERSIONS) if (m := _NAME.fullmatch(f.name))]
    return _load(storage, max(found)) if found else None


def record_name(number: int) -> str:
    return f"{VERSIONS}/{number:020d}.json"


def _load(storage: Storage, number: int) -> DataVersion:
    try:
        return parse(storage.read(record_name(number)), DataVersion)
    except (StorageError, FileNotFoundError):
        raise
    except ValueError as error:
        raise VersionError(f"{storage.root}/{record_name(number)} cannot be read: {error}") from None


def recorded(root: Place, also: Iterable[str] = ()) -> DataVersion | None:
    """The data version of the tables as they are now; a new one where they are not as the last one says. None: no table has versions.

    Args:
        also: tables that the last one may not know of yet.

    Raises:
        VersionError: the last one cannot be read.
        StorageError: the storage does not answer.
    """
    while True:
        last = newest(root)
        names = dict.fromkeys([*(last.tables if last else ()), *also])
        tables = {name: found[-1] for name in sorted(names) if (found := table_version.numbers(root / name)) and found[-1]}
        if last is not None and last.tables == tables:
            return last
        if last is None and not tables:
            return None
        made = DataVersion(last.number + 1 if last else 1, time.time_ns() // 1000, tables)
        if Storage(root).create(record_name(made.number), msgspec.json.encode(made)):
            return made


def find(root: Place, said: str | int) -> DataVersion:
    """
    Args:
        said: a number, or a moment in microseconds with `@` before it: the newest that was there by then.

    Raises:
        VersionError: there is none such.
    """
    there = listed(root)
    text = str(said)
    if text.startswith("@"):
        chosen = [v for v in there if v.made_us <= int(text[1:])]
        what = f"made by {second_text(int(text[1:]))}"
    else:
        chosen, what = [v for v in there if str(v.number) == text], text
    if not chosen:
        has = f"there are {there[0].number} to {there[-1].number}" if there else "there is none yet: run `headrace ingest`"
        raise VersionError(f"no data version {what} in {root}: {has} (`headrace versions`)")
    return chosen[-1]
