"""Columns of ours beside a feature view's own, and a view's columns as Arrow, Spark and NumPy hold them: one rule for every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregation.windows import HASHED, Floats, Ints
from streaming.schema.feature_view import View
from streaming.schema.types import TEXT

ROW, BUCKET, AT, MARK, TIES = "__row", "__bucket", "__at", "__mark", "__ties"
EVENT, KNOWN = "__event", "__known"
NOW, HIDDEN = "__now__", "__hidden__"
SQL_TYPES = {
    "double": "double",
    "float": "float",
    "int64": "bigint",
    "int32": "int",
    "bool": "boolean",
    "string": "string",
    "bytes": "binary",
    "timestamp": "timestamp",
}
ARROW_TYPES: dict[str, pa.DataType] = {
    "double": pa.float64(),
    "float": pa.float32(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"),
}
SQL_TYPES |= {f"array<{dtype}>": f"array<{sql}>" for dtype, sql in SQL_TYPES.items()} | dict.fromkeys(TEXT, "string")
ARROW_TYPES |= {f"array<{dtype}>": pa.list_(arrow) for dtype, arrow in ARROW_TYPES.items()} | dict.fromkeys(TEXT, pa.string())


def column_name(alias: str, feature: str) -> str:
    """Output column of a feature (Feast's full feature name)."""
    return f"{alias}__{feature}"


def microseconds(column: pa.ChunkedArray | pa.Array) -> Ints:
    """int64 `[n]` of a column of timestamps or integers without nulls."""
    return np.asarray(
        column.cast(pa.int64()).to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.cast(pa.int64()).to_numpy()
    )


def floats(column: pa.ChunkedArray) -> Floats:
    """float64 `[n]`, NaN for null; the nearest number where a whole one is beyond 2^53."""
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(), dtype=np.float64)


def inputs(view: View, events: pa.Table) -> dict[str, Any]:
    """A windowed view's columns as the window arithmetic takes them: float64 with NaN for null; hashes int64 with -1."""
    found: dict[str, Any] = {}
    for name in view.columns:
        column = events[name]
        found[name] = np.asarray(pc.fill_null(column, -1).to_numpy()) if name.startswith(HASHED) else floats(column)
    return found


def canonical(events: pa.Table) -> pa.Table:
    """Events in canonical order: by event time, known time, then content, so that ties fall the same way in every engine."""
    others = [c for c in events.column_names if c not in (EVENT, KNOWN, BUCKET)]
    keys = [(EVENT, "ascending"), (KNOWN, "ascending"), *((c, "ascending") for c in others)]
    return events.take(pc.sort_indices(sortable(events), keys))


def sortable(table: pa.Table) -> pa.Table:
    """The table with what Arrow cannot sort, lists, as text."""
    for i, one in enumerate(table.schema):
        if pa.types.is_nested(one.type):
            table = table.set_column(
                i, one.name, pa.array([None if v is None else repr(v) for v in table[one.name].to_pylist()], pa.string())
            )
    return table


def to_arrow(values: Floats, dtype: pa.DataType) -> pa.Array:
    """float64 with NaN for null as an Arrow array of the feature's type."""
    return pa.array(values, mask=np.isnan(values)).cast(dtype, safe=False)
