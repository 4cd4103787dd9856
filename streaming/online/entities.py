"""Events of one view grouped by entity, and columns of feature values as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregation.windows import NEVER, Ints
from streaming.join.point_in_time import encode_keys
from streaming.online import feast_layout
from streaming.online.resp import bulk
from streaming.schema.columns import EVENT, KNOWN, microseconds
from streaming.schema.feature_view import View

MS, SEQ = "__ms", "__seq"
"""Columns with the stream id of an event; absent or (0, 0) where it came from the offline store."""


@dataclass(frozen=True)
class Grouped:
    """
    Attributes:
        keys: the entities' Redis keys.
        owner: int64 `[n]` index into `keys`.
        event_us, known_us: int64 `[n]`.
        table: the events, rows as in `owner`.
    """

    keys: list[bytes]
    owner: Ints
    event_us: Ints
    known_us: Ints
    table: pa.Table

    def take(self, rows: Any) -> Grouped:
        """Some of the events (a boolean mask `[n]`), the same entities."""
        return Grouped(self.keys, self.owner[rows], self.event_us[rows], self.known_us[rows], self.table.filter(pa.array(rows)))

    def marks(self) -> tuple[Ints, Ints, Ints]:
        """Per entity: newest known-time, how many events of it, newest event time; `NEVER`, 0, `NEVER` where it has no event."""
        n = len(self.keys)
        mark = np.full(n, NEVER)
        np.maximum.at(mark, self.owner, self.known_us)
        ties = np.bincount(self.owner[self.known_us == mark[self.owner]], minlength=n)
        newest = np.full(n, NEVER)
        np.maximum.at(newest, self.owner, self.event_us)
        return mark, ties, newest

    def newest_rows(self) -> Ints:
        """Row of each entity's latest event: by event time, known time, row. -1 where it has none."""
        row = np.arange(len(self.owner))
        order = np.lexsort((row, self.known_us, self.event_us, self.owner))
        who = np.arange(len(self.keys))
        ends = np.searchsorted(self.owner[order], who, "right") - 1
        found = np.where(ends >= 0, order[ends], -1) if len(order) else np.full(len(who), -1)
        return np.where((found >= 0) & (self.owner[found] == who), found, -1) if len(order) else found


def key_function(view: View) -> Callable[[Sequence[Any]], bytes]:
    return feast_layout.key_encoder(view.project, [(k.name, k.dtype) for k in view.keys])


def group(view: View, events: pa.Table) -> Grouped:
    """Group events by entity; those with a null key are left out."""
    objects = [_values(events[n]) for n in view.key_names]
    (code,) = encode_keys(objects)
    if (code < 0).any():
        keep = code >= 0
        events, objects, code = events.filter(pa.array(keep)), [o[keep] for o in objects], code[keep]
    _, first, owner = np.unique(code, return_index=True, return_inverse=True)
    encode = key_function(view)
    keys = [encode(values) for values in zip(*(o[first].tolist() for o in objects), strict=True)] if len(first) else []
    return Grouped(keys, owner.astype(np.int64), microseconds(events[EVENT]), microseconds(events[KNOWN]), events)


def _values(column: pa.ChunkedArray) -> Any:
    if pa.types.is_integer(column.type) and not column.null_count:
        return column.to_numpy()
    return np.array(column.to_pylist(), dtype=object)


def view_fields(view: View) -> list[bytes]:
    """Every hash field a view has on an entity, its tile field first."""
    return [
        feast_layout.tile_field(view.name),
        feast_layout.timestamp_field(view.name),
        *(feast_layout.field(view.name, f.name) for f in view.features),
    ]


_FIXED = {"double": (b"\x29", "<f8"), "float": (b"\x35", "<f4")}


def encoded(column: pa.ChunkedArray | pa.Array, dtype: str) -> list[bytes]:
    """Each value as a ValueProto, as a RESP bulk; null (and NaN) is the empty message."""
    if dtype not in _FIXED:
        return [bulk(feast_layout.encode_value(value, dtype)) for value in column.to_pylist()]
    tag, kind = _FIXED[dtype]
    with np.errstate(over="ignore"):  # beyond a float's range it is infinite
        values = np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False), dtype=kind)
    width = 1 + values.itemsize
    head = b"$%d\r\n" % width + tag
    frame = np.zeros(len(values), dtype=[("head", f"V{len(head)}"), ("value", kind), ("end", "V2")])
    frame["head"], frame["value"], frame["end"] = np.void(head), values, np.void(b"\r\n")
    raw, step = frame.tobytes(), frame.itemsize
    found = [raw[i : i + step] for i in range(0, len(raw), step)]
    for i in np.flatnonzero(np.isnan(values)).tolist():
        found[i] = b"$0\r\n\r\n"
    return found
