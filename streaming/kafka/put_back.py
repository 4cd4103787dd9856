"""Dead letters of sources that are read from Kafka go back to their topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_repo.records.redis_keys import rejected_key
from streaming.kafka.client import KafkaError, Topics, producer
from streaming.kafka.reader import ONLY
from streaming.live import dead_letters
from streaming.live.event_log import elsewhere

if TYPE_CHECKING:
    import redis


def replay(client: redis.Redis, project: str, topics: Topics | None) -> int:
    """Put every rejected event back, for the views that refused it and no others: to its topic, or on the Redis Stream. How many.

    A topic and Redis have no common transaction: who is killed in between has put one event back that is still among the rejected.

    Raises:
        KafkaError: the topic does not take them, or these settings do not say where it is.
    """
    claimed = elsewhere(client, project)
    known = topics.topics if topics is not None else {}
    done = 0
    for item in list(dead_letters.read(client, project)):
        if item.source not in claimed:
            continue
        if topics is None or item.source not in known:
            raise KafkaError(f"push source {item.source!r} is read from Kafka by the stream: set HEADRACE_KAFKA here as it is set there")
        sender = producer(topics.options)
        failed: list[str] = []
        sender.produce(
            known[item.source],
            item.data,
            headers={ONLY: ",".join(v for v in item.why if v).encode()},
            on_delivery=lambda error, _, failed=failed: failed.append(error.str()) if error is not None else None,
        )
        if sender.flush(30) or failed:
            raise KafkaError(f"topic {known[item.source]!r} does not take the event back: {failed[0] if failed else 'no answer in 30 s'}")
        client.xdel(rejected_key(project), item.entry)
        done += 1
    return done + dead_letters.replay(client, project)
