"""A row as JSON, as it travels through a stream and is kept where it was refused; and a moment as JSON has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from reprlib import Repr
from typing import Any

import msgspec

from infra.timestamps import microseconds
from streaming.schema.types import FIRST_US, LAST_US

_REPR = Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 60
shown = _REPR.repr
"""Whatever came in as text, cut short."""


def encode(row: Mapping[str, Any]) -> bytes:
    """A row as it is put on the stream: JSON; times in ISO 8601 UTC, bytes in base64, infinities as text."""
    return msgspec.json.encode({k: _plain(v) for k, v in row.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return {"$number": "Infinity" if value > 0 else "-Infinity"}  # JSON has none, and text may be text
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return None if value != value else value


def moment_us(value: Any, name: str) -> int:
    """Microseconds since the epoch of an ISO 8601 string (UTC where it has no zone) or of a number of seconds.

    Raises:
        ValueError: neither, or no moment of the years 1 to 9999; names the field.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not FIRST_US / 1e6 <= value <= LAST_US / 1e6:
            raise ValueError(f"{name} is {shown(value)}: as seconds that is no moment of the years 1 to 9999 (is it in milliseconds?)")
        return round(value * 1_000_000)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {shown(value)}, not an ISO 8601 moment") from None
    us = microseconds(moment)
    if not FIRST_US <= us <= LAST_US:
        raise ValueError(f"{name} is {shown(value)}: in UTC that is no moment of the years 1 to 9999")
    return us
