"""What each declared type can hold: one rule for live events, offline rows and keys, so that what is taken in can be written and read."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from uuid import UUID

from infra.timestamps import microseconds

FIRST_US = microseconds(datetime.min)
LAST_US = microseconds(datetime.max)
"""The first and the last moment that a `datetime` can name, microseconds since the epoch."""
INTEGERS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
"""Least and greatest value of the whole numbers."""
TEXT = ("json", "uuid", "timeuuid", "decimal")
"""Feast's types that travel as text."""


def holds_integer(value: int, dtype: str) -> bool:
    """Whether a whole-number type can hold the value."""
    least, greatest = INTEGERS[dtype]
    return least <= value <= greatest


def holds_text(value: str, dtype: str) -> bool:
    """Whether text can be a value of a type that travels as text: what cannot be read back as one would break every reader."""
    try:
        if dtype == "decimal":
            return Decimal(value).is_finite()
        if dtype in ("uuid", "timeuuid"):
            UUID(value)
    except (InvalidOperation, ValueError):
        return False
    return True
