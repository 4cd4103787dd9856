"""HTTP as a stranger speaks it: one connection per request, so that each outcome is known, and bytes that no library would send."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

REFUSED, RESET, CUT, TIMEOUT = "refused", "reset", "cut short", "no answer"
"""Why there is no answer: nobody listened; the connection ended before any of it came, or in the middle of it; nothing came in time."""


@dataclass(frozen=True)
class Answer:
    """
    Attributes:
        status: None where there was no answer; `error` says why.
        took_s: until the last byte, or until it was given up.
    """

    status: int | None
    took_s: float
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""


class _CutShort(OSError):
    """The connection ended in the middle of an answer."""


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request's bytes, closed after its answer."""
    lines = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def ask(port: int, sent: bytes, timeout_s: float, pause_s: float = 0.0, piece: int = 0) -> Answer:
    """Send bytes and read the answer to its end.

    Args:
        pause_s, piece: a slow client sends so many bytes at a time, and waits so long between them.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
            try:
                await _send(writer, sent, pause_s, piece)
                return await _read(reader, began)
            finally:
                writer.close()
    except TimeoutError:
        return Answer(None, time.monotonic() - began, error=TIMEOUT)
    except ConnectionRefusedError:
        return Answer(None, time.monotonic() - began, error=REFUSED)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        return Answer(None, time.monotonic() - began, error=CUT if isinstance(error, _CutShort) else RESET)


async def _send(writer: asyncio.StreamWriter, sent: bytes, pause_s: float, piece: int) -> None:
    if not piece:
        writer.write(sent)
        return  # not drained: who refuses a body answers before it has all of it
    for at in range(0, len(sent), piece):
        writer.write(sent[at : at + piece])
        await writer.drain()
        await asyncio.sleep(pause_s)


async def _read(reader: asyncio.StreamReader, began: float) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    try:
        # without a length: to the end of the connection
        body = await (reader.readexactly(int(headers["content-length"])) if "content-length" in headers else reader.read())
    except (OSError, asyncio.IncompleteReadError) as error:
        raise _CutShort from error
    return Answer(int(head[0].split()[1]), time.monotonic() - began, headers, body)
