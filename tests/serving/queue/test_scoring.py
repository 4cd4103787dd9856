"""Predictions by queue: every request has one answer or one dead letter, whatever is killed, and the answer is that of HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feature_repo.records.prediction import is_prediction_id
from feature_repo.records.redis_keys import queue_key, queues_key
from serving.queue.kafka_queue import REQUEST, WHY, KafkaQueue
from serving.queue.redis_queue import RedisQueue
from serving.queue.request_ids import RequestIds, answering
from serving.queue.running import open_queue
from serving.queue.scoring import QueueError, body_of, score_queue
from serving.telemetry.prediction_id import PredictionIds
from streaming.online.store import connect
from tests.serving.queue.answer import with_ids
from tests.serving.shop import INSTANCE
from tests.serving.shop_server import PREDICT, Server

pytestmark = pytest.mark.integration


@pytest.fixture
def shop_server(tmp_path: Path, redis_url: str) -> Server:
    made = Server(tmp_path, redis_url)
    made.version()
    return made


def wanted(server: Server) -> float:
    async def scenario(client: Any) -> Any:
        return (await client.post(PREDICT, json={"instances": [INSTANCE]})).json()["predictions"][0]["score"]

    return float(server.run(scenario))


def requests(n: int) -> list[bytes]:
    """Every tenth cannot be answered; others are whole bodies, or an instance alone."""
    whole, alone, bad = msgspec.json.encode({"instances": [INSTANCE]}), msgspec.json.encode(INSTANCE), b'{"instances": [{}]}'
    return [bad if i % 10 == 9 else alone if i % 2 else whole for i in range(n)]


def test_every_request_is_answered_once_whatever_is_killed(kafka: Any, redis_url: str, shop_server: Server) -> None:
    score, source = wanted(shop_server), f"q{uuid.uuid4().hex[:8]}"
    target, n = f"{source}-answers", 2400
    for topic, parts in ((source, 2), (target, 1), (f"{target}.dead", 1)):
        kafka.make(topic, parts)
    for part in (0, 1):
        kafka.put(source, requests(n // 2), part, key=b"k")
    settings = shop_server.settings
    places = [str(settings.repo), str(settings.state), redis_url, kafka.address, source, target]
    command = [sys.executable, "-m", "tests.serving.queue.answer", *places]
    for kill in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) > 0
            if kill == 1:
                kafka.kill()
                kafka.start()
            if kill < 2:
                process.kill()
                continue
            while kafka_answers(kafka, target) < n * 9 // 10:
                assert process.poll() is None
            process.terminate()
            assert "ended" in process.stdout.read()
    answers, dead = kafka.read(target), kafka.read(f"{target}.dead")
    names = sorted(dict(one.headers())[REQUEST].decode() for one in [*answers, *dead])
    assert names == sorted(f"{source}-{part}-{offset}" for part in (0, 1) for offset in range(n // 2))
    assert len(dead) == n // 10
    assert all(b"must" in dict(one.headers())[WHY] or dict(one.headers())[WHY] for one in dead)
    said = [msgspec.json.decode(one.value()) for one in answers]
    assert {one["predictions"][0]["score"] for one in said} == {score}
    ids = [one["predictions"][0]["prediction_id"] for one in said]
    assert len(set(ids)) == len(ids)
    assert {one.key() for one in answers} == {b"k"}


def kafka_answers(kafka: Any, topic: str) -> int:
    return len(kafka.read(topic))


def test_a_queue_in_redis_is_answered_once(redis_url: str, shop_server: Server) -> None:
    score, client, project = wanted(shop_server), connect(redis_url), shop_server.project
    for body in requests(300):
        client.xadd(queue_key(project, "asks"), {"data": body})
    stop = threading.Event()

    def tell(progress: Any) -> None:
        if progress.lag == 0 or progress.answered + progress.dead >= 300:
            stop.set()

    queue = RedisQueue(connect(redis_url), project, "sells_out", "asks", "answers")
    done = asyncio.run(score_queue(shop_server.settings, "sells_out", queue, stop.is_set, tell, with_ids))
    assert (done.answered, done.dead) == (270, 30)
    answers = client.xrange(queue_key(project, "answers"))
    assert {msgspec.json.decode(fields[b"data"])["predictions"][0]["score"] for _, fields in answers} == {score}
    dead = client.xrange(queue_key(project, "answers.dead"))
    assert all(fields[b"why"] for _, fields in dead)
    asked = [f"asks-{name.decode()}".encode() for name, _ in client.xrange(queue_key(project, "asks"))]
    assert sorted(fields[b"request"] for _, fields in [*answers, *dead]) == sorted(asked)
    # somebody else has answered meanwhile: nothing is written twice
    client.hdel(queues_key(project), "sells_out:asks")
    late = RedisQueue(connect(redis_url), project, "sells_out", "asks", "answers")
    late.take(10, 0)
    client.hset(queues_key(project), "sells_out:asks", "9-9")
    assert late.put([]) is False
    client.hset(queues_key(project), "sells_out:asks", "many")
    with pytest.raises(QueueError, match="is no stream id"):
        late.take(10, 0)


def test_an_id_is_that_of_its_request(shop_server: Server) -> None:
    ids, checkout = RequestIds.of_requests(shop_server.settings), PredictionIds.of(shop_server.settings)

    def made(name: str) -> list[str]:
        with answering(name, 1_700_000_000_000):
            return ids.make("m", 5, 2)

    assert made("asks-0-1") == made("asks-0-1")
    assert len({*made("asks-0-1"), *made("asks-0-2"), *ids.make("m", 1_700_000_000_000_000, 2)}) == 6
    assert all(is_prediction_id(one) and checkout.answered("m", one) for one in made("asks-1-1"))


@pytest.mark.parametrize(
    ("body", "same"), [(b"\xff", True), (b"[1]", True), (b'{"instances":[]}', True), (b'{"a":1}', False), (b"[" * 100_000, True)]
)
def test_an_instance_alone_is_wrapped(body: bytes, same: bool) -> None:
    assert body_of(body) == (body if same else b'{"instances":[{"a":1}]}')


def test_what_cannot_be_a_queue_is_said(kafka: Any, shop_server: Server) -> None:
    own = shop_server.settings
    for names, word in ((("redis:a", "b"), "both"), (("a", "a"), "different names"), (("a", "b"), "HEADRACE_KAFKA is not set")):
        with pytest.raises(QueueError, match=word):
            open_queue(own, "p", "m", names, "g", "0")
    with pytest.raises(QueueError, match="has no topic"):
        KafkaQueue({"bootstrap.servers": kafka.address}, "none", "nowhere", "g", "0")
