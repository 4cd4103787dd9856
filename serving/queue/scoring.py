"""A queue of requests, answered: take some, score them as over HTTP, and let answers and progress take effect in one step."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from infra.cause import cause_of
from infra.settings import Settings
from serving.handlers.data_plane import DataPlane
from serving.inference.predictor import Predictor
from serving.models.loading import load
from serving.protocol.problem import Problem
from serving.queue.request_ids import RequestIds, answering

AT_ONCE = 32
"""Requests that are scored beside each other."""
BATCH = 256
"""Back-pressure: no more requests are taken before these are answered."""
_BACKOFF_S = (0.1, 5.0)


class QueueError(RuntimeError):
    """A queue cannot be read or written; the message says what to do."""


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        name: where it lies: topic, partition and offset, or queue and stream id; the answer carries it.
        at_ms: when it was put there.
        body: as over HTTP, or one instance alone.
        key: of the record; the answer has the same.
    """

    name: str
    at_ms: int
    body: bytes
    key: bytes | None = None


@dataclass(frozen=True)
class Answered:
    """A request's answer, or why it has none (`why` is not empty: it goes to the dead letters)."""

    request: Request
    answer: bytes
    why: str = ""


class Queue(ABC):
    """Where requests come from and answers go to. Its calls block."""

    @abstractmethod
    def take(self, most: int, wait_s: float) -> list[Request]:
        """The next requests; none where none have come."""

    @abstractmethod
    def put(self, answered: Sequence[Answered]) -> bool:
        """Answers to all that `take` gave last, and that it is done with: all in one step or nothing. False: nothing; they come again."""

    @abstractmethod
    def back(self) -> None:
        """What `take` gave last comes again."""

    @abstractmethod
    def lag(self) -> int:
        """Requests that wait."""

    @abstractmethod
    def close(self) -> None: ...


@dataclass
class Progress:
    """What was done so far; `trouble`: why nothing is done now, in one line."""

    answered: int = 0
    dead: int = 0
    lag: int = 0
    trouble: str = ""


def body_of(value: bytes) -> bytes:
    """A request as over HTTP: one instance alone is wrapped. What is no JSON is left for the decoder to refuse."""
    try:
        asked = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return value
    alone = isinstance(asked, dict) and "instances" not in asked
    return msgspec.json.encode({"instances": [asked]}) if alone else value


async def score_queue(
    settings: Settings,
    model: str,
    queue: Queue,
    stop: Callable[[], bool],
    told: Callable[[Progress], None] = lambda _: None,
    loader: Callable[..., Predictor] = load,
) -> Progress:
    """Answer requests until told to stop; the last batch is finished then.

    Args:
        told: called after every batch, and while there is trouble.
        loader: makes a predictor of a model's version; takes `ids`, as `load` does.

    Raises:
        QueueError: the queue cannot be gone on with.
        NotFound: there is no such model.
    """
    plane = DataPlane(settings, loader=partial(loader, ids=RequestIds.of_requests(settings)))
    progress, pause = Progress(), _BACKOFF_S[0]
    await plane.start()
    try:
        plane.models.entry(model)
        while not stop():
            requests = await asyncio.to_thread(queue.take, BATCH, 0.2)
            progress.lag = await asyncio.to_thread(queue.lag)
            if not requests:
                told(progress)
                continue
            try:
                answered = await _all(plane, model, requests)
            except Problem as problem:  # no request is to blame: the store is away, or no version answers
                progress.trouble = problem.detail
                await asyncio.to_thread(queue.back)
                told(progress)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _BACKOFF_S[1])
                continue
            if await asyncio.to_thread(queue.put, answered):
                progress.answered += sum(not one.why for one in answered)
                progress.dead += sum(bool(one.why) for one in answered)
                progress.trouble, pause = "", _BACKOFF_S[0]
            told(progress)
    finally:
        await asyncio.to_thread(queue.close)
        await plane.stop()
    return progress


async def _all(plane: DataPlane, model: str, requests: Sequence[Request]) -> list[Answered]:
    places = asyncio.Semaphore(min(AT_ONCE, plane.settings.max_at_once or AT_ONCE))

    async def one(request: Request) -> Answered:
        async with places:
            with answering(request.name, request.at_ms):
                try:
                    return Answered(request, await plane.predict(model, body_of(request.body), None, time.perf_counter()))
                except Problem as problem:
                    if problem.status in (404, 429, 503):
                        raise
                    faults = "; ".join(f"{e.field or ''} {e.message}".strip() for e in problem.errors[:5])
                    return Answered(request, b"", f"{problem.detail} {faults}".strip())
                except Exception as error:  # whatever it is, it is this request's fault, and the others are answered
                    return Answered(request, b"", cause_of(error)[:500])

    return list(await asyncio.gather(*map(one, requests)))
