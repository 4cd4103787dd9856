from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from feature_repo.prediction import Prediction
from serving import prediction_log
from serving.prediction_log import PredictionLog


def prediction(number: int) -> Prediction:
    return Prediction(str(number), "m", 1, 0, 0, {}, [], "", {}, 0.5)


class Stream:
    """A Redis that keeps what it is sent, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.hangs = False
        self.entries: list[str] = []
        self.batches: list[int] = []
        self.limits: set[tuple[int, bool]] = set()

    def pipeline(self, transaction: bool) -> Stream:
        assert not transaction
        self._pending: list[str] = []
        return self

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: Any) -> None:
        return None

    def xadd(self, key: str, fields: dict[str, bytes], maxlen: int, approximate: bool) -> None:
        assert key == "stream"
        self.limits.add((maxlen, approximate))
        self._pending.append(msgspec.json.decode(fields["p"], type=Prediction).id)

    async def execute(self) -> None:
        if self.hangs:
            await asyncio.sleep(60)
        if self.away:
            raise RedisConnectionError("away")
        self.entries += self._pending
        self.batches.append(len(self._pending))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "_BACKOFF_S", (0.01, 0.02))


def test_everything_is_written_in_order_and_in_batches() -> None:
    async def scenario() -> None:
        stream = Stream()
        log = PredictionLog(stream, "stream", capacity=2000, retention=77)
        log.start()
        for i in range(1200):
            assert log.put(prediction(i))
        await log.close()
        assert stream.entries == [str(i) for i in range(1200)]
        assert stream.batches == [500, 500, 200]
        assert stream.limits == {(77, True)}
        assert (log.written, log.dropped, log.depth) == (1200, 0, 0)

    asyncio.run(scenario())


def test_a_full_buffer_drops_the_newest_and_counts_it() -> None:
    async def scenario() -> None:
        stream = Stream()
        log = PredictionLog(stream, "stream", capacity=3, retention=10)
        assert [log.put(prediction(i)) for i in range(5)] == [True, True, True, False, False]
        log.start()
        await log.close()
        assert stream.entries == ["0", "1", "2"]
        assert log.dropped == 2

    asyncio.run(scenario())


def test_nothing_buffered_is_lost_while_redis_is_away() -> None:
    async def scenario() -> None:
        stream = Stream()
        stream.away = True
        log = PredictionLog(stream, "stream", capacity=100, retention=10)
        log.start()
        for i in range(10):
            log.put(prediction(i))
        await asyncio.sleep(0.2)
        assert (log.depth, log.written) == (10, 0)
        stream.away = False
        await asyncio.sleep(0.1)
        assert (log.depth, log.written, log.dropped) == (0, 10, 0)
        await log.close()

    asyncio.run(scenario())


def test_closing_does_not_wait_for_a_redis_that_hangs() -> None:
    async def scenario() -> None:
        stream = Stream()
        stream.hangs = True
        log = PredictionLog(stream, "stream", capacity=100, retention=10)
        log.start()
        log.put(prediction(1))
        await log.close(timeout_s=0.1)
        assert (log.dropped, log.depth) == (1, 0)

    asyncio.run(scenario())
