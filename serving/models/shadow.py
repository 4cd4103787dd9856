"""A shadow: a version that is scored and logged on live requests, after they were answered and never in front of one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from serving.inference.predictor import Predictor
from serving.inference.recorder import Asked
from serving.protocol.problem import Problem
from serving.telemetry.metrics import ShadowMetrics

CAPACITY = 2000
"""Requests that wait to be followed; beyond that they are dropped and counted."""
PAUSE_S = 0.05
"""Requests are followed together: what is done per request is done once for all of them."""
_ROWS = 16
"""In one go: the event loop must not wait longer than a prediction takes."""
log = logging.getLogger(__name__)


class Shadow:
    """
    Args:
        challenger: scored, never answers.
        champion: what answers; where both read the same features, they are read once.
    """

    def __init__(self, challenger: Predictor, champion: Predictor, metrics: ShadowMetrics) -> None:
        self.challenger = challenger
        self._read = not challenger.shares_reads_with(champion)
        self._metrics = metrics
        self._waiting: deque[Asked] = deque()
        self._awake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="shadow")

    def put(self, asked: Asked) -> None:
        """Take a request, or drop and count it; never blocks."""
        if len(self._waiting) >= CAPACITY:
            self._metrics.dropped.inc(len(asked.ids))
            return
        self._waiting.append(asked)
        if not self._awake.is_set():
            self._awake.set()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._awake.wait()
            await asyncio.sleep(PAUSE_S)
            self._awake.clear()
            while self._waiting:
                some = [self._waiting.popleft()]
                rows = len(some[0].ids)
                while not self._read and self._waiting and rows + len(self._waiting[0].ids) <= _ROWS:
                    some.append(self._waiting.popleft())
                    rows += len(some[-1].ids)
                await self._follow(some)
                await asyncio.sleep(0)

    async def _follow(self, asked: list[Asked]) -> None:
        rows = sum(len(a.ids) for a in asked)
        try:
            await self.challenger.follow(asked, self._read)
            self._metrics.scored.inc(rows)
        except Exception as error:  # whatever a challenger does, the champion's replica goes on
            if isinstance(error, Problem) and len(asked) > 1:  # one row refused: not the others' fault
                for one in asked:
                    await self._follow([one])
                return
            self._metrics.failed.inc(rows)
            if not isinstance(error, Problem):
                log.exception("shadow %s version %d failed", self.challenger.contract.model, self.challenger.contract.version)
