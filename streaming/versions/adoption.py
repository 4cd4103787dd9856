"""The first version of a table. What lay in its folder before there were versions becomes version 1, so that it stays readable.

Where there was nothing, version 0 says so before the first file is written: what an ingest that is killed leaves is then no table.
"""

from __future__ import annotations

import logging
import re

import pyarrow as pa

from infra.storage.place import Place
from infra.storage.store import Storage
from streaming.versions import table_version
from streaming.versions.table_version import MANIFESTS, DataFile, TableVersion

SOURCE = "what lay there before there were versions"
_DAY = re.compile(r"day=(\d{4}-\d{2}-\d{2})/")
log = logging.getLogger(__name__)


def adopt(table: Place) -> TableVersion:
    """The table's newest version; where it has none, one of all the Parquet files that lie there, or of none.

    Raises:
        VersionError: somebody else has made version 1 meanwhile.
        StorageError: the storage does not answer.
    """
    there = table_version.newest(table)
    if there is not None:
        return there
    storage, files = Storage(table), []
    for one in storage.list():
        parts = one.name.split("/")
        if not one.name.endswith(".parquet") or any(p.startswith((".", "_")) for p in parts) or MANIFESTS in parts:
            continue
        try:
            files.append(_file(storage, one.name, one.size))
        except (pa.ArrowException, OSError) as error:
            log.warning("%s/%s cannot be read, and so what lies there is in no version: %s", table, one.name, " ".join(str(error).split()))
            files = []
            break
    return table_version.commit(table, table_version.NOTHING if files else None, files, SOURCE if files else "nothing")


def _file(storage: Storage, name: str, size: int) -> DataFile:
    import pyarrow.parquet as pq

    with storage.open(name) as file:
        rows = pq.ParquetFile(file).metadata.num_rows
    day = _DAY.match(name)
    return DataFile(name, rows, size, day[1] if day else None)
