"""What can be seen from beside the platform: how far behind the stream is, several times a second, and what memory each process holds."""

from __future__ import annotations

import threading
import time
from typing import Any

import redis

from feature_repo.records.redis_keys import applied_key, events_key
from streaming.online.store import OnlineStoreError, connect, stream_id, watermark
from tests.bench.storm.parts import Parts
from tests.bench.storm.world import PROJECT, World

_EVERY_S = 0.2
_MEMORY_EVERY_S = 10.0
_DATA_KEYS = ("events", "predictions", "label-log", "rejected", "labels:turned_away")
"""What grows by what is sent, and is bounded by its retention."""


class Monitor:
    """
    Attributes:
        lags: (wall moment, seconds by which the stream is behind; None where Redis did not say).
        memory: (wall moment, resident MB by part and pid).
    """

    def __init__(self, world: World, parts: Parts) -> None:
        self._world, self._parts = world, parts
        self.lags: list[tuple[float, float | None]] = []
        self.memory: list[tuple[float, dict[tuple[str, int], float]]] = []
        self._ended = threading.Event()
        self._client: Any = None
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self.start = self._thread.start

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def lag_s(self) -> float | None:
        """How old the oldest event is that is not applied; 0.0 where there is none; None where Redis does not say."""
        try:
            if self._client is None:
                self._client = connect(self._world.own.redis(), 1.0)
            done = stream_id(self._client.hget(applied_key(PROJECT), "id") or b"0-0")
            return 0.0 if watermark(self._client, events_key(PROJECT)) <= done else max(0.0, time.time() - done[0] / 1000)
        except (redis.RedisError, OnlineStoreError, OSError):
            self._client = None
            return None

    def _run(self) -> None:
        sampled = 0.0
        while not self._ended.wait(_EVERY_S):
            lag = self.lag_s()
            self.lags.append((time.time(), lag))
            if time.monotonic() - sampled > _MEMORY_EVERY_S:
                sampled = time.monotonic()
                found = self._parts.memory_mb()
                self.memory.append((time.time(), self._without_data(found)))

    def _without_data(self, found: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
        """Redis keeps what was sent, on purpose: what is judged is what it needs beyond."""
        try:
            data = sum(int(self._client.memory_usage(f"headrace:{{{PROJECT}}}:{key}") or 0) for key in _DATA_KEYS) / 2**20
        except (redis.RedisError, AttributeError):
            return {k: mb for k, mb in found.items() if k[0] != "redis"}
        return {k: mb - data if k[0] == "redis" else mb for k, mb in found.items()}
