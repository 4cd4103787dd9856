"""What comes in over HTTP: a request decoder compiled from a contract.

A body is decoded and checked in one pass of msgspec against a type made from the contract's request fields. Only when that refuses
it is the body read again, row by row, to name every fault with its row and field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from feature_repo.records.contract import Contract, RequestField
from infra.timestamps import EPOCH, microseconds
from serving.protocol.body import malformed, read_json
from serving.protocol.limits import Limits
from serving.protocol.problem import FieldError, Invalid, Malformed, TooLarge

_FAULTS = 1000
"""Faults looked for at most: a body is not searched through for the sake of a list that nobody reads."""
_INT32, _INT64 = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1)
_PLACE = re.compile(r"`\$\.instances\[(\d+)\](?:\.(.+))?`$")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Question:
    """A predict request that can be answered.

    Attributes:
        instances: as they came.
        moments: timestamp fields, parsed: field → UTC datetime per instance (None where null was sent).
        now_us: the request's own clock, microseconds since the epoch; None where it set none.
    """

    instances: list[dict[str, Any]]
    moments: dict[str, list[datetime | None]]
    explain: bool
    features: bool
    now_us: int | None


def moment(value: str | int | float) -> datetime:
    """A timestamp from JSON: ISO 8601 (UTC where it has no offset) or seconds since the epoch.

    Raises:
        ValueError: neither, or outside the years 1 to 9999.
    """
    try:
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        return EPOCH + timedelta(seconds=value)
    except (ValueError, OverflowError):
        raise ValueError(f"{shown(value)} is no moment: give ISO 8601 (2013-10-01T12:00:00Z) or seconds since the epoch") from None


def shown(value: Any) -> str:
    """A caller's value as a sentence may show it: cut, where it is long."""
    text = repr(value[:80]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def _integer(low: int, high: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be an integer"
        return None if low <= value <= high else f"must be between {low} and {high}"

    return check


def _number(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    try:
        return None if math.isfinite(value) else "must be finite"
    except OverflowError:
        return "is larger than a float64 can be"


def _string(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a string"


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _timestamp(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "must be an ISO 8601 string or seconds since the epoch"
    try:
        moment(value)
    except ValueError as error:
        return str(error)
    return None


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "string": _string,
    "int64": _integer(*_INT64),
    "int32": _integer(*_INT32),
    "float64": _number,
    "float32": _number,
    "bool": _boolean,
    "timestamp": _timestamp,
}
_TYPES: dict[str, Any] = {
    "int64": Annotated[int, Meta(ge=_INT64[0], le=_INT64[1])],
    "int32": Annotated[int, Meta(ge=_INT32[0], le=_INT32[1])],
    "float64": float,
    "float32": float,
    "bool": bool,
}


def fault_of(field: RequestField, value: Any, limits: Limits) -> str | None:
    """What is wrong with a field's value, or None. A null key is an entity that the caller does not know: its features are missing."""
    if value is None:
        return None
    if isinstance(value, str) and len(value) > limits.text:
        return f"has {len(value)} characters; at most {limits.text} are taken"
    fault = _CHECKS[field.dtype](value)
    if fault is None and field.kind == "entity" and value == "":
        return "is an entity's key and must not be empty"
    return fault


def _type(field: RequestField, limits: Limits) -> Any:
    text = Annotated[str, Meta(max_length=limits.text)]
    if field.dtype == "string":
        own: Any = Annotated[text, Meta(min_length=1)] if field.kind == "entity" else text
    else:
        own = text | int | float if field.dtype == "timestamp" else _TYPES[field.dtype]
    return own | None


class RequestSchema:
    """The predict request of one model version.

    Args:
        contract: gives the fields an instance must have.
    """

    def __init__(self, contract: Contract, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.fields = contract.request
        self.names = [f.name for f in contract.request]
        self._times = [f.name for f in contract.request if f.dtype == "timestamp"]
        places = [(f"f{i}", _type(f, self.limits)) for i, f in enumerate(contract.request)]
        rename = {f"f{i}": f.name for i, f in enumerate(contract.request)}
        instance = msgspec.defstruct("Instance", places, rename=rename, forbid_unknown_fields=True)
        body = msgspec.defstruct(
            "Body",
            [("instances", list[instance]), ("explain", bool, False), ("features", bool, False), ("now", str | int | float | None, None)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(body)

    def decode(self, body: bytes) -> Question:
        """Read a body.

        Raises:
            Malformed: not JSON.
            Invalid: not what this model takes; each fault with its row and field.
            TooLarge: more instances than are taken at once.
        """
        try:
            asked: Any = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._explain(body, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(error) from None
        rows = len(asked.instances)
        if not rows:
            raise Invalid("`instances` is empty: send at least one.", [FieldError("needs at least one instance", field="instances")])
        if rows > self.limits.rows:
            raise TooLarge(f"{rows} instances in one request; at most {self.limits.rows} are taken: split it.")
        names, astuple = self.names, msgspec.structs.astuple
        instances = [dict(zip(names, astuple(instance), strict=True)) for instance in asked.instances]
        try:
            now_us = None if asked.now is None else microseconds(moment(asked.now))
            moments = {f: [None if i[f] is None else moment(i[f]) for i in instances] for f in self._times}
        except ValueError as error:
            raise self._explain(body, error) from None
        return Question(instances, moments, asked.explain, asked.features, now_us)

    def route_key(self, question: Question) -> bytes:
        """What a canary's share goes by: the first instance's entity keys."""
        first = question.instances[0]
        return msgspec.json.encode([first[f.name] for f in self.fields if f.kind == "entity"])

    def _explain(self, body: bytes, refusal: Exception) -> Invalid | Malformed:
        try:
            asked = read_json(body)
        except Malformed as error:
            return error
        except Invalid:  # a number no float can hold
            place = _PLACE.search(str(refusal))
            fault = FieldError(str(refusal), int(place[1]), place[2]) if place else FieldError(str(refusal))
            return _invalid([fault])
        faults = self.faults(asked)
        return _invalid(faults or [FieldError(str(refusal))])

    def faults(self, asked: Any) -> list[FieldError]:
        """What is wrong with a decoded body, in the order of its rows; at most some hundreds."""
        if not isinstance(asked, dict):
            return [FieldError('must be an object: {"instances": [...]}')]
        strange = [k for k in asked if k not in ("instances", "explain", "features", "now")]
        faults = [FieldError("is not known here", field=_name(k)) for k in strange[:_FAULTS]]
        faults += [
            FieldError("must be true or false", field=k) for k in ("explain", "features") if not isinstance(asked.get(k, False), bool)
        ]
        if asked.get("now") is not None and (fault := _timestamp(asked["now"])):
            faults.append(FieldError(fault, field="now"))
        instances = asked.get("instances")
        if not isinstance(instances, list):
            return [*faults, FieldError("is missing" if "instances" not in asked else "must be a list", field="instances")]
        for row, instance in enumerate(instances[: self.limits.rows]):
            if len(faults) >= _FAULTS:
                break
            if not isinstance(instance, dict):
                faults.append(FieldError("must be an object", row))
                continue
            for field in self.fields:
                fault = fault_of(field, instance[field.name], self.limits) if field.name in instance else "is missing"
                if fault:
                    faults.append(FieldError(fault, row, field.name))
            strange = [name for name in instance if name not in self.names]
            faults += [FieldError("is not a field of this model", row, _name(name)) for name in strange[:_FAULTS]]
        return faults

    def example(self) -> dict[str, Any]:
        """A request that decodes: the contract's examples, or a plausible value where it gives none."""
        return {"instances": [{f.name: _example(f) for f in self.fields}]}

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of the body."""
        instance = {
            "type": "object",
            "properties": {f.name: _json_type(f, self.limits) for f in self.fields},
            "required": self.names,
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": {
                "instances": {"type": "array", "items": instance, "minItems": 1, "maxItems": self.limits.rows},
                "explain": {"type": "boolean", "default": False, "description": "return each prediction's strongest contributions"},
                "features": {"type": "boolean", "default": False, "description": "return every value with its status and age"},
                "now": {
                    "type": ["string", "number", "null"],
                    "description": "the request's own clock (ISO 8601 or epoch seconds), where the profile allows it",
                },
            },
            "required": ["instances"],
            "additionalProperties": False,
        }


def _name(name: str) -> str:
    """A caller's own name for something, as an answer may repeat it."""
    return name if len(name) <= 100 else f"{name[:100]}…"


def _invalid(faults: list[FieldError]) -> Invalid:
    first = faults[0]
    where = [f"row {first.row}"] * (first.row is not None) + [f"field {first.field!r}"] * (first.field is not None)
    more = f" ({len(faults) - 1} more in `errors`)" if len(faults) > 1 else ""
    return Invalid(f"{', '.join(where) or 'the body'}: {first.message}{more}.", faults)


def _example(field: RequestField) -> Scalar:
    if field.example is not None:
        return field.example
    if field.dtype == "bool":
        return False
    if field.dtype == "string":
        return "A"
    if field.dtype == "timestamp":
        return "2024-01-01T12:00:00Z"
    low = field.minimum if field.minimum is not None else min(1.0, field.maximum if field.maximum is not None else 1.0)
    return math.ceil(low) if field.dtype.startswith("int") else float(low)


def _json_type(field: RequestField, limits: Limits) -> dict[str, Any]:
    shapes: dict[str, dict[str, Any]] = {
        "string": {"type": "string", "maxLength": limits.text},
        "int64": {"type": "integer", "minimum": _INT64[0], "maximum": _INT64[1]},
        "int32": {"type": "integer", "minimum": _INT32[0], "maximum": _INT32[1]},
        "float64": {"type": "number"},
        "float32": {"type": "number"},
        "bool": {"type": "boolean"},
        "timestamp": {"type": ["string", "number"], "description": "ISO 8601 or seconds since the epoch"},
    }
    shape: dict[str, Any] = {**shapes[field.dtype], "examples": [_example(field)]}
    if field.kind == "entity" and field.dtype == "string":
        shape["minLength"] = 1
    shape["type"] = [*(shape["type"] if isinstance(shape["type"], list) else [shape["type"]]), "null"]
    if field.minimum is not None or field.maximum is not None:
        shape["description"] = f"usually between {field.minimum} and {field.maximum} (seen in training; not enforced)"
    return shape
