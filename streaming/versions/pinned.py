"""Which version of a table is read: the newest, or inside `reading(…)` the one that a data version names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from infra.storage.place import SCHEMES, Place, is_url, place_of
from streaming.versions import table_version
from streaming.versions.data_version import DataVersion
from streaming.versions.table_version import TableVersion

_PINNED: ContextVar[Mapping[str, int] | None] = ContextVar("tables that are read in an older version", default=None)


@contextmanager
def reading(root: Place, version: DataVersion | None) -> Iterator[None]:
    """Inside, the tables of an offline store are read as they were; whatever is made meanwhile is not seen. None: as they are.

    It holds for this thread (and for plans of Spark's that are made in it). A table that had no version then is read as it is.
    """
    token = _PINNED.set(None if version is None else {_key(root / name): number for name, number in version.tables.items()})
    try:
        yield
    finally:
        _PINNED.reset(token)


def is_pinned() -> bool:
    """Whether this is inside of `reading` of a version."""
    return _PINNED.get() is not None


def version_read(path: str) -> TableVersion | None:
    """The version of a table that is to be read here; None: it has none, and its folder is read as it is.

    Raises:
        VersionError: it is not there any more, or cannot be read.
        StorageError: the storage does not answer.
    """
    if is_url(path) and path.partition(":")[0] not in ("file", *SCHEMES):
        return None  # only Spark knows it
    table = place_of(path)
    if isinstance(table, Path) and not table.is_dir():
        return None
    number = (_PINNED.get() or {}).get(_key(table))
    return table_version.newest(table) if number is None else table_version.load(table, number)


def _key(table: Place) -> str:
    return os.path.realpath(table) if isinstance(table, Path) else str(table)
