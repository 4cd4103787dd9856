"""What has been cut is the log of live events that a backfill catches up from, as the Redis Stream is for sources that are pushed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from streaming.kafka import cuts
from streaming.kafka.client import KafkaError, Topics
from streaming.kafka.cuts import FIRST_SEQ, LAST_SEQ, Cut, Ranges
from streaming.kafka.reader import Record, in_order, read
from streaming.kafka.values import Values
from streaming.live.event_log import SCHEMA, Log, Position, StreamLog, elsewhere
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis

_TOGETHER = 50_000
"""Records of cuts that are read by one consumer."""


def table_of(number: int, records: Sequence[Record], topics: Topics, values: Values) -> pa.RecordBatch:
    """A cut's records, in order, as the sink takes them (`event_log.SCHEMA`). Records without a value say nothing."""
    sources = topics.sources
    rows = [(FIRST_SEQ + i, r) for i, r in enumerate(records) if r.value is not None]
    columns = [
        pa.array([number] * len(rows), pa.int64()),
        pa.array([seq for seq, _ in rows], pa.int64()),
        pa.array([sources[r.partition.rpartition("-")[0]] for _, r in rows], pa.string()),
        pa.array([values.row(r.value or b"") for _, r in rows], pa.binary()),
        pa.array([r.only for _, r in rows], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@dataclass(frozen=True)
class KafkaLog:
    """The cuts of a project; their records lie in Kafka."""

    project: str
    topics: Topics

    def last(self, client: redis.Redis) -> Position:
        number = cuts.place(client, self.project).number
        return (number, LAST_SEQ) if number else (0, 0)

    def read(self, client: redis.Redis, after: Position, upto: Position) -> Iterator[pa.RecordBatch]:
        """What Kafka has deleted since is passed over, as what has left the Redis Stream is."""
        values = Values(self.topics.registry)
        for some in _groups(cuts.between(client, self.project, after[0], upto[0])):
            held: dict[str, list[Record]] = {}
            for record in read(self.topics.options, _span(some, self.topics), clamp=True):
                held.setdefault(record.partition, []).append(record)
            for cut in some:
                mine = [r for name, (low, high) in cut.ranges.items() for r in held.get(name, ()) if low <= r.offset < high]
                if len(batch := table_of(cut.number, in_order(mine), self.topics, values)):
                    yield batch


def _groups(found: Sequence[Cut]) -> Iterator[list[Cut]]:
    sizes, total = [], 0
    for cut in found:
        total += sum(high - low for low, high in cut.ranges.values())
        sizes.append(total // _TOGETHER)
    for _, some in groupby(zip(sizes, found, strict=True), key=lambda pair: pair[0]):
        yield [cut for _, cut in some]


def _span(some: Sequence[Cut], topics: Topics) -> Ranges:
    """All that consecutive cuts hold of topics that are still read."""
    span: Ranges = {}
    for cut in some:
        for name, (low, high) in cut.ranges.items():
            if name.rpartition("-")[0] in topics.sources:
                span[name] = (min(low, span.get(name, (low, 0))[0]), high)
    return span


def log_of(client: redis.Redis, view: View, topics: Topics | None) -> Log:
    """Where a view's live events are kept.

    Raises:
        KafkaError: the stream reads its push source from Kafka, and these settings do not say where that is.
    """
    if topics is not None and view.stream in topics.topics:
        return KafkaLog(view.project, topics)
    if view.stream in elsewhere(client, view.project):
        raise KafkaError(f"push source {view.stream!r} is read from Kafka by the stream: set HEADRACE_KAFKA here as it is set there")
    return StreamLog(view.project)
