"""The command: opens the queue, answers until a signal, tells how it fares."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

from infra.settings import Settings
from infra.supervision import redis_server
from serving.queue.kafka_queue import KafkaQueue
from serving.queue.redis_queue import RedisQueue
from serving.queue.scoring import Progress, Queue, QueueError, score_queue
from streaming.online.store import connect

REDIS = "redis:"
_TELL_S = 10.0


def open_queue(settings: Settings, project: str, model: str, names: tuple[str, str], group: str, instance: str) -> Queue:
    """The queue of `(from, to)`.

    Raises:
        QueueError: the two are not of one kind, are the same, or Kafka lacks them.
        KafkaError: `HEADRACE_KAFKA` is wrong.
    """
    source, target = names
    if source.startswith(REDIS) != target.startswith(REDIS):
        raise QueueError("--from and --to must both be topics, or both queues in Redis (redis:NAME): the two have no common transaction")
    if source == target or f"{target}.dead" == source:
        raise QueueError(f"--from {source} --to {target} would answer answers: give them different names")
    redis_server.up(settings)
    if source.startswith(REDIS):
        return RedisQueue(connect(settings.redis()), project, model, source.removeprefix(REDIS), target.removeprefix(REDIS))
    if not settings.kafka:
        raise QueueError("--from names a topic, and HEADRACE_KAFKA is not set; a queue in Redis is redis:NAME")
    return KafkaQueue(settings.kafka, source, target, group, instance)


def run(settings: Settings, model: str, queue: Queue, metrics_port: int = 0) -> Progress:
    """Answer until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    show = _gauges(model, metrics_port) if metrics_port else lambda _: None
    last: list[Any] = [time.monotonic(), ""]

    def told(progress: Progress) -> None:
        show(progress)
        now = time.monotonic()
        if now - last[0] > _TELL_S or progress.trouble != last[1]:
            last[:] = now, progress.trouble
            said = f"{progress.answered:,} answered, {progress.dead:,} without an answer, {progress.lag:,} waiting"
            print(f"{said}; {progress.trouble}" if progress.trouble else said, flush=True)

    print("ready: scoring", flush=True)
    return asyncio.run(score_queue(settings, model, queue, stop.is_set, told))


def _gauges(model: str, port: int) -> Any:
    from prometheus_client import CollectorRegistry, Gauge, start_http_server

    registry = CollectorRegistry()
    named = {
        "answered": "Requests answered since the start",
        "dead": "Requests that had no answer since the start",
        "lag": "Requests that wait",
    }
    gauges = {name: Gauge(f"headrace_queue_{name}", said, ["model"], registry=registry).labels(model) for name, said in named.items()}
    start_http_server(port, "127.0.0.1", registry)

    def show(progress: Progress) -> None:
        for name, gauge in gauges.items():
            gauge.set(getattr(progress, name))

    return show
