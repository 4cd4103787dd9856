"""Live events: how a row travels through the Redis Stream, and how it is checked when it comes out."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pyarrow as pa

from streaming.join import EVENT, KNOWN, TEXT
from streaming.layout import element_of
from streaming.sketch import hash_of
from streaming.view import View
from streaming.window import HASHED

_DECODER = msgspec.json.Decoder(dict[str, Any])
_INTEGERS = frozenset({"int64", "int32"})
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


def encode(row: Mapping[str, Any]) -> bytes:
    """A row as it is put on the stream: JSON; times in ISO 8601 UTC, bytes in base64, infinities as text."""
    return msgspec.json.encode({k: _plain(v) for k, v in row.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return {"$number": "Infinity" if value > 0 else "-Infinity"}  # JSON has none, and text may be text
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return None if value != value else value


def moment_us(value: Any, name: str) -> int:
    """Microseconds since the epoch of an ISO 8601 string (UTC where it has no zone) or of a number of seconds.

    Raises:
        ValueError: neither; names the field.
    """
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{name} is {value!r}, not a moment")
    if isinstance(value, int | float):
        return round(value * 1_000_000)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{name} is {value!r}, not an ISO 8601 moment") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = moment - datetime.fromtimestamp(0, UTC)
    return (seconds.days * 86_400 + seconds.seconds) * 1_000_000 + seconds.microseconds


def _typed(value: Any, dtype: str, name: str) -> Any:
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {"$number"}:
        value = _INFINITE.get(str(value["$number"]), value)
    element = element_of(dtype)
    if element is not None:
        if not isinstance(value, list):
            raise ValueError(f"{name} is {value!r}, not a list")
        return [_typed(v, element, name) for v in value]
    if dtype == "string" or dtype in TEXT:
        return value if isinstance(value, str) else str(value)
    if dtype == "bytes" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if dtype in ("double", "float") and isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    if dtype == "timestamp":
        return moment_us(value, name)
    if dtype == "hash" and isinstance(value, str | int | float):
        number = hash_of(value)
        return None if number < 0 else number
    if dtype == "bool":
        if isinstance(value, bool):
            return value
    elif dtype in _INTEGERS:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{name} is {value!r}, not {dtype}")


def decode(view: View, rows: Sequence[bytes], sources: Iterable[int]) -> tuple[pa.Table, list[int], list[Rejected]]:
    """Rows of a view's push source as the engines take them.

    Args:
        rows: JSON objects.
        sources: the place of each row in the batch, for naming rejected ones.

    Returns:
        The table (keys, columns, `__event`, `__known`), the places of its rows, and what was rejected.
    """
    backwards = {name: source for source, name in view.mapping}
    types = {f.name: f.dtype for f in (*view.features, *view.keys)}
    if view.layout:
        types |= {c: "hash" if c.startswith(HASHED) else "double" for c in view.columns}
    named = [(c, c.removeprefix(HASHED)) for c in dict.fromkeys([*view.key_names, *view.columns])]
    wanted = [(c, backwards.get(source, source), types[c]) for c, source in named]
    timestamp = backwards.get(view.timestamp, view.timestamp)
    created = backwards.get(view.created, view.created) if view.created else None
    columns: dict[str, list[Any]] = {c: [] for c, _, _ in wanted} | {EVENT: [], KNOWN: []}
    kept, rejected = [], []
    for place, raw in zip(sources, rows, strict=True):
        try:
            row = _DECODER.decode(raw)
            event = moment_us(row.get(timestamp), timestamp)
            known = moment_us(row[created], created) if created and row.get(created) is not None else event
            values = [_typed(row.get(source), dtype, source) for _, source, dtype in wanted]
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            rejected.append(Rejected(place, str(error)))
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
