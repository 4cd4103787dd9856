from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hiredis import ReplyError

from feature_repo.records.prediction import Prediction
from serving.telemetry import prediction_log
from serving.telemetry.prediction_log import PredictionLog


def prediction(number: int) -> Prediction:
    return Prediction(str(number), "m", 1, 0, 0, {}, [], "", {}, 0.5)


class Stream:
    """A Redis that keeps what it is sent, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.hangs = False
        self.refuses = False
        self.entries: list[str] = []
        self.batches: list[int] = []
        self.limits: set[tuple[bytes, ...]] = set()

    async def ask(self, commands: list[tuple[bytes, ...]], timeout_s: float) -> list[Any]:
        if self.hangs:
            await asyncio.sleep(60)
        if self.away:
            raise ConnectionResetError("away")
        if self.refuses:
            return [ReplyError("OOM command not allowed")] * len(commands)
        for name, key, *limit, field, value in commands:
            assert (name, key, field) == (b"XADD", b"stream", b"p")
            self.limits.add(tuple(limit))
            self.entries.append(msgspec.json.decode(value, type=Prediction).id)
        self.batches.append(len(commands))
        return [b"1-1"] * len(commands)

    async def close(self) -> None:
        return None


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
        assert stream.batches == [100] * 12
        assert stream.limits == {(b"MAXLEN", b"~", b"77", b"*")}
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


@pytest.mark.parametrize("trouble", ["away", "refuses"])
def test_nothing_buffered_is_lost_while_redis_takes_nothing(trouble: str) -> None:
    async def scenario() -> None:
        stream = Stream()
        setattr(stream, trouble, True)
        log = PredictionLog(stream, "stream", capacity=100, retention=10)
        log.start()
        for i in range(10):
            log.put(prediction(i))
        await asyncio.sleep(0.2)
        assert (log.depth, log.written) == (10, 0)
        setattr(stream, trouble, False)
        for _ in range(300):
            if log.written == 10:
                break
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


def test_a_buffer_is_full_by_its_bytes_too() -> None:
    class Away:
        async def ask(self, *_: Any) -> list[Any]:
            raise OSError("away")

        async def close(self) -> None: ...

    prediction = Prediction("id", "m", 1, 0, 0, {"key": "x" * 1000}, [], "", {}, 0.5)
    log = PredictionLog(Away(), "stream", 10_000, 10, capacity_bytes=10_500)
    assert [log.put(prediction) for _ in range(10)].count(True) == 9
    assert (log.depth, log.dropped) == (9, 1)
