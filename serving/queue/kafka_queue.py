"""Requests and answers in Kafka: answers, dead letters and offsets are one transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from serving.queue.scoring import Answered, Queue, QueueError, Request
from streaming.kafka.client import consumer, producer

REQUEST, WHY = "headrace-request", "headrace-why"
"""Headers of answers and dead letters: topic, partition and offset of the request, and why it has no answer."""
_TIMEOUT_S = 30.0


class KafkaQueue(Queue):
    """
    Args:
        options: of librdkafka.
        source, target: topics; dead letters go to `<target>.dead`.
        group: its members share the source's partitions; each has an `instance` of its own, which it keeps when it is started again.

    Raises:
        QueueError: Kafka does not answer, or lacks a topic.
        KafkaError: an option is wrong.
    """

    def __init__(self, options: Mapping[str, str], source: str, target: str, group: str, instance: str) -> None:
        import confluent_kafka

        self._target, self._dead = target, f"{target}.dead"
        brief = {"transaction.timeout.ms": "15000", "transactional.id": f"{group}-{instance}"}
        self._producer = producer(options, **brief)
        more = {"group.id": group, "auto.offset.reset": "earliest", "session.timeout.ms": "10000", "enable.partition.eof": "false"}
        self._consumer = consumer(options, **more)
        self._next: dict[tuple[str, int], int] = {}
        self._first: dict[tuple[str, int], int] = {}
        try:
            known = self._consumer.list_topics(timeout=_TIMEOUT_S).topics
            if missing := [topic for topic in (source, target, self._dead) if topic not in known]:
                raise QueueError(f"Kafka has no topic {', '.join(missing)}: make it (answers, and what has none, are kept apart)")
            # whoever had this instance before is cut off, and what it left half done is undone
            self._producer.init_transactions(_TIMEOUT_S)
        except confluent_kafka.KafkaException as error:
            self._consumer.close()
            raise QueueError(f"Kafka at {options.get('bootstrap.servers')} does not answer: {error.args[0].str()}") from None
        self._consumer.subscribe([source])

    def take(self, most: int, wait_s: float) -> list[Request]:
        self._next, self._first = {}, {}
        found = []
        for message in self._consumer.consume(most, wait_s):
            if message.error() is not None:
                if not message.error().retriable():
                    raise QueueError(f"topic {message.topic()!r}: {message.error().str()}")
                continue
            place = message.topic(), message.partition()
            self._first.setdefault(place, message.offset())
            self._next[place] = message.offset() + 1
            name = f"{place[0]}-{place[1]}-{message.offset()}"
            found.append(Request(name, max(message.timestamp()[1], 0), message.value() or b"", message.key()))
        return found

    def put(self, answered: Sequence[Answered]) -> bool:
        from confluent_kafka import KafkaException, TopicPartition

        try:
            self._producer.begin_transaction()
            for one in answered:
                headers = {REQUEST: one.request.name.encode()} | ({WHY: one.why.encode()} if one.why else {})
                topic, value = (self._dead, one.request.body) if one.why else (self._target, one.answer)
                self._producer.produce(topic, value, key=one.request.key, headers=headers)
                self._producer.poll(0)
            offsets = [TopicPartition(topic, number, upto) for (topic, number), upto in self._next.items()]
            self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), _TIMEOUT_S)
            self._commit()
            return True
        except (KafkaException, BufferError) as error:
            self._abort(error)
            self.back()
            return False

    def _commit(self) -> None:
        """Until it is known what became of it: a broker that is away may have committed."""
        from confluent_kafka import KafkaException

        while True:
            try:
                self._producer.commit_transaction(_TIMEOUT_S)
                return
            except KafkaException as error:
                if error.args[0].txn_requires_abort() or not error.args[0].retriable():
                    raise
                time.sleep(0.2)

    def _abort(self, error: Exception) -> None:
        """Undo what was begun, however long the broker is away; another process with this instance ends us."""
        from confluent_kafka import KafkaException

        while True:
            said = error.args[0] if isinstance(error, KafkaException) else None
            if said is not None and said.fatal():
                raise QueueError(f"another process answers as this instance ({said.str()}): give each an --instance of its own") from None
            try:
                self._producer.abort_transaction(_TIMEOUT_S)
                return
            except KafkaException as again:
                if again.args[0].retriable():
                    time.sleep(0.2)
                elif not again.args[0].fatal():
                    return  # there is nothing to undo
                error = again

    def back(self) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        for (topic, number), offset in self._first.items():
            try:
                self._consumer.seek(TopicPartition(topic, number, offset))
            except KafkaException:
                continue  # it is another member's now, who begins at what was committed

    def lag(self) -> int:
        total = 0
        for part, at in zip(self._consumer.assignment(), self._consumer.position(self._consumer.assignment()), strict=False):
            low, high = self._consumer.get_watermark_offsets(part, cached=True)
            if high >= 0:
                total += max(0, high - (at.offset if at.offset >= 0 else max(low, 0)))
        return total

    def close(self) -> None:
        self._consumer.close()
