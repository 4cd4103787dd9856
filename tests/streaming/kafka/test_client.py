"""What the settings ask for of Kafka, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from streaming.kafka.client import KafkaError, Topics

BROKER = {"bootstrap.servers": "127.0.0.1:9"}


def asked(tmp_path: Path, **said: Any) -> Topics | None:
    return Topics.of(Settings(state=tmp_path, **said), ["docks", "rides"])


def test_topics_are_called_like_the_push_sources_unless_told_otherwise(tmp_path: Path) -> None:
    assert asked(tmp_path) is None
    whole = asked(tmp_path, kafka=BROKER)
    assert whole is not None
    assert whole.sources == {"docks": "docks", "rides": "rides"}
    one = asked(tmp_path, kafka=BROKER | {"sasl.username": "me"}, kafka_topics={"rides": "prod.rides-v2"})
    assert one is not None
    assert (one.sources, one.options["sasl.username"]) == ({"prod.rides-v2": "rides"}, "me")


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"kafka": {"kafka.bootstrap.servers": "b:1", "subscribe": "rides"}}, 'lacks "bootstrap.servers"'),
        ({"kafka": BROKER | {"subscribe": "rides"}}, "subscribe"),
        ({"kafka": BROKER | {"auto.offset.reset": "latest"}}, "are set by us"),
        ({"kafka": BROKER, "kafka_topics": {"birds": "rides"}}, "feed no view"),
        ({"kafka": BROKER, "kafka_topics": {"rides": "all", "docks": "all"}}, "one topic"),
    ],
)
def test_a_wrong_setting_is_said_by_name(tmp_path: Path, said: dict[str, Any], word: str) -> None:
    with pytest.raises(KafkaError, match=word):
        asked(tmp_path, **said)
