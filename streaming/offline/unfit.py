"""Rows of offline tables that their view cannot hold: which they are, and why. Example: the text `ten` where a `Decimal` is
declared, or a moment after the year 9999.

A backfill keeps them with the reason. A join leaves them out and says so. Both take the rule from here and from
`streaming.schema.cast`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.schema.cast import no_moment
from streaming.schema.types import FIRST_US, LAST_US, TEXT, holds_text

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streaming.schema.feature_view import View

WHY = "__why"
"""Column with the reason, in a sentence; null where there is none."""
_SHOWN = 3
log = logging.getLogger(__name__)


def texts(view: View, columns: Sequence[str]) -> dict[str, str]:
    """Which columns travel as text, with their types: a value in them may be none of its type."""
    return {f.name: f.dtype for f in (*view.keys, *view.features) if f.dtype in TEXT and f.name in columns}


def moments(view: View, columns: Sequence[str]) -> list[str]:
    """Which columns are moments, or lists of them: one may lie where no calendar reaches."""
    return [f.name for f in (*view.keys, *view.features) if f.dtype in ("timestamp", "array<timestamp>") and f.name in columns]


def reasons(view: View, table: pa.Table) -> pa.Array:
    """Why each row cannot be held, null where it can: what `WHY` says already (if it is there), texts that are none of their type, and moments
    that are none."""
    said = table[WHY].combine_chunks() if WHY in table.column_names else pa.nulls(table.num_rows, pa.string())
    for name, dtype in texts(view, table.column_names).items():
        column = table[name].combine_chunks()
        bad = [t for t in column.unique().to_pylist() if t is not None and not holds_text(t, dtype)]
        if bad:
            why = pa.array([f"column {name!r} has {text[:100]!r}, which {dtype} cannot hold" for text in bad])
            said = pc.coalesce(said, why.take(pc.index_in(column, pa.array(bad, column.type))))
    for name in moments(view, table.column_names):
        places = _beyond(table[name].combine_chunks())
        if len(places):
            mask = np.zeros(table.num_rows, dtype=bool)
            mask[places] = True
            said = pc.if_else(pc.and_(said.is_null(), pa.array(mask)), no_moment(name), said)
    return said


def _beyond(column: pa.Array) -> Any:
    """Rows with a moment before the year 1 or after the year 9999."""
    rows = None
    if pa.types.is_list(column.type):
        rows, column = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
    if not pa.types.is_timestamp(column.type):
        return []
    us = pc.fill_null(column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()), 0).to_numpy()
    places = np.flatnonzero((us < FIRST_US) | (us > LAST_US))
    return places if rows is None else rows[places]


def row_text(table: pa.Table, i: int) -> str:
    """A row as text: JSON where it can be said in it."""
    from streaming.schema.json_row import encode  # which is made of the join's columns

    one = table.slice(i, 1)
    try:
        text = encode(one.to_pylist()[0]).decode()
    except Exception:  # a moment that no calendar has, text that is none, ...
        text = " ".join(str(one).split())
    return text[:2000]


def leave_out(view: View, path: str, events: pa.Table) -> pa.Table:
    """The rows that the view can hold; how many are left out is said, and why the first of them are.

    Args:
        path: of the table that they are of.
    """
    names = events.column_names
    if not texts(view, names) and not moments(view, names) and WHY not in names:
        return events
    said = reasons(view, events)
    rest = events.drop_columns([WHY]) if WHY in events.column_names else events
    if said.null_count == len(said):
        return rest
    bad = pc.is_valid(said)
    _tell(view, path, pc.sum(bad).as_py(), rest.filter(bad), said.filter(bad))
    return rest.filter(pc.invert(bad))


def leave_out_on_spark(view: View, path: str, events: DataFrame) -> DataFrame:
    """As `leave_out`; only what may hold such a row is read for it."""
    from pyspark.sql import functions as F

    names = list(texts(view, events.columns))
    if names:
        count = events.select(WHY, *names).mapInArrow(_completing(view), events.select(WHY, *names).schema)
        whole = events.mapInArrow(_completing(view), events.schema)
    else:
        count = whole = events
    # where no cast can fail, Spark knows that there is none, and reads nothing
    found = count.where(F.col(WHY).isNotNull()).count()
    if found:
        some = whole.where(F.col(WHY).isNotNull()).limit(_SHOWN).toArrow()
        _tell(view, path, found, some.drop_columns([WHY]), some[WHY].combine_chunks())
        events = whole.where(F.col(WHY).isNull())
    return events.drop(WHY)


def _completing(view: View) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def complete(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            place = table.column_names.index(WHY)
            yield from table.set_column(place, WHY, reasons(view, table)).combine_chunks().to_batches()

    return complete


def _tell(view: View, path: str, count: int, rows: pa.Table, said: pa.Array) -> None:
    shown = "; ".join(f"{row_text(rows, i)[:300]}: {said[i].as_py()}" for i in range(min(len(said), _SHOWN)))
    log.warning(
        "feature view %r: %s of %s cannot be held by it and %s left out (a backfill sets them aside as well): %s%s",
        view.name,
        "1 row" if count == 1 else f"{count:,} rows",
        path,
        "is" if count == 1 else "are",
        shown,
        " ..." if count > _SHOWN else "",
    )
