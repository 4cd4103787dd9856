"""Feast's Redis layout, entity key serialization version 3: keys, fields and values, without Feast or protobuf in the way.

Source: `feast/infra/key_encoding_utils.py`, `feast/infra/online_stores/{redis,helpers}.py`, `feast/protos/feast/types/Value.proto`
of Feast 0.67; the tests compare every function here with Feast's own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import mmh3

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
        return struct.pack("<q", int(value.timestamp()) if isinstance(value, datetime) else int(value))
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
            return result, at
        shift += 7


def encode_value(value: Any, dtype: str) -> bytes:
    """A ValueProto; null is the empty message."""
    if value is None or (value != value):
        return b""
    if dtype == "double":
        return b"\x29" + struct.pack("<d", value)
    if dtype == "float":
        return b"\x35" + struct.pack("<f", value)
    if dtype == "int64":
        return b"\x20" + _varint(int(value))
    if dtype == "int32":
        return b"\x18" + _varint(int(value))
    if dtype == "bool":
        return b"\x38" + (b"\x01" if value else b"\x00")
    if dtype == "timestamp":
        return b"\x40" + _varint(int(value.timestamp()) if isinstance(value, datetime) else int(value))
    raw = value.encode() if dtype == "string" else bytes(value)
    return (b"\x12" if dtype == "string" else b"\x0a") + _varint(len(raw)) + raw


def decode_value(data: bytes | None) -> Any:
    """The Python value of a scalar ValueProto; None for null or absent.

    Raises:
        ValueError: a kind of value this reader does not carry (lists, maps).
    """
    if not data:
        return None
    tag = data[0]
    if tag == 0x29:
        return struct.unpack_from("<d", data, 1)[0]
    if tag in (0x20, 0x18, 0x40):
        number, _ = _read_varint(data, 1)
        number = number - (1 << 64) if number >= 1 << 63 else number
        return datetime.fromtimestamp(number, UTC) if tag == 0x40 else number
    if tag == 0x35:
        return struct.unpack_from("<f", data, 1)[0]
    if tag == 0x38:
        return data[1] != 0
    if tag in (0x12, 0x0A):
        length, at = _read_varint(data, 1)
        raw = data[at : at + length]
        return raw.decode() if tag == 0x12 else raw
    if tag == 0x98:  # null_val
        return None
    raise ValueError(f"a value of protobuf tag {tag:#x} is no scalar this reader carries")


def encode_timestamp(us: int) -> bytes:
    """A protobuf Timestamp of microseconds since the epoch."""
    seconds, rest = divmod(us, 1_000_000)
    out = b"\x08" + _varint(seconds) if seconds else b""
    return out + (b"\x10" + _varint(rest * 1000) if rest else b"")


def decode_timestamp(data: bytes | None) -> int | None:
    """Microseconds since the epoch; None where the field is absent."""
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
    return seconds * 1_000_000 + nanos // 1000
