"""How much of its offline table a view reads, from the Parquet footers alone: days, rows, and how far the table reaches."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from infra.storage.place import Place
from infra.timestamps import microseconds
from streaming.aggregation.windows import DAY
from streaming.offline.parquet import TableError, dataset, schema, table_path
from streaming.schema.feature_view import View

_EPOCH_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class Extent:
    """
    Attributes:
        days: day partitions read (1 for a table that has none).
        rows: in them.
        known_us: newest known time in the whole table, microseconds; None where the files' statistics do not say.
    """

    days: int
    rows: int
    known_us: int | None


def day_of(us: int) -> date:
    """The day (UTC) of a moment, microseconds since the epoch; of one that no calendar has, the first or the last day there is."""
    return date.fromordinal(min(max(_EPOCH_DAY + us // DAY, 1), date.max.toordinal()))


def extent(view: View, root: Place, from_us: int | None, upto_us: int | None) -> Extent:
    """What lies between two event times (by day, inclusive; None: no bound) of a view's table.

    Raises:
        TableError: there is no such table, or it cannot be read.
    """
    import pyarrow.dataset as ds

    path = table_path(view, root)
    schema(path)
    try:
        return _extent(ds, view, path, from_us, upto_us)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a footer may say anything
        raise TableError(f"the table at {path} cannot be read: {' '.join(str(error).split())}") from error


def _extent(ds: Any, view: View, path: str, from_us: int | None, upto_us: int | None) -> Extent:
    files = dataset(path, exclude_invalid_files=False)
    backwards = {name: source for source, name in view.mapping}
    column = view.created or view.timestamp
    column = backwards.get(column, column)
    first, last = (None if us is None else day_of(us) for us in (from_us, upto_us))
    days, rows, newest = set(), 0, None
    for fragment in files.get_fragments():
        day = _day(ds.get_partition_keys(fragment.partition_expression).get("day"))
        metadata = fragment.metadata
        for known in _maxima(metadata, column):
            newest = known if newest is None else max(newest, known)
        if day is not None and ((first and day < first) or (last and day > last)):
            continue
        days.add(day)
        rows += metadata.num_rows
    return Extent(len(days), rows, newest)


def _day(value: Any) -> date | None:
    if value is None or isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        return None


def _maxima(metadata: Any, column: str) -> list[int]:
    found = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            chunk = group.column(j)
            if chunk.path_in_schema == column and chunk.statistics is not None and chunk.statistics.has_min_max:
                newest = chunk.statistics.max
                if isinstance(newest, datetime):
                    found.append(microseconds(newest))
    return found
