"""A process that applies a topic until it is killed: `python -m tests.streaming.kafka.follow URL PROJECT BROKER TOPIC LIMIT`."""

from __future__ import annotations

import sys
import time

from streaming.kafka.client import KafkaError, Topics
from streaming.kafka.turn import Follower
from streaming.online.store import connect
from tests.streaming.world import views


def follow(url: str, project: str, broker: str, topic: str, limit: str) -> None:
    topics = Topics({"bootstrap.servers": broker, "reconnect.backoff.max.ms": "500"}, {"things": topic})
    follower = Follower(connect(url), views(project), topics, limit=int(limit))
    print("ready", flush=True)
    while True:
        try:
            follower.step()
        except KafkaError as error:
            print(error, flush=True)
            follower.close()
            time.sleep(0.2)


if __name__ == "__main__":
    follow(*sys.argv[1:])
