"""Feast's Redis layout, entity key serialization version 3: keys, fields and values, without Feast or protobuf in the way.

Source: `feast/infra/key_encoding_utils.py`, `feast/infra/online_stores/{redis,helpers}.py`, `feast/protos/feast/types/Value.proto`
of Feast 0.67; the tests compare every function here with Feast's own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import mmh3
import numpy as np
from numpy.typing import NDArray

from infra.timestamps import EPOCH, whole_seconds

_KEY_TYPES = {"bytes": 1, "string": 2, "int32": 3, "int64": 4, "timestamp": 8}


def field(view: str, feature: str) -> bytes:
    """Hash field of one feature: little-endian murmur3-32 of `view:feature`."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def timestamp_field(view: str) -> bytes:
    return f"_ts:{view}".encode()


def tile_field(view: str) -> bytes:
    """Hash field of a view's tiles and high-water mark (ours; Feast ignores it)."""
    return f"_hr:{view}".encode()


def key_encoder(project: str, keys: Sequence[tuple[str, str]]) -> Callable[[Sequence[Any]], bytes]:
    """A function from an entity's key values to its Redis key.

    Args:
        project: the Feast project.
        keys: `(join key, dtype)` in the order in which values will be given.

    Returns:
        `encode(values) -> bytes`. It raises ValueError or struct.error for a value its type cannot hold.
    """
    order = sorted(range(len(keys)), key=lambda i: keys[i][0])
    prefix = struct.pack("<I", len(keys))
    for i in order:
        name = keys[i][0].encode()
        prefix += struct.pack("<II", 2, len(name)) + name
    suffix = project.encode()
    parts = [(i, keys[i][1], struct.pack("<I", _KEY_TYPES[keys[i][1]])) for i in order]

    def encode(values: Sequence[Any]) -> bytes:
        out = prefix
        for i, dtype, tag in parts:
            raw = _key_bytes(values[i], dtype)
            out += tag + struct.pack("<I", len(raw)) + raw
        return out + suffix

    return encode


def key_matcher(project: str, keys: Sequence[tuple[str, str]]) -> Callable[[bytes], bool]:
    """A function that says whether a Redis key is an entity of these join keys in this project - decoded and compared, not guessed.

    A project's name is what is left of a key when its values have been read, so `prod` never matches a key of `preprod`.
    """
    order = sorted(keys)
    prefix = struct.pack("<I", len(keys))
    for name, _ in order:
        prefix += struct.pack("<II", 2, len(name.encode())) + name.encode()
    suffix, types = project.encode(), [_KEY_TYPES[dtype] for _, dtype in order]

    def matches(key: bytes) -> bool:
        if not key.startswith(prefix):
            return False
        at = len(prefix)
        for kind in types:
            if len(key) < at + 8:
                return False
            found, length = struct.unpack_from("<II", key, at)
            at += 8 + length
            if found != kind or at > len(key):
                return False
        return key[at:] == suffix

    return matches


def _key_bytes(value: Any, dtype: str) -> bytes:
    if dtype == "string":
        return str(value).encode()
    if dtype == "bytes":
        return bytes(value)
    if dtype == "int32":
        return struct.pack("<i", int(value))
    if dtype == "timestamp":
        return struct.pack("<q", _seconds(value))
    return struct.pack("<q", int(value))


def _varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


_NUMBERS = {
    "bytes": 1, "string": 2, "int32": 3, "int64": 4, "double": 5, "float": 6, "bool": 7, "timestamp": 8,
    "json": 32, "uuid": 36, "timeuuid": 37, "decimal": 44,
}  # fmt: skip
"""Fields of `ValueProto`; a list's is ten more than its elements'."""
_TEXT = frozenset({"string", "json", "uuid", "timeuuid", "decimal"})


def element_of(dtype: str) -> str | None:
    """`double` of `array<double>`; None of a scalar."""
    return dtype[6:-1] if dtype.startswith("array<") else None


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _seconds(value: Any) -> int:
    return whole_seconds(value) if isinstance(value, datetime) else int(value)


def _scalar(value: Any, dtype: str) -> bytes:
    """A value without its tag; text and bytes with their length."""
    if dtype == "double":
        return struct.pack("<d", value)
    if dtype == "float":
        with np.errstate(over="ignore"):  # beyond a float's range it is infinite, in a list as alone
            return np.float32(value).tobytes()
    if dtype in ("int64", "int32"):
        return _varint(int(value))
    if dtype == "bool":
        return b"\x01" if value else b"\x00"
    if dtype == "timestamp":
        return _varint(_seconds(value))
    raw = str(value).encode() if dtype in _TEXT else bytes(value)
    return _varint(len(raw)) + raw


def encode_value(value: Any, dtype: str) -> bytes:
    """A ValueProto; null is the empty message.

    An array of floats holds a null element as NaN. Other types have nothing like NaN: there, one null element makes the whole array null.
    """
    if value is None or (value != value):
        return b""
    element = element_of(dtype)
    if element is not None:
        return _encode_list(value, element)
    wire = {"double": 1, "float": 5}.get(dtype, 0 if dtype in ("int64", "int32", "bool", "timestamp") else 2)
    return _tag(_NUMBERS[dtype], wire) + _scalar(value, dtype)


def _encode_list(values: Sequence[Any], element: str) -> bytes:
    if element in ("double", "float"):
        values = [math.nan if v is None else v for v in values]
    elif any(v is None for v in values):
        return b""
    if element in _TEXT or element == "bytes":
        inner = b"".join(b"\x0a" + _scalar(v, element) for v in values)
    else:
        packed = b"".join(_scalar(v, element) for v in values)
        inner = b"\x0a" + _varint(len(packed)) + packed if packed else b""
    return _tag(_NUMBERS[element] + 10, 2) + _varint(len(inner)) + inner


_DTYPES = {number: dtype for dtype, number in _NUMBERS.items()}


def decode_value(data: bytes | None) -> Any:
    """The Python value of a ValueProto of a scalar or a list of them; None for null or absent.

    Raises:
        ValueError: a kind of value this reader does not carry (maps, sets).
    """
    if not data:
        return None
    if data[0] == 0x29:  # a double: what most values are
        return struct.unpack_from("<d", data, 1)[0]
    tag, at = _read_varint(data, 0)
    number, wire = tag >> 3, tag & 7
    if number == 19:  # null_val
        return None
    if number in _DTYPES and not (wire == 2 and 11 <= number <= 18):
        return _decode_scalar(data, at, _DTYPES[number])[0]
    if 11 <= number <= 18:
        length, at = _read_varint(data, at)
        return _decode_list(data[at : at + length], _DTYPES[number - 10])
    raise ValueError(f"a value of protobuf field {number} is none this reader carries")


def _decode_scalar(data: bytes, at: int, dtype: str) -> tuple[Any, int]:
    if dtype == "double":
        return struct.unpack_from("<d", data, at)[0], at + 8
    if dtype == "float":
        return struct.unpack_from("<f", data, at)[0], at + 4
    number, at = _read_varint(data, at)
    if dtype in ("int64", "int32", "timestamp"):
        number = number - (1 << 64) if number >= 1 << 63 else number
        return (EPOCH + timedelta(seconds=number) if dtype == "timestamp" else number), at
    if dtype == "bool":
        return number != 0, at
    raw = data[at : at + number]
    return (raw.decode() if dtype in _TEXT else raw), at + number


def _decode_list(data: bytes, element: str) -> list[Any]:
    found: list[Any] = []
    at = 0
    while at < len(data):
        at += 1  # the one field there is, length-delimited
        if element in _TEXT or element == "bytes":
            value, at = _decode_scalar(data, at, element)
            found.append(value)
            continue
        length, at = _read_varint(data, at)
        end = at + length
        while at < end:
            value, at = _decode_scalar(data, at, element)
            found.append(value)
    return found


def encode_timestamp(us: int) -> bytes:
    """A protobuf Timestamp of microseconds since the epoch."""
    seconds, rest = divmod(us, 1_000_000)
    out = b"\x08" + _varint(seconds) if seconds else b""
    return out + (b"\x10" + _varint(rest * 1000) if rest else b"")


def encode_timestamps(us: NDArray[np.int64]) -> list[bytes]:
    """`encode_timestamp` of many moments."""
    if not len(us):
        return []
    seconds, rest = np.divmod(us, 1_000_000)
    parts = [_varints(b"\x08", seconds), _varints(b"\x10", rest * 1000)]
    return [a + b for a, b in zip(*parts, strict=True)]


def _varints(tag: bytes, numbers: NDArray[np.int64]) -> list[bytes]:
    """A tag and a varint of each number, nothing for zero; one array per length."""
    found = [b""] * len(numbers)
    unsigned = numbers.astype(np.uint64)
    lengths = np.ones(len(numbers), dtype=np.int64)
    for k in range(1, 10):
        lengths += unsigned >> np.uint64(7 * k) > 0
    lengths[numbers == 0] = 0
    for length in np.unique(lengths[lengths > 0]).tolist():
        some = np.flatnonzero(lengths == length)
        matrix = np.empty((len(some), 1 + length), dtype=np.uint8)
        matrix[:, 0] = tag[0]
        for k in range(length):
            byte = (unsigned[some] >> np.uint64(7 * k)) & np.uint64(0x7F)
            matrix[:, 1 + k] = byte | np.uint64(0x80 if k + 1 < length else 0)
        raw, width = matrix.tobytes(), 1 + length
        for i, place in enumerate(some.tolist()):
            found[place] = raw[i * width : (i + 1) * width]
    return found


_MOST_S = 300_000_000_000
"""Protobuf's own bound is the year 9999: 253,402,300,799 seconds."""


def decode_timestamp(data: bytes | None) -> int | None:
    """Microseconds since the epoch; None where the field is absent.

    Raises:
        ValueError, IndexError: it is no protobuf Timestamp.
    """
    if data is None:
        return None
    seconds = nanos = at = 0
    while at < len(data):
        tag = data[at]
        number, at = _read_varint(data, at + 1)
        number = number - (1 << 64) if number >= 1 << 63 else number
        if tag == 0x08:
            seconds = number
        elif tag == 0x10:
            nanos = number
    if abs(seconds) > _MOST_S:
        raise ValueError(f"{seconds} seconds are no moment")
    return seconds * 1_000_000 + nanos // 1000
