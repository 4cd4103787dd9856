"""Live events: how a row travels through the Redis Stream, and how it is checked when it comes out.

Decoding takes any bytes. Either the row fits its view, so that it can be written and read back, or it is rejected with a sentence that
says why.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from infra.timestamps import moment_at
from streaming.aggregation.sketches import hash_of
from streaming.aggregation.windows import HASHED
from streaming.online.feast_layout import element_of
from streaming.schema.columns import EVENT, KNOWN
from streaming.schema.feature_view import View
from streaming.schema.json_row import moment_us, shown
from streaming.schema.types import INTEGERS, LAST_US, TEXT, holds_integer, holds_text

_DECODER = msgspec.json.Decoder(dict[str, Any])
MAX_BYTES = 256 * 1024
"""Of one event; a larger one is rejected."""
_ARROW: dict[str, pa.DataType] = {
    "double": pa.float64(),
    "float": pa.float64(),
    "int64": pa.int64(),
    "int32": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"),
}
_ARROW |= {f"array<{dtype}>": pa.list_(arrow) for dtype, arrow in _ARROW.items()} | dict.fromkeys(TEXT, pa.string()) | {"hash": pa.int64()}
_INFINITE = {"inf": math.inf, "Infinity": math.inf, "-inf": -math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Rejected:
    """An event that does not fit: its place in the batch and why, as a sentence."""

    row: int
    why: str


def _dated(value: Any, name: str, latest_us: int) -> int:
    """A moment that the clock has reached."""
    us = moment_us(value, name)
    if us > latest_us:
        at, latest = (moment_at(m) for m in (us, latest_us))
        raise ValueError(
            f"{name} is {at.isoformat()}, ahead of the clock: at most {latest.isoformat(timespec='seconds')} is taken (clock_tolerance_s)"
        )
    return us


def typed(value: Any, dtype: str, name: str) -> Any:
    """A value of JSON as one of the dtype; None where it is null to the engines.

    Raises:
        ValueError: it is none; says which.
    """
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {"$number"}:
        value = _INFINITE.get(value["$number"] if isinstance(value["$number"], str) else "", value)
    element = element_of(dtype)
    if element is not None:
        if not isinstance(value, list):
            raise ValueError(f"{name} is {shown(value)}, not a list")
        return [typed(v, element, name) for v in value]
    found = _scalar(value, dtype, name)
    if found is None:
        raise ValueError(f"{name} is {shown(value)}, not {dtype}")
    return None if found is _NULL else found


_NULL = object()


def _scalar(value: Any, dtype: str, name: str) -> Any:
    """A value of a type that is no list; None where it does not fit, `_NULL` where it is null to the engines."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == "string":
        return None if isinstance(value, list | dict) else str(value)
    if dtype == "json" and isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    if dtype in TEXT:
        text = value if isinstance(value, str) else str(value) if number else None
        return text if text is not None and holds_text(text, dtype) else None
    if dtype == "bytes":
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    if dtype == "timestamp":
        return moment_us(value, name)
    if dtype == "hash":
        hashed = hash_of(value) if number or isinstance(value, str) else None
        return _NULL if hashed is not None and hashed < 0 else hashed
    if dtype == "bool":
        return value if isinstance(value, bool) else None
    if dtype in INTEGERS:
        whole = number and (isinstance(value, int) or value.is_integer())
        return int(value) if whole and holds_integer(int(value), dtype) else None
    if isinstance(value, str):
        return _INFINITE.get(value)
    return float(value) if number else None


def wanted_of(view: View) -> list[tuple[str, str, str]]:
    """What a row holds for a view: `(column, name in the row, dtype)`, the join keys first, in the view's order."""
    backwards = {name: source for source, name in view.mapping}
    types = {f.name: f.dtype for f in (*view.features, *view.keys)}
    if view.layout:
        types |= {c: "hash" if c.startswith(HASHED) else "double" for c in view.columns}
    named = [(c, c.removeprefix(HASHED)) for c in dict.fromkeys([*view.key_names, *view.columns])]
    return [(c, backwards.get(source, source), types[c]) for c, source in named]


def decode(
    view: View, rows: Sequence[bytes], sources: Iterable[int], latest_us: Sequence[int] | None = None
) -> tuple[pa.Table, list[int], list[Rejected]]:
    """Rows of a view's push source as the engines take them. Takes any bytes: what is no row of the view is rejected.

    Args:
        rows: JSON objects.
        sources: the place of each row in the batch, for naming rejected ones.
        latest_us: the latest moment at which each may have happened or become known, microseconds (`streaming.clock.latest_us`);
            None: any.

    Returns:
        The table (keys, columns, `__event`, `__known`), the places of its rows, and what was rejected.
    """
    backwards = {name: source for source, name in view.mapping}
    wanted = wanted_of(view)
    timestamp = backwards.get(view.timestamp, view.timestamp)
    created = backwards.get(view.created, view.created) if view.created else None
    columns: dict[str, list[Any]] = {c: [] for c, _, _ in wanted} | {EVENT: [], KNOWN: []}
    kept, rejected = [], []
    for place, raw, latest in zip(sources, rows, [LAST_US] * len(rows) if latest_us is None else latest_us, strict=True):
        try:
            if len(raw) > MAX_BYTES:
                raise ValueError(f"the event has {len(raw):,} bytes; {MAX_BYTES:,} are taken")
            row = _DECODER.decode(raw)
            event = _dated(row.get(timestamp), timestamp, latest)
            known = _dated(row[created], created, latest) if created and row.get(created) is not None else event
            values = [typed(row.get(source), dtype, source) for _, source, dtype in wanted]
        except Exception as error:  # whatever it is, it is this row's fault, and the others go on
            rejected.append(Rejected(place, "the row is nested too deep" if isinstance(error, RecursionError) else str(error)[:500]))
            continue
        for (name, _, _), value in zip(wanted, values, strict=True):
            columns[name].append(value)
        columns[EVENT].append(event)
        columns[KNOWN].append(known)
        kept.append(place)
    schema = [(c, _ARROW[dtype]) for c, _, dtype in wanted] + [(EVENT, pa.int64()), (KNOWN, pa.int64())]
    arrays = [pa.array(columns[c], type=_stored(t)).cast(t) for c, t in schema]
    return pa.table(arrays, names=[c for c, _ in schema]), kept, rejected


def _stored(dtype: pa.DataType) -> pa.DataType:
    """The type that decoded values have: moments are whole microseconds until they are a column."""
    if pa.types.is_list(dtype):
        return pa.list_(_stored(dtype.value_type))
    return pa.int64() if pa.types.is_timestamp(dtype) else dtype
