"""The packed row of a latest-value view: behind the header in its tile field, the numbers that a reader wants, in one piece.

    header | uint32 checksum of the names | float64 of each numeric feature, by name (NaN: null) | Feast's timestamp field

So a reader takes two fields instead of one per feature. In three cases it must take the features' own fields instead:

- Stock Feast has written the view since. It knows nothing of the packed row, so its timestamp field differs from the packed one.
- The view was written with other features: the checksum of the names differs.
- A row has an integer that no float64 carries. Such a row is not packed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregation.tiles import HEADER_SIZE
from streaming.schema.feature_view import View

EXACT = 2.0**53
"""Integers up to here are exact as float64."""
_NOT_PACKED = 0


def numeric(view: View) -> list[str]:
    """The features that are packed, in order."""
    return sorted(f.name for f in view.features if f.numeric)


def pack(view: View, picked: pa.Table, times: list[bytes]) -> list[bytes]:
    """What follows the header of each row.

    Args:
        picked: one row per entity.
        times: its timestamp field (`layout.encode_timestamp`).
    """
    names, dtypes = numeric(view), {f.name: f.dtype for f in view.features}
    table = np.empty(len(times), dtype=[("names", "<u4"), ("values", "<f8", (len(names),))])
    table["names"] = checksum(names)
    for i, name in enumerate(names):
        values = picked[name].cast(pa.float32() if dtypes[name] == "float" else pa.float64(), safe=False)
        table["values"][:, i] = pc.fill_null(values, np.nan).to_numpy()
        if dtypes[name] == "int64":
            table["names"][np.abs(table["values"][:, i]) >= EXACT] = _NOT_PACKED
    raw, width = table.tobytes(), table.itemsize
    return [raw[i * width : (i + 1) * width] + time for i, time in enumerate(times)]


def unpacker(view: View) -> Callable[[bytes, bytes | None], tuple[Any, ...] | None]:
    """A function of the tile field and the timestamp field: the packed numbers, or None where they are not those of that timestamp."""
    names = numeric(view)
    begin = HEADER_SIZE + 4
    shape, mine = struct.Struct(f"<{len(names)}d"), struct.pack("<I", checksum(names))
    unpack_from, end = shape.unpack_from, begin + shape.size
    former, places, integers = _former(view, names)

    def unpack(blob: bytes, time: bytes | None) -> tuple[Any, ...] | None:
        if blob[end:] != time:
            return None
        if blob[HEADER_SIZE:begin] == mine:
            return unpack_from(blob, begin)
        if blob[HEADER_SIZE:begin] != former:
            return None
        found = unpack_from(blob, begin)
        numbers = tuple(found[i] for i in places)
        return None if any(abs(numbers[i]) >= EXACT for i in integers) else numbers

    return unpack


def _former(view: View, names: list[str]) -> tuple[bytes, list[int], list[int]]:
    """How rows lie that were packed by the registry's order (`feature_repo.registry.stored_order`): their checksum, where each feature lies in
    them, and which features are integers.
    """
    order = [name for _, name in view.stored_order if name in names]
    if sorted(order) != names:
        return b"", [], []
    integers = {f.name for f in view.features if f.dtype == "int64"}
    known_by = struct.pack("<I", zlib.crc32(repr(order).encode()))
    return known_by, [order.index(name) for name in names], [i for i, name in enumerate(names) if name in integers]


def checksum(names: list[str]) -> int:
    return zlib.crc32(repr(tuple(names)).encode()) or 1
