"""One connection to Redis that many requests share: what is asked in the same turn of the event loop leaves in one write.

Replies come in the order of the commands, so no request waits for a connection and none is held by one; each has a deadline of its own.
What this does not speak (TLS, clusters) is redis-py's: `Pipelines`. Where Sentinels know the master, they are asked at each connect.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Protocol

import hiredis

from infra import redis_client
from streaming.online.resp import bulk

_MORE = object()
_BACKLOG = 10_000
"""Requests waiting for replies at most: beyond that Redis is not slow but gone."""
_SILENCE_S = 1.0
"""A connection that owes replies and has been silent for so long after a deadline is given up."""


class StoreClient(Protocol):
    """Sends commands, gives replies; what goes wrong is an OSError, a TimeoutError or a `redis.RedisError`."""

    async def ask(self, commands: list[tuple[bytes, ...]], timeout_s: float) -> list[Any]: ...

    async def close(self) -> None: ...


def pack(command: tuple[bytes, ...]) -> bytes:
    """A command as RESP."""
    return b"*%d\r\n" % len(command) + b"".join(map(bulk, command))


class _Wire(asyncio.Protocol):
    """Feeds what comes in to hiredis, and each reply to the request it belongs to."""

    def __init__(self) -> None:
        self.parser = hiredis.Reader(notEnoughData=_MORE)
        self.waiting: deque[tuple[asyncio.Future[list[Any]], list[Any], int]] = deque()
        self.transport: Any = None
        self.heard = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        for future, _, _ in self.waiting:
            if not future.done():
                future.set_exception(ConnectionResetError("Redis closed the connection"))
        self.waiting.clear()

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        gets, waiting = self.parser.gets, self.waiting
        try:
            self.parser.feed(data)
            while (reply := gets()) is not _MORE:
                future, replies, count = waiting[0]
                replies.append(reply)
                if len(replies) == count:
                    waiting.popleft()
                    if not future.done():
                        future.set_result(replies)
        except (hiredis.ProtocolError, IndexError):  # not Redis, or not in step: nothing on this connection can be trusted
            self.transport.abort()


class Connection:
    """A connection to one Redis server, made when first needed and again when lost.

    Args:
        url: see `infra.redis_client`; without TLS.
        timeout_s: longest time to connect.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.timeout_s = url, timeout_s
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None

    async def ask(self, commands: list[tuple[bytes, ...]], timeout_s: float) -> list[Any]:
        """The replies; an error reply is a `hiredis.ReplyError` among them."""
        replies = await self.send(b"".join(map(pack, commands)), len(commands), timeout_s)
        if any(isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY ") for reply in replies):
            await self.close()  # it was the master, and is one no longer: the next connection goes to the one that is
        return replies

    async def send(self, packed: bytes, count: int, timeout_s: float) -> list[Any]:
        """Send packed commands; their replies, in order.

        Raises:
            TimeoutError: not within `timeout_s` seconds; the replies are thrown away when they come.
            OSError: there is no connection, or it was lost.
        """
        wire = self._wire
        if wire is None or wire.transport is None:
            wire = await self._connected(timeout_s)
        return await self._exchange(wire, packed, count, timeout_s)

    async def _exchange(self, wire: _Wire, packed: bytes, count: int, timeout_s: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        if len(wire.waiting) >= _BACKLOG:
            raise TimeoutError
        future: asyncio.Future[list[Any]] = loop.create_future()
        wire.waiting.append((future, [], count))
        wire.transport.write(packed)
        asked = time.monotonic()
        alarm = loop.call_later(timeout_s, _expire, future)
        try:
            return await future
        except TimeoutError:
            if wire.heard < asked and wire.transport is not None and time.monotonic() - max(wire.heard, asked - _SILENCE_S) > _SILENCE_S:
                wire.transport.abort()  # a path that swallows packets never says that it is gone
            raise
        finally:
            alarm.cancel()

    async def _connected(self, timeout_s: float) -> _Wire:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(), name="redis")
        return await asyncio.wait_for(asyncio.shield(self._opening), timeout_s)

    async def _open(self) -> _Wire:
        to = redis_client.address(self.url)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.timeout_s):
            if to.path:
                _, wire = await loop.create_unix_connection(_Wire, to.path)
            else:
                _, wire = await loop.create_connection(_Wire, *await _place(self.url))
            hello: list[tuple[bytes, ...]] = []
            if to.user or to.password:
                hello.append((b"AUTH", *([to.user.encode()] if to.user else []), (to.password or "").encode()))
            if to.db:
                hello.append((b"SELECT", b"%d" % to.db))
            if hello:
                for reply in await self._exchange(wire, b"".join(map(pack, hello)), len(hello), self.timeout_s):
                    if isinstance(reply, hiredis.ReplyError):
                        wire.transport.abort()
                        raise ConnectionRefusedError(f"Redis refuses: {reply}")
        self._wire = wire
        return wire

    async def close(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.close()
        self._wire = None


async def _place(url: str) -> tuple[str, int]:
    """Where the server is.

    Raises:
        ConnectionError: no Sentinel knows.
    """
    import redis

    try:
        return await redis_client.master(url)
    except redis.RedisError as error:
        raise ConnectionError(f"no Sentinel names a master: {error}") from None


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class Pipelines:
    """The same over redis-py, for TLS and for clusters.

    Args:
        cluster: whether `url` is a node of a cluster.
    """

    def __init__(self, url: str, timeout_s: float, cluster: bool = False) -> None:
        made = redis_client.asynchronous_cluster if cluster else redis_client.asynchronous
        self._client: Any = made(url, socket_connect_timeout=timeout_s)

    async def ask(self, commands: list[tuple[bytes, ...]], timeout_s: float) -> list[Any]:
        async with asyncio.timeout(timeout_s):
            pipe = self._client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(command[0].decode(), *command[1:])
            replies: list[Any] = await pipe.execute()
            return replies

    async def close(self) -> None:
        await self._client.aclose()


def client(url: str, timeout_s: float) -> Connection | Pipelines:
    """What speaks to the server of a URL."""
    to = redis_client.address(url)
    return Pipelines(url, timeout_s, to.kind == "cluster") if to.tls or to.kind == "cluster" else Connection(url, timeout_s)
