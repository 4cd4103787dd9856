"""Values as a Feast type declares them: the Python objects that an on-demand function sees, whoever asks it, and what becomes of its answers.

| declared | Python | what else becomes one |
|---|---|---|
| Float64, Float32 | `float`; of single precision the nearest one | a whole number; NaN is null |
| Int64, Int32 | `int`, exact | a float that is a whole number |
| Bool | `bool` | 0 and 1 |
| String, Json, Uuid, Decimal | `str` | |
| Bytes | `bytes` | |
| UnixTimestamp | `datetime` in UTC, whole seconds, as Feast stores them | seconds since the epoch |
| Array(...) | `list` of these | |

Null is `None`. A list with a null inside is null as a whole, but for floats, where the element is NaN: so Feast's online format has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from reprlib import repr as short
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.timestamps import EPOCH, whole_seconds
from streaming.schema.columns import ARROW_TYPES
from streaming.schema.types import TEXT

Convert = Callable[[Any], Any]
_RANGES = {"int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1)}


def converter(dtype: str) -> Convert:
    """A function of one value that gives it as the type declares it.

    Args:
        dtype: as of `streaming.schema.feature_view.dtype_of`; an empty text leaves values as they are.

    Returns:
        `convert(value)`. It raises ValueError, with a reason that reads on from "... ", for a value that the type cannot hold.
    """
    if dtype.startswith("array<"):
        return _array(dtype[6:-1])
    if dtype in _RANGES:
        return _integer(*_RANGES[dtype], dtype)
    simple: dict[str, Convert] = {
        "double": _double,
        "float": _single,
        "bool": _bool,
        "bytes": _bytes,
        "timestamp": _timestamp,
        "": lambda value: value,
    }
    return simple.get(dtype, _text)


def _null(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _double(value: Any) -> float | None:
    if type(value) is float:
        return None if value != value else value
    if _null(value):
        return None
    if isinstance(value, str | bytes | list | tuple | dict):
        raise ValueError(f"is not a number: {short(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"is not a number: {short(value)}") from None
    return None if number != number else number


def _single(value: Any) -> float | None:
    number = _double(value)
    if number is None:
        return None
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def _integer(low: int, high: int, dtype: str) -> Convert:
    def convert(value: Any) -> int | None:
        number = value
        if type(number) is not int:
            if _null(value):
                return None
            if isinstance(value, bool | np.bool_):
                number = int(value)
            elif isinstance(value, float | np.floating):
                if value != value:
                    return None
                if not math.isfinite(value) or value != int(value):
                    raise ValueError(f"is declared {dtype}, and is not a whole number: {short(value)}")
                number = int(value)
            else:
                try:
                    number = value.__index__()
                except AttributeError:
                    raise ValueError(f"is declared {dtype}, and is not a number: {short(value)}") from None
        if not low <= number <= high:
            raise ValueError(f"is declared {dtype}, which cannot hold {number}")
        return int(number)

    return convert


def _bool(value: Any) -> bool | None:
    if type(value) is bool:
        return value
    if _null(value) or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, str | bytes | list | tuple | dict) or value not in (0, 1):
        raise ValueError(f"is declared bool, and is neither true nor false: {short(value)}")
    return bool(value)


def _text(value: Any) -> str | None:
    if type(value) is str:
        return value
    return None if _null(value) or (isinstance(value, float) and value != value) else str(value)


def _bytes(value: Any) -> bytes | None:
    if _null(value):
        return None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"is declared bytes, and is not: {short(value)}")
    return bytes(value)


def _timestamp(value: Any) -> datetime | None:
    if _null(value) or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, np.datetime64):
        value = int(value.astype("datetime64[s]").astype(np.int64))
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        at = value if value.tzinfo else value.replace(tzinfo=UTC)
        return EPOCH + timedelta(seconds=whole_seconds(at))
    try:
        return datetime.fromtimestamp(math.floor(value), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"is declared a timestamp, and is no moment: {short(value)}") from None


def _array(element: str) -> Convert:
    one, floats = converter(element), element in ("double", "float")

    def convert(value: Any) -> list[Any] | None:
        if _null(value):
            return None
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise ValueError(f"is declared a list, and is not: {short(value)}")
        found = [one(v) for v in value]
        if None not in found:
            return found
        return [math.nan if v is None else v for v in found] if floats else None

    return convert


def from_floats(column: NDArray[np.float64], dtype: str) -> list[Any]:
    """A column of numbers as the reader has them, float64 `[n]` with NaN for null, as its type declares them."""
    if dtype in ("double", "float"):
        return [None if v != v else v for v in column.tolist()]
    if dtype == "bool":
        return [None if v != v else v != 0.0 for v in column.tolist()]
    low, high = _RANGES[dtype]
    return [None if v != v else min(max(int(v), low), high) for v in column.tolist()]


def from_arrow(column: pa.ChunkedArray, dtype: str) -> list[Any]:
    """A column of the offline store or of the examples as its type declares it.

    Raises:
        ValueError: a value that the type cannot hold; the reason reads on from "... ".
    """
    if not dtype:
        return list(column.to_pylist())
    wanted = ARROW_TYPES[dtype]
    if dtype == "timestamp":
        return _moments(column)
    if column.type != wanted and not pa.types.is_null(column.type):
        try:
            column = column.cast(wanted, safe=not pa.types.is_floating(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"is declared {dtype}, and is not: {error}") from None
    values: list[Any] = column.to_pylist()
    if dtype in ("double", "float"):
        return [None if v is None or v != v else v for v in values]
    if dtype in ("int64", "int32", "bool", "string", "bytes", *TEXT):
        return values
    convert = converter(dtype)
    return [convert(v) for v in values]


def _moments(column: pa.ChunkedArray) -> list[datetime | None]:
    if not pa.types.is_temporal(column.type):
        convert = converter("timestamp")
        return [convert(v) for v in column.to_pylist()]
    us = column.cast(pa.timestamp("us")) if pa.types.is_date(column.type) else column.cast(pa.timestamp("us", column.type.tz), safe=False)
    seconds = np.floor_divide(pc.fill_null(us.cast(pa.int64()), 0).to_numpy(), 1_000_000).tolist()
    known = pc.is_valid(us).to_pylist()
    return [datetime.fromtimestamp(s, UTC) if ok else None for s, ok in zip(seconds, known, strict=True)]


def as_stored(values: pa.Array, dtype: str) -> pa.Array:
    """Values as they are online too: moments in whole seconds (rounded down), lists null where an element is (NaN in one of floats)."""
    if dtype == "timestamp":
        us = values.cast(pa.int64())
        whole = np.floor_divide(pc.fill_null(us, 0).to_numpy(zero_copy_only=False), 1_000_000) * 1_000_000
        return pa.array(whole, mask=us.is_null().to_numpy(zero_copy_only=False)).cast(values.type)
    if dtype.startswith("array<"):
        convert = converter(dtype)
        return pa.array([convert(v) for v in values.to_pylist()], values.type)
    return values


def to_arrow(values: list[Any], dtype: str) -> pa.Array:
    """Declared values as a column of their type."""
    return pa.array(values, ARROW_TYPES[dtype]) if dtype else pa.array(values)
