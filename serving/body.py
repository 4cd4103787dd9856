"""Reading a request's body, up to a limit."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from serving.plane import MAX_BODY
from serving.problem import TooLarge


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body, whatever its content type.

    Raises:
        TooLarge: more than `MAX_BODY` bytes, by its header or as it comes in.
        ClientDisconnect: the caller went away.
    """
    size = 0
    chunks: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            size = int(value)
    if size <= MAX_BODY:
        size = 0
        while size <= MAX_BODY:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if not message.get("more_body", False):
                if not chunks and size <= MAX_BODY:
                    return chunk
                chunks.append(chunk)
                break
            chunks.append(chunk)
    if size > MAX_BODY:
        raise TooLarge(f"The body is larger than {MAX_BODY} bytes: send fewer instances per request.", headers={"connection": "close"})
    return b"".join(chunks)
