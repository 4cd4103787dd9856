"""Events at a steady rate into the event stream, each exactly once: what Redis did not confirm is looked for before it is sent again."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from feature_repo.records.redis_keys import events_key
from streaming.online.store import OnlineStoreError, connect
from tests.bench.storm.traffic import hostile_events
from tests.bench.storm.traffic.hostile_events import ride
from tests.bench.storm.traffic.ledger import Ledger, Sent
from tests.bench.storm.world import PROJECT, World

STATIONS = (7, 41, 108, 109, 2_000_000_011, 9_007_199_254_740_993, *range(200, 260))
PUSHED = tuple(range(300, 310))
"""Stations whose rides come over HTTP: two producers of one entity would not agree on an order."""
_TICK_S = 0.05


class Producer:
    """
    Args:
        rate: events a second.
        share: of them hostile.
    """

    def __init__(self, world: World, ledger: Ledger, rate: float, share: float, seed: int) -> None:
        self._world, self._ledger, self._rate, self._share = world, ledger, rate, share
        self._random = random.Random(seed)
        self._at = datetime.now(UTC)
        self._n = self._hostile = 0
        self._extra: list[Sent] = []
        self._ended = threading.Event()
        self._client: Any = None
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self.failed: BaseException | None = None
        self.last = b"0-0"
        self.start, self.refusals = self._thread.start, 0

    def burst(self, events: Iterable[Sent]) -> None:
        """Send these as well, with the next ones."""
        self._extra += list(events)

    def stop(self) -> None:
        """Send what is under way, then end.

        Raises:
            RuntimeError: the producer itself failed.
        """
        self._ended.set()
        self._thread.join(120)
        if self.failed is not None or self._thread.is_alive():
            raise RuntimeError(f"the producer of events failed: {self.failed or 'Redis has not taken its events for 120 s'}")

    def _run(self) -> None:
        try:
            began, sent = time.monotonic(), 0
            while not self._ended.wait(_TICK_S):
                due = int((time.monotonic() - began) * self._rate)
                extra, self._extra = self._extra, []
                self._put([self._event() for _ in range(min(due - sent, 2000))] + extra)
                sent = min(due, sent + 2000)
        except BaseException as error:
            self.failed = error

    def _event(self) -> Sent:
        self._n += 1
        at = max(datetime.now(UTC), self._at + timedelta(microseconds=1))  # each moment once, so that marks name one event
        self._at = at
        if self._random.random() < self._share:
            self._hostile += 1
            return hostile_events.event(self._hostile, at=at)
        station = self._random.choice(STATIONS)
        if self._random.random() < 0.25:
            row = {"station": station, "seen": at, "free_bikes": self._random.randrange(21), "charge": round(self._random.random(), 3)}
            return Sent("docks", json.dumps(row | {"seen": at.isoformat()}).encode(), "", "applied", row)
        kilometres = None if self._random.random() < 0.03 else round(self._random.gammavariate(2.0, 1.5), 3)
        said = ride(1_000_000 + self._n, station, at, kilometres, self._random.choice(("member", "casual")))
        return Sent("rides", json.dumps(said).encode(), "", "applied", said | {"began": at, "reported": at})

    def _put(self, events: Sequence[Sent]) -> None:
        """All of them or none, until they are there."""
        while events:
            try:
                if self._client is None:
                    self._client = connect(self._world.own.redis(), 3.0)
                    if self._is_there(events[-1]):
                        break
                with self._client.pipeline(transaction=True) as pipe:
                    for one in events:
                        pipe.xadd(events_key(PROJECT), {"source": one.source, "data": one.data})
                    self.last = pipe.execute()[-1]
                break
            except (redis.RedisError, OnlineStoreError, OSError):
                self.refusals += 1
                if self._client is not None:
                    self._client.close()
                self._client = None
                if self._ended.is_set() and self.refusals > 10_000:
                    raise
                time.sleep(0.1)
        self._ledger.events.update({one.data: one for one in events})

    def _is_there(self, last: Sent) -> bool:
        """Whether a transaction that was not confirmed took place."""
        for number, fields in self._client.xrevrange(events_key(PROJECT), count=5000):
            if fields[b"data"] == last.data:
                self.last = number
                return True
        return False
