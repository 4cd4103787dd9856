"""Values of records: JSON stays as it is, Avro becomes a row by a real registry; a registry that is away is no event's fault."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.kafka.client import KafkaError, Topics
from streaming.kafka.values import Values
from streaming.live.events import decode
from tests.streaming.world import views

SCHEMA = {
    "type": "record",
    "name": "Thing",
    "fields": [
        {"name": "user", "type": "long"},
        {"name": "kind", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "known", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "x", "type": "double"},
        {"name": "label", "type": ["null", "string"]},
    ],
}
AT = datetime(2020, 9, 13, 12, 0, 0, 250_000, UTC)


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number = self.path.rpartition("/")[2]
        said = {"7": {"schema": json.dumps(SCHEMA)}, "8": {"schemaType": "PROTOBUF", "schema": "syntax"}}.get(number)
        allowed = self.headers.get("Authorization", "").startswith("Basic ") or not self.path.startswith("/closed")
        self.send_response(500 if number == "9" else 401 if not allowed else 200 if said else 404)
        self.end_headers()
        self.wfile.write(json.dumps(said or {}).encode())

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def framed(number: int, row: dict[str, Any]) -> bytes:
    import fastavro

    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(SCHEMA), row)
    return b"\x00" + number.to_bytes(4, "big") + body.getvalue()


def row(x: float = 1.5) -> dict[str, Any]:
    return {"user": 3, "kind": "a", "at": AT, "known": AT, "x": x, "label": None}


def test_avro_becomes_a_row_and_json_stays(registry: str) -> None:
    values = Values(f"http://{registry}/")
    made = [values.row(framed(7, row())), values.row(framed(7, row(float("inf"))))]
    table, kept, bad = decode(views("p")[0], made, [0, 1])
    assert (kept, bad) == ([0, 1], [])
    assert table["x"].to_pylist() == [1.5, float("inf")]
    assert table["__event"].to_pylist() == [int(AT.timestamp() * 1e6)] * 2
    assert values.row(b'{"user": 1}') == b'{"user": 1}'
    assert Values(f"http://me:secret@{registry}/closed").row(framed(7, row())) == made[0]
    assert Values().row(framed(7, row()))[:1] == b"\x00", "without a registry nothing is Avro"


@pytest.mark.parametrize("value", [framed(8, row()), framed(1, row()), framed(7, row())[:9], b"\x00\x00\x00\x00\x07"])
def test_what_is_no_avro_of_a_known_schema_is_left_for_the_stream_to_reject(registry: str, value: bytes) -> None:
    assert Values(f"http://{registry}").row(value) == value


@given(st.binary(max_size=40))
def test_any_bytes_may_come(registry: str, value: bytes) -> None:
    assert isinstance(Values(f"http://{registry}").row(b"\x00\x00\x00\x00\x07" + value), bytes)


@pytest.mark.parametrize("number", [9, 7])
def test_a_registry_that_does_not_answer_is_waited_for(registry: str, number: int) -> None:
    values = Values(f"http://{registry}" if number == 9 else f"http://{registry}/closed")
    with pytest.raises(KafkaError, match="HEADRACE_SCHEMA_REGISTRY"):
        values.row(framed(number, row()))
    with pytest.raises(KafkaError, match="HEADRACE_SCHEMA_REGISTRY"):
        Values("http://127.0.0.1:9").row(framed(7, row()))


def test_topics_keep_what_may_be_secret_out_of_sight() -> None:
    topics = Topics({"bootstrap.servers": "b:1", "sasl.password": "hidden"}, {"things": "t"})
    assert "hidden" not in repr(topics)
