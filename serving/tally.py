"""Writes what this replica has counted to the shared hash of tallies, every second and once more at its end; never for a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from feature_repo.tally import Tally, tallies_key
from serving.metrics import LATENCY_MS, Metrics

EVERY_S = 1.0
CLOSE_S = 2.0
"""How long the end waits for a write that is under way."""
KEEP_US = 90 * 86_400_000_000
"""A start that wrote nothing for so long is removed: no stage lasts as long."""


class TallyWriter:
    """
    Args:
        client: asynchronous Redis client.
        clock: the server's, microseconds since the epoch.
    """

    def __init__(self, client: Any, project: str, metrics: Metrics, clock: Callable[[], int], every_s: float = EVERY_S) -> None:
        self._redis, self._key, self._metrics, self._clock, self._every_s = client, tallies_key(project), metrics, clock, every_s
        self.start_id = secrets.token_hex(8)
        self._replica, self._started_us = f"{socket.gethostname()}/{os.getpid()}", clock()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="tally")

    async def close(self) -> None:
        """Write a last time."""
        self._closing.set()
        if self._task is not None:  # a client that is cancelled in mid-command may take that for a timeout: the task is told, not cancelled
            _, late = await asyncio.wait({self._task}, timeout=CLOSE_S)
            for task in late:
                task.cancel()
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self.write()

    async def write(self) -> None:
        """
        Raises:
            redis.RedisError, OSError, TimeoutError: Redis does not answer; the next write has it all.
        """
        mine = Tally(self._replica, self._started_us, self._clock(), list(map(float, LATENCY_MS)), self._metrics.counts())
        await self._redis.hset(self._key, self.start_id, msgspec.json.encode(mine))

    async def _run(self) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._sweep()
        while not self._closing.is_set():
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self.write()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._every_s)

    async def _sweep(self) -> None:
        """Remove starts of long ago, and what is no tally."""
        old = []
        for field, raw in (await self._redis.hgetall(self._key)).items():
            try:
                if msgspec.json.decode(raw, type=Tally).at_us < self._clock() - KEEP_US:
                    old.append(field)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                old.append(field)
        if old:
            await self._redis.hdel(self._key, *old)
