"""Requests at a steady rate, whether or not the ones before were answered; truths for what was answered; rides pushed over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.ports import port
from tests.bench.storm.traffic.client import Answer, ask, request
from tests.bench.storm.traffic.hostile_events import ride
from tests.bench.storm.traffic.hostile_requests import FEEDBACK, PREDICT, Hostile, hostile, instance
from tests.bench.storm.traffic.ledger import Ledger
from tests.bench.storm.traffic.producer import PUSHED, STATIONS
from tests.bench.storm.world import World

TIMEOUT_S = 15.0
"""Where there is no answer by then, there is none."""
SLOW_S = 10.0
_TRUTH_S = (2.0, 10.0)
"""A truth becomes known so long after its prediction."""


class Load:
    """
    Args:
        rate: predict requests a second.
        share: of them hostile requests, to every route.
        patience_s: how long an answer is waited for.
    """

    def __init__(self, world: World, ledger: Ledger, rate: float, share: float, seed: int, patience_s: float = TIMEOUT_S) -> None:
        self._port, self._ledger, self.rate, self._share = port(world.own.state, "http"), ledger, rate, share
        self._random, self._patience_s = random.Random(seed), patience_s
        self._ended = threading.Event()
        self._waiting: list[tuple[float, str, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pushed = self._hostile = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self.start = self._thread.start
        self.pushed: dict[int, tuple[dict[str, Any], bool]] = {}
        """Ride -> (row, whether it was surely taken)."""

    def stop(self) -> None:
        """Ask for nothing more; send the truths that are left."""
        self._ended.set()
        self._thread.join(180)

    async def _run(self) -> None:
        began, sent = time.monotonic(), 0
        beside = [asyncio.create_task(self._feedback()), asyncio.create_task(self._push())]
        while not self._ended.is_set():
            due = int((time.monotonic() - began) * self.rate)
            for _ in range(min(due - sent, 100)):  # this process was held up: no flood afterwards
                self._begin(self._odd() if self._random.random() < self._share else self._predict())
            sent = due
            await asyncio.sleep(0.01)
        await asyncio.gather(*beside, *self._tasks)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _predict(self) -> None:
        now = datetime.now(UTC)
        rows = [
            instance(
                station=self._random.choice(STATIONS),
                rider_class=self._random.choice(("member", "casual")),
                wanted_at=(now + timedelta(minutes=self._random.randrange(60))).isoformat(),
                party=self._random.randrange(1, 5),
            )
            for _ in range(3 if self._random.random() < 0.1 else 1)
        ]
        answer = await ask(self._port, request("POST", PREDICT, json.dumps({"instances": rows}).encode()), self._patience_s)
        self._ledger.note("predict", answer)
        self._keep(answer, len(rows), truths=True)

    def _keep(self, answer: Answer, rows: int, truths: bool = False) -> None:
        if answer.status != 200:
            self._ledger.unknown += rows
            return
        for prediction in json.loads(answer.body).get("predictions", []):
            self._ledger.predicted(prediction["prediction_id"])
            if truths and self._random.random() < 0.5:
                due = time.monotonic() + self._random.uniform(*_TRUTH_S)
                self._waiting.append((due, prediction["prediction_id"], self._random.randrange(2)))

    async def _odd(self) -> None:
        self._hostile += 1
        await self.send(hostile(self._hostile))

    async def send(self, odd: Hostile) -> None:
        """One hostile request; a slow one is given up by us."""
        slow = odd.piece > 0
        answer = await ask(self._port, odd.sent, SLOW_S if slow else self._patience_s, odd.pause_s, odd.piece)
        if slow and answer.status is None:
            answer = Answer(408, answer.took_s)  # hung up on, or given up
        self._ledger.note(odd.kind, answer, hostile=not odd.may_pass, may_pass=odd.may_pass)
        if PREDICT.encode() in odd.sent[:100]:
            self._keep(answer, 1)

    async def _feedback(self) -> None:
        """Every second the truths that became known; those that were not taken come again with the next."""
        given_up = 0
        while not self._ended.is_set() or (self._waiting and given_up < 60):
            await asyncio.sleep(1.0)
            given_up += self._ended.is_set()
            now = time.monotonic()
            due = [w for w in self._waiting if w[0] <= now or self._ended.is_set()][:500]
            if not due:
                continue
            items = [{"prediction_id": number, "label": label} for _, number, label in due]
            answer = await ask(self._port, request("POST", FEEDBACK, json.dumps({"items": items}).encode()), self._patience_s)
            outcome = self._ledger.note("feedback", answer)
            if outcome.verdict == "ok":
                self._ledger.truths.update({number: label for _, number, label in due})
            if outcome.verdict == "ok" or (answer.status or 500) < 500:  # a refusal is final, and was noted
                gone = {number for _, number, _ in due}
                self._waiting = [w for w in self._waiting if w[1] not in gone]

    async def _push(self) -> None:
        """Two rides a second, one push after the other; one that was not confirmed is not repeated: it may have been taken."""
        while not self._ended.is_set():
            await asyncio.sleep(1.0)
            rows = []
            for _ in range(2):
                self._pushed += 1
                station = self._random.choice(PUSHED)
                rows.append(ride(5_000_000 + self._pushed, station, datetime.now(UTC), round(self._random.gammavariate(2.0, 1.5), 3)))
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            body = json.dumps({"push_source_name": "rides", "df": columns}).encode()
            outcome = self._ledger.note("push", await ask(self._port, request("POST", "/push", body), self._patience_s))
            for row in rows:
                moment = datetime.fromisoformat(row["began"])
                self.pushed[row["ride"]] = (row | {"began": moment, "reported": moment}, outcome.verdict == "ok")
