"""A process that answers a topic with the made-up shop's model until it is killed or told to stop: `... REPO STATE REDIS BROKER FROM TO`."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from infra.settings import Settings
from serving.inference.predictor import Predictor
from serving.queue.kafka_queue import KafkaQueue
from serving.queue.scoring import score_queue
from tests.serving.shop import loader


def with_ids(settings: Any, model: str, version: int, metrics: Any, log: Any, ids: Any) -> Predictor:
    made = loader()(settings, model, version, metrics, log)
    made._recorder._ids = ids
    return made


def answer(repo: str, state: str, redis_url: str, broker: str, source: str, target: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = Settings(repo=Path(repo), state=Path(state), redis_url=redis_url)
    queue = KafkaQueue({"bootstrap.servers": broker, "reconnect.backoff.max.ms": "500"}, source, target, f"of-{source}", "0")
    told = [0]

    def tell(progress: Any) -> None:
        if progress.answered > told[0]:
            told[0] = progress.answered
            print(progress.answered, flush=True)

    done = asyncio.run(score_queue(settings, "sells_out", queue, stop.is_set, tell, with_ids))
    print(f"ended {done.answered}", flush=True)


if __name__ == "__main__":
    answer(*sys.argv[1:])
