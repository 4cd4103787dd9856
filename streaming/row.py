"""The packed row of a latest-value view: behind the header in its tile field, the numbers a reader wants, in one piece.

    header | uint32 checksum of the names | float64 of each numeric feature, in the view's order (NaN: null) | Feast's timestamp field

A reader takes two fields instead of one per feature. Stock Feast knows nothing of it: when it writes the view, the timestamp field
moves on and the packed one does not match any more; then, and where the view was written with other features, a reader must take the
features' own fields.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.tile import HEADER_SIZE
from streaming.view import View


def numeric(view: View) -> list[str]:
    """The features that are packed, in order."""
    return [f.name for f in view.features if f.numeric]


def pack(view: View, picked: pa.Table, times: list[bytes]) -> list[bytes]:
    """What follows the header of each row.

    Args:
        picked: one row per entity.
        times: its timestamp field (`layout.encode_timestamp`).
    """
    names = numeric(view)
    table = np.empty(len(times), dtype=[("names", "<u4"), ("values", "<f8", (len(names),))])
    table["names"] = _checksum(names)
    for i, f in enumerate(f for f in view.features if f.numeric):
        values = picked[f.name].cast(pa.float32() if f.dtype == "float" else pa.float64(), safe=False)
        table["values"][:, i] = pc.fill_null(values, np.nan).to_numpy()
    raw, width = table.tobytes(), table.itemsize
    return [raw[i * width : (i + 1) * width] + time for i, time in enumerate(times)]


def unpacker(view: View) -> Callable[[bytes, bytes | None], tuple[Any, ...] | None]:
    """A function of the tile field and the timestamp field: the packed numbers, or None where they are not those of that timestamp."""
    names = numeric(view)
    begin = HEADER_SIZE + 4
    shape, mine = struct.Struct(f"<{len(names)}d"), struct.pack("<I", _checksum(names))
    unpack_from, end = shape.unpack_from, begin + shape.size

    def unpack(blob: bytes, time: bytes | None) -> tuple[Any, ...] | None:
        return unpack_from(blob, begin) if blob[end:] == time and blob[HEADER_SIZE:begin] == mine else None

    return unpack


def _checksum(names: list[str]) -> int:
    return zlib.crc32(repr(names).encode())
