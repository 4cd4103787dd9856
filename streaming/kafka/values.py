"""Values of records: JSON as it is, Avro in Confluent's framing (a zero byte, the schema's number, the body) by the schema registry."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from base64 import b64encode
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from streaming.kafka.client import KafkaError

_MAGIC = 0
_TIMEOUT_S = 10.0


def _plain(value: Any) -> Any:
    """A value of Avro's as a row may have it: moments in ISO 8601, decimals as text."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"$number": "inf" if value > 0 else "-inf"}
    return value


class Values:
    """Makes rows (JSON) of records' values.

    Args:
        registry: the schema registry's address, with `user:password@` where it asks for them; empty: values are JSON.
    """

    def __init__(self, registry: str = "") -> None:
        self._registry, self._schemas = registry.rstrip("/"), dict[int, Any]()

    def row(self, value: bytes) -> bytes:
        """What is no Avro, or of no schema, comes out as it is: the stream rejects it, and keeps it.

        Raises:
            KafkaError: the registry does not answer: no event is to blame.
        """
        if not self._registry or len(value) < 5 or value[0] != _MAGIC:
            return value
        schema = self._schema(int.from_bytes(value[1:5], "big"))
        if schema is None:
            return value
        import fastavro

        try:
            return msgspec.json.encode(_plain(fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)))
        except Exception:  # any bytes may come
            return value

    def _schema(self, number: int) -> Any:
        if number not in self._schemas:
            self._schemas[number] = self._asked(number)
        return self._schemas[number]

    def _asked(self, number: int) -> Any:
        import fastavro

        parts = urlsplit(self._registry)
        request = urllib.request.Request(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}/schemas/ids/{number}")
        if parts.username:
            request.add_header("Authorization", "Basic " + b64encode(parts.netloc.rpartition("@")[0].encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                said = json.load(answer)
            return fastavro.parse_schema(json.loads(said["schema"])) if said.get("schemaType", "AVRO") == "AVRO" else None
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise KafkaError(f"the schema registry answers {error.code} for schema {number} (HEADRACE_SCHEMA_REGISTRY)") from None
        except (OSError, ValueError, LookupError) as error:
            raise KafkaError(f"the schema registry does not give schema {number}: {error} (HEADRACE_SCHEMA_REGISTRY)") from None
