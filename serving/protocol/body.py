"""Reading a request's body, up to a limit, and its JSON."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from serving.protocol.limits import Limits
from serving.protocol.problem import FieldError, Invalid, Malformed, TooLarge, TooSlow, UnknownEncoding

_PLAIN = (b"", b"identity")
_GZIP = (b"gzip", b"x-gzip")


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The body, whatever its content type; unpacked where it comes as gzip.

    Raises:
        TooLarge: more than `limits.body` bytes: by its header, as it comes in, or unpacked.
        UnknownEncoding: packed as something else.
        Malformed: not the gzip that it says it is.
        TooSlow: not here after `limits.body_s` seconds.
        ClientDisconnect: the caller went away.
    """
    size, encoding = 0, b""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            size = int(value) if len(value) <= 18 else limits.body + 1
        elif name == b"content-encoding":
            encoding = value.strip().lower()
    if encoding not in _PLAIN and encoding not in _GZIP:
        shown = encoding[:40].decode("latin-1")
        raise UnknownEncoding(f"The body is packed as {shown!r}: send it plain or as gzip.", headers={"accept-encoding": "gzip"})
    if size > limits.body:
        raise _too_large(limits)
    body = await _all(receive, limits)
    return _unpack(body, limits) if encoding in _GZIP else body


async def _all(receive: Receive, limits: Limits) -> bytes:
    first = await receive()  # what is short the ingress sends on only when all of it is there
    if first["type"] == "http.request" and not first.get("more_body", False):
        return await _chunks(first, receive, limits)
    try:
        async with asyncio.timeout(limits.body_s):
            return await _chunks(first, receive, limits)
    except TimeoutError:
        raise TooSlow(f"The body was not here after {limits.body_s:g} s.", headers={"connection": "close"}) from None


async def _chunks(message: Message, receive: Receive, limits: Limits) -> bytes:
    size = 0
    chunks: list[bytes] = []
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
        if size > limits.body or not message.get("more_body", False):
            break
        message = await receive()
    if size > limits.body:
        raise _too_large(limits)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _unpack(body: bytes, limits: Limits) -> bytes:
    """Gzip, one member after the other; never more than the limit is unpacked."""
    parts: list[bytes] = []
    size = 0
    try:
        while body or not parts:
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(body, limits.body + 1 - size)
            size += len(part)
            if size > limits.body:
                raise _too_large(limits)
            if not member.eof:
                raise Malformed("The body is not gzip, as its Content-Encoding says: it is cut short.")
            parts.append(part)
            body = member.unused_data
    except zlib.error as error:
        raise Malformed(f"The body is not gzip, as its Content-Encoding says: {error}.") from None
    return b"".join(parts)


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(f"The body is larger than {limits.body} bytes: send less in one request.", headers={"connection": "close"})


def read_json(body: bytes, kind: Any = Any, field: str | None = None) -> Any:
    """A body's JSON as a type, whatever bytes it is made of.

    Args:
        field: named in the error where the body is JSON of another type.

    Raises:
        Malformed: no JSON, no UTF-8, or lists in lists deeper than anyone needs.
        Invalid: JSON of another type; says where.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"The body is not what is taken here: {error}.", [FieldError(str(error), field=field)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None


def malformed(error: Exception) -> Malformed:
    """What is said of a body that is no JSON."""
    if isinstance(error, RecursionError):
        return Malformed("The body is nested deeper than is read here.")
    if isinstance(error, UnicodeDecodeError):
        return Malformed(f"The body is not UTF-8: {error}.")
    return Malformed(f"The body is not JSON: {error}.")


def check_values(columns: Sequence[tuple[str, Sequence[Any]]], limits: Limits) -> None:
    """
    Raises:
        Invalid: a text among the columns' values is longer than the limit, or an integer than 64 bits; names column and row.
    """
    for name, column in columns:
        for row, value in enumerate(column):
            if isinstance(value, str) and len(value) > limits.text:
                raise Invalid(
                    f"row {row}, field {name[:100]!r}: has {len(value)} characters; at most {limits.text} are taken.",
                    [FieldError(f"must have at most {limits.text} characters", row, name[:100])],
                )
            if _beyond(value):
                raise Invalid(
                    f"row {row}, field {name[:100]!r}: is an integer of more than 64 bits.",
                    [FieldError("must be an integer of at most 64 bits", row, name[:100])],
                )


def _beyond(value: Any) -> bool:
    """Whether an integer in a value is larger than JSON's writer takes."""
    if isinstance(value, list | dict):
        return any(map(_beyond, value if isinstance(value, list) else value.values()))
    return isinstance(value, int) and not -(2**63) <= value < 2**64
