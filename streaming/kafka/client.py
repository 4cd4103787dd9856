"""Which topics are read, with which options of librdkafka, and what is said when a broker is away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.settings import Settings
from streaming.schema.feature_view import View

_OURS = {
    "enable.auto.commit": "false",
    "enable.partition.eof": "true",
    # what is no longer there must not be passed over in silence
    "auto.offset.reset": "error",
}
_DEFAULTS = {"group.id": "headrace", "queued.max.messages.kbytes": "16384", "fetch.wait.max.ms": "50"}


class KafkaError(RuntimeError):
    """Kafka cannot be read or written; the message says why and what to do."""


@dataclass(frozen=True)
class Topics:
    """Push sources that are read from Kafka. Can be pickled: tasks read, too.

    Attributes:
        options: of librdkafka: `bootstrap.servers`, and `sasl.…`, `ssl.…` where the cluster asks for them.
        topics: topic by push source.
        registry: address of the schema registry; empty: values are JSON.
    """

    options: Mapping[str, str] = field(repr=False)
    topics: Mapping[str, str]
    registry: str = ""

    @classmethod
    def of(cls, settings: Settings, sources: Sequence[str], only_known: bool = False) -> Topics | None:
        """What the settings ask for; None where they ask for no Kafka.

        Args:
            sources: names of the push sources that feed a view.
            only_known: `sources` are some of them; topics of others are left out.

        Raises:
            KafkaError: a setting is wrong, or `confluent-kafka` is not installed.
        """
        if not settings.kafka:
            return None
        check(settings.kafka)
        named = settings.kafka_topics or {source: source for source in sources}
        if only_known:
            named = {source: topic for source, topic in named.items() if source in sources}
        elif unknown := sorted(named.keys() - set(sources)):
            raise KafkaError(
                f"HEADRACE_KAFKA_TOPICS names {', '.join(unknown)}, which feed no view; there is: {', '.join(sources) or 'none'}"
            )
        if len(set(named.values())) < len(named):
            raise KafkaError("HEADRACE_KAFKA_TOPICS gives two push sources one topic: each needs one of its own")
        return cls(dict(settings.kafka), dict(named), settings.schema_registry)

    @classmethod
    def among(cls, settings: Settings, views: Iterable[View]) -> Topics | None:
        """What the settings ask for of some views; None: nothing. Raises: as `of`."""
        return cls.of(settings, sorted({v.stream for v in views if v.stream}), only_known=True)

    @property
    def sources(self) -> dict[str, str]:
        """Push source by topic."""
        return {topic: source for source, topic in self.topics.items()}


def check(options: Mapping[str, str]) -> None:
    """
    Raises:
        KafkaError: `HEADRACE_KAFKA` has what librdkafka does not take, or the library is not installed.
    """
    if "bootstrap.servers" not in options:
        raise KafkaError(
            'HEADRACE_KAFKA lacks "bootstrap.servers": it is a JSON object of librdkafka\'s options, '
            'such as {"bootstrap.servers": "host:9092"} (Spark\'s connector is not used any more)'
        )
    if fixed := sorted(options.keys() & _OURS.keys()):
        raise KafkaError(f"HEADRACE_KAFKA sets {', '.join(fixed)}: how far events are read is kept in Redis, and these are set by us")
    consumer(options).close()


def consumer(options: Mapping[str, str], **more: Any) -> Any:
    """A consumer that belongs to no group's rebalances until it subscribes.

    Raises:
        KafkaError: an option is wrong, or the library is not installed.
    """
    return _made("Consumer", _DEFAULTS | dict(options) | _OURS | more)


def producer(options: Mapping[str, str], **more: Any) -> Any:
    """A producer. Raises: as `consumer`."""
    kept = {name: value for name, value in options.items() if name not in _DEFAULTS}
    return _made("Producer", {"linger.ms": "5", "enable.idempotence": "true"} | kept | more)


def _made(kind: str, options: Mapping[str, Any]) -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise KafkaError("HEADRACE_KAFKA needs the package confluent-kafka: pip install 'headrace[kafka]'") from None
    try:
        return getattr(confluent_kafka, kind)({"logger": _SILENT, **options})
    except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
        said = error.args[0].str() if isinstance(error, confluent_kafka.KafkaException) else str(error)
        raise KafkaError(f"HEADRACE_KAFKA: {said}") from None


class _Silent:
    """What librdkafka logs is said by us, once, where it matters."""

    def log(self, *_: Any) -> None:
        return None


_SILENT = _Silent()


def split(name: str) -> tuple[str, int]:
    """`rides-3` as its topic and partition."""
    topic, _, number = name.rpartition("-")
    return topic, int(number)
