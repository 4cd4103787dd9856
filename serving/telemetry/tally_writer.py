"""Writes what this replica has counted, and that it lives, where all can read it: every second and once more at its end, never for a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError, ResponseError

from feature_repo.records.redis_keys import tallies_key
from feature_repo.records.replica_tally import Tally
from infra.supervision.beat import READ, WRITE, encode, parse, parts_key, replaced
from serving.telemetry.metrics import LATENCY_MS, Metrics

EVERY_S = 1.0
SLOWER = 5
"""A replica's beat counts on so many writes: one that is busy is late with some."""
SWEEP_S = 60.0
PART = "serve"
CLOSE_S = 2.0
"""How long the end waits for a write that is under way."""
KEEP_US = 90 * 86_400_000_000
"""A start that wrote nothing for so long is removed: no stage lasts as long."""


def replica_name() -> str:
    """Of this process, for people: host and process."""
    return f"{socket.gethostname()}/{os.getpid()}"


class TallyWriter:
    """
    Args:
        client: asynchronous Redis client.
        clock: the server's, microseconds since the epoch.
        trouble: what the replica does not do as it should, in one line; empty: all is well.

    Attributes:
        refused: why Redis, which answers, takes no writes; empty: it does, or does not answer.
    """

    def __init__(
        self,
        client: Any,
        project: str,
        metrics: Metrics,
        clock: Callable[[], int],
        every_s: float = EVERY_S,
        trouble: Callable[[], str] = lambda: "",
    ) -> None:
        self._redis, self._key, self._metrics, self._clock, self._every_s = client, tallies_key(project), metrics, clock, every_s
        self._parts, self._trouble, self._began = parts_key(project), trouble, time.monotonic()
        self.refused = ""
        self.start_id = secrets.token_hex(8)
        self._replica, self._started_us = replica_name(), clock()
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
            await self._write()
            await self._redis.hdel(self._parts, self._field)

    @property
    def _field(self) -> str:
        return f"{PART}/{self.start_id}"

    async def write(self) -> None:
        """
        Raises:
            redis.RedisError, OSError, TimeoutError: Redis does not answer; the next write has it all.
        """
        try:
            await self._write()
            self.refused = ""
        except ResponseError as error:
            self.refused = str(error)
            raise
        except (RedisError, OSError, TimeoutError):
            self.refused = ""
            raise

    async def _write(self) -> None:
        mine = Tally(self._replica, self._started_us, self._clock(), list(map(float, LATENCY_MS)), self._metrics.counts())
        beat = encode(max(self._every_s, EVERY_S) * SLOWER, time.monotonic() - self._began, self._trouble())
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(self._key, self.start_id, msgspec.json.encode(mine))
        pipe.eval(WRITE, 1, self._parts, self._field, beat, 0)
        for answer in await pipe.execute(raise_on_error=False):  # the library's own error would hold all that was to be written
            if isinstance(answer, Exception):
                raise answer

    async def _run(self) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._sweep()
        swept = -SWEEP_S
        while not self._closing.is_set():
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self.write()
                if time.monotonic() - swept > SWEEP_S:
                    swept = time.monotonic()
                    await self._bury()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._every_s)

    async def _bury(self) -> None:
        """Remove the word of replicas that died and were replaced."""
        if dead := replaced(*parse(await self._redis.eval(READ, 1, self._parts))):
            await self._redis.hdel(self._parts, *dead)

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
