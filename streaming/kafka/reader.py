"""Partitions read side by side, and merged by their records' times, so that a partition that lags is waited for.

Why merged: an entity's events may lie in several partitions. Were one partition read far ahead of another, an entity's high-water mark
would say that it holds all that was known by then, while older events of it still wait in the other partition.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from streaming.kafka.client import KafkaError, Topics, consumer, split
from streaming.kafka.cuts import Ranges

ONLY = "headrace-only"
"""Header of a record that was put back: the views it is for, comma-separated."""
PATIENCE_S = 10.0
"""A partition that gives nothing for so long is not waited for (its broker may be away)."""
_AWAY_S = 15.0
_LOOK_S = 5.0
"""So often new partitions are looked for."""


@dataclass(frozen=True, slots=True)
class Record:
    """
    Attributes:
        time_ms: as the producer or the broker has set it; 0: none.
    """

    partition: str
    offset: int
    time_ms: int
    value: bytes | None
    only: str = ""


class Reader:
    """Reads on from given offsets.

    Args:
        at: next offset by partition; others begin with their oldest record.
    """

    def __init__(self, topics: Topics, at: Mapping[str, int]) -> None:
        self._topics = topics
        self._trouble, self._troubled = "", 0.0
        self._consumer = consumer(topics.options, error_cb=self._failed)
        self._held: dict[str, list[Record]] = {}
        self._ended: set[str] = set()
        self._paused: set[str] = set()
        self._next: dict[str, int] = {}
        self._upto: dict[str, int] = {}
        self._quiet, self._looked = time.monotonic(), 0.0
        self._look(at)

    @property
    def at(self) -> dict[str, int]:
        """Next offset of each partition: what was taken lies before it."""
        return self._next

    def close(self) -> None:
        self._consumer.close()

    def _failed(self, error: Any) -> None:
        self._trouble, self._troubled = error.str(), self._troubled or time.monotonic()

    def _look(self, at: Mapping[str, int]) -> None:
        """Take in partitions that are new."""
        from confluent_kafka import KafkaException, TopicPartition

        self._looked = time.monotonic()
        found = []
        for topic in sorted(self._topics.sources):
            try:
                said = self._consumer.list_topics(topic, timeout=10).topics[topic]
            except KafkaException as error:
                raise KafkaError(f"Kafka at {self._topics.options['bootstrap.servers']} does not answer: {error.args[0].str()}") from None
            if said.error is not None:
                raise KafkaError(f"topic {topic!r} cannot be read ({said.error.str()}): make it, or name another in HEADRACE_KAFKA_TOPICS")
            for number in sorted(said.partitions):
                name = f"{topic}-{number}"
                if name not in self._next:
                    first = at.get(name)
                    if first is None:
                        first = self._bounds(topic, number)[0]
                    self._next[name], self._held[name], self._upto[name] = first, [], 0
                    found.append(TopicPartition(topic, number, first))
        if found:
            self._consumer.incremental_assign(found)

    def _bounds(self, topic: str, number: int) -> tuple[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        try:
            return self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
        except KafkaException as error:
            raise KafkaError(f"partition {number} of topic {topic!r} does not answer: {error.args[0].str()}") from None

    def _poll(self, most: int, wait_s: float) -> int:
        """Take in what has come; how much it was."""
        came = 0
        for message in self._consumer.consume(most, wait_s):
            if message.error() is not None:
                self._note(message)
                continue
            name = f"{message.topic()}-{message.partition()}"
            held = self._held[name]
            held.append(_record(name, message))
            self._upto[name] = max(self._upto[name], held[-1].time_ms)
            self._ended.discard(name)
            came += 1
        if came:
            self._trouble, self._troubled = "", 0.0
        elif self._troubled and time.monotonic() - self._troubled > _AWAY_S:
            raise KafkaError(f"Kafka at {self._topics.options['bootstrap.servers']} does not answer: {self._trouble}")
        return came

    def _note(self, message: Any) -> None:
        from confluent_kafka import KafkaError as Codes

        code, error = message.error().code(), message.error()
        if code == Codes._PARTITION_EOF:
            self._trouble, self._troubled = "", 0.0
            self._ended.add(f"{message.topic()}-{message.partition()}")
        elif code in (Codes._AUTO_OFFSET_RESET, Codes.OFFSET_OUT_OF_RANGE):
            name = f"{message.topic()}-{message.partition()}"
            raise KafkaError(
                f"partition {name} has no offset {self._next[name]} any more: its events were deleted before they were read, or the topic "
                f"was made anew. To go on with what is there, remove field at:{name} from the hash headrace:{{<project>}}:kafka in Redis"
            )
        elif not error.retriable():
            raise KafkaError(f"topic {message.topic()!r}: {error.str()}")

    def take(self, limit: int, wait_s: float = 0.1) -> list[Record]:
        """What comes next of all partitions, in order of time, at most `limit`: no more than what no partition still holds older records of.

        Raises:
            KafkaError: Kafka does not answer, or what should come next is gone.
        """
        if time.monotonic() - self._looked > _LOOK_S:
            self._look({})
        self._pause(limit)
        while True:
            came = self._poll(min(limit, 10_000), wait_s)
            total = sum(map(len, self._held.values()))
            unknown = [name for name, held in self._held.items() if not held and name not in self._ended]
            if came or not unknown:
                self._quiet = time.monotonic()
            if not total:
                return []
            impatient = time.monotonic() - self._quiet > PATIENCE_S
            if not unknown or impatient:
                return self._oldest(limit)
            self._pause(limit)

    def _pause(self, limit: int) -> None:
        """A partition of which a whole batch is held brings no more until that is taken: memory is bounded by what is waited for."""
        from confluent_kafka import TopicPartition

        full = {name for name, held in self._held.items() if len(held) >= limit}
        if stop := [TopicPartition(*split(name)) for name in full - self._paused]:
            self._consumer.pause(stop)
        if go := [TopicPartition(*split(name)) for name in self._paused - full]:
            self._consumer.resume(go)
        self._paused = full

    def _oldest(self, limit: int) -> list[Record]:
        """Taken from the front of every partition, up to the time to which all of them are known."""
        upto = min((self._upto[name] for name, held in self._held.items() if held and name not in self._ended), default=None)
        ready: list[Record] = []
        for held in self._held.values():
            # up to the first that is later: within a partition nothing is passed over
            ready += held if upto is None else takewhile(lambda r: r.time_ms <= upto, held)
        taken = in_order(ready)[:limit]
        counts = Counter(record.partition for record in taken)
        for name, n in counts.items():
            self._next[name] = self._held[name][n - 1].offset + 1
            del self._held[name][:n]
        return taken

    def waiting(self) -> int:
        """Records that are in Kafka and not taken yet, as far as the brokers have said."""
        from confluent_kafka import TopicPartition

        total = 0
        for name, upto in self._next.items():
            topic, number = split(name)
            _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
            total += max(high - upto, len(self._held[name])) if high >= 0 else len(self._held[name])
        return total


def in_order(records: Iterable[Record]) -> list[Record]:
    """The one order of a cut's records, whoever reads them, and from whatever offset: by time, and within a partition by offset."""
    latest: dict[str, int] = {}
    keyed = []
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        at_ms = latest[record.partition] = max(record.time_ms, latest.get(record.partition, 0))
        keyed.append((at_ms, record.partition, record.offset, record))
    return [record for *_, record in sorted(keyed, key=lambda k: k[:3])]


def ranges_of(records: Iterable[Record], before: Mapping[str, int]) -> Ranges:
    """The cut that holds these records; `before`: next offset by partition before they were taken."""
    ends: dict[str, int] = {}
    for record in records:
        ends[record.partition] = max(record.offset + 1, ends.get(record.partition, 0))
    return {name: (before[name], upto) for name, upto in sorted(ends.items())}


def read(options: Mapping[str, str], ranges: Ranges, clamp: bool = False) -> Iterator[Record]:
    """The records of ranges of partitions, each partition in its order.

    Args:
        clamp: pass over what Kafka has deleted; else that is an error.

    Raises:
        KafkaError: Kafka does not answer, or does not have them any more.
    """
    from confluent_kafka import KafkaError as Codes
    from confluent_kafka import KafkaException, TopicPartition

    reading = consumer(options)
    try:
        left = {}
        for name, (first, upto) in ranges.items():
            part = TopicPartition(*split(name))
            low, high = reading.get_watermark_offsets(part, timeout=_AWAY_S)
            if not clamp and (low > first or high < upto):
                raise KafkaError(f"partition {name} has offsets {low} to {high} only, and those from {first} to {upto} are to be applied")
            if (first := max(first, low)) < (upto := min(upto, high)):
                reading.incremental_assign([TopicPartition(part.topic, part.partition, first)])
                left[name] = upto
        heard = time.monotonic()
        while left:
            for message in reading.consume(1000, 0.05):
                heard, name = time.monotonic(), f"{message.topic()}-{message.partition()}"
                if name not in left:
                    continue
                if message.error() is not None and message.error().code() != Codes._PARTITION_EOF:
                    raise KafkaError(f"partition {name} cannot be read: {message.error().str()}")
                if message.error() is None and message.offset() < left[name]:
                    yield _record(name, message)
                if message.offset() + (message.error() is None) >= left[name]:
                    del left[name]
            if time.monotonic() - heard > 2 * _AWAY_S:
                raise KafkaError(f"Kafka at {options['bootstrap.servers']} does not answer")
    except KafkaException as error:
        raise KafkaError(f"Kafka at {options['bootstrap.servers']} does not answer: {error.args[0].str()}") from None
    finally:
        reading.close()


def _record(name: str, message: Any) -> Record:
    only = dict(message.headers() or ()).get(ONLY) or b""
    return Record(name, message.offset(), max(message.timestamp()[1], 0), message.value(), only.decode(errors="replace"))
