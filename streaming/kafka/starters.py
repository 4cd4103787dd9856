"""The streaming queries that the settings ask for: from the Redis Stream, from what is brought onto it, and from Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from infra.settings import Settings
from streaming.kafka import cuts, turn
from streaming.kafka.client import KafkaError, Topics
from streaming.live import connectors, query
from streaming.live.sources.table import asked
from streaming.online.store import connect
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

Starter = Callable[[], "StreamingQuery"]


def starters_of(settings: Settings, spark: SparkSession, views: Sequence[View]) -> dict[str, Starter]:
    """By name, what starts each query. A push source is read from Kafka or from the Redis Stream, never from both: what both bring has no
    common order, and an entity remembers one position only.

    Raises:
        KafkaError: what is asked of Kafka cannot be.
    """
    sources = sorted({v.stream for v in views if v.stream})
    if not views:
        return {}  # `streaming.live.query.run` says it
    if not sources:
        raise ValueError("no feature view has a push source: there is nothing to stream")
    url, project = settings.redis(), views[0].project
    kept_s, tolerance_s = settings.event_retention_h * 3600, settings.clock_tolerance_s
    topics = Topics.of(settings, sources)
    read = set(topics.topics) if topics is not None else set()
    with contextlib.closing(connect(url)) as client:
        cuts.claim(client, project, sorted(read))
    found: dict[str, Starter] = {}
    others = [v for v in views if v.stream not in read]
    if any(v.stream for v in others):
        found["the stream"] = partial(
            query.start, spark, url, others, str(settings.state / "stream"), kept_s, tolerance_s, settings.tasks_of_stream
        )
    pushed = [source for source in sources if source not in read]
    for source in asked(settings, pushed):
        if not pushed:
            raise KafkaError(
                "HEADRACE_EVENT_FILES is set, and every push source is read from Kafka: name those that are in HEADRACE_KAFKA_TOPICS"
            )
        checkpoint = str(settings.state / f"stream-{source.name}")
        found[f"reading {source.name}"] = partial(connectors.start, source, spark, url, project, checkpoint)
    if topics is not None:
        found["the stream from Kafka"] = partial(
            turn.start, spark, url, views, topics, str(settings.state / "stream-kafka"), kept_s, tolerance_s
        )
    return found
