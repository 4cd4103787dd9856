"""Predictions and truths as rows of the archive's tables, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.records.contract import Contract
from feature_repo.records.prediction import Label, Mark, Prediction

log = logging.getLogger(__name__)
ContractOf = Callable[[str, int], Contract | None]
"""The contract of a model's version, where it can be read."""
_UTC_US = pa.timestamp("us", "UTC")
_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
    "timestamp": _UTC_US,
}
PREDICTION = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("model_version", pa.int64()),
        ("role", pa.string()),
        ("shadow_of", pa.string()),
        ("event_timestamp", _UTC_US),
        ("served_at", _UTC_US),
        ("score", pa.float64()),
        ("request", pa.string()),
        ("statuses", pa.string()),
        ("marks", pa.string()),
        ("unnamed", pa.list_(pa.float64())),
    ]
)
"""Every prediction's columns; then the request's fields and the model's inputs by name. `unnamed` holds the inputs where the version's
contract could not be read."""
TRUTH = pa.schema([("prediction_id", pa.string()), ("label", pa.int64()), ("known_at", _UTC_US)])


def table_of(model: str, found: Sequence[Prediction], contract_of: ContractOf) -> pa.Table:
    """Predictions of one model, of whatever versions, as rows."""
    columns: dict[str, Any] = {
        "prediction_id": [p.id for p in found],
        "model_version": [p.version for p in found],
        "role": [p.role for p in found],
        "shadow_of": [p.of for p in found],
        "event_timestamp": [p.at_us for p in found],
        "served_at": [p.wall_us for p in found],
        "score": [p.score for p in found],
        "request": [msgspec.json.encode(p.request).decode() for p in found],
        "statuses": [p.statuses for p in found],
        "marks": [msgspec.json.encode(p.marks).decode() for p in found],
        "unnamed": [None] * len(found),
    }
    named: dict[str, pa.Array] = {}
    unnamed: list[Any] = columns["unnamed"]
    for version in {p.version for p in found}:
        rows = [i for i, p in enumerate(found) if p.version == version]
        made = contract_of(model, version)
        if made is None or any(len(found[i].values) != len(made.inputs) for i in rows):
            for i in rows:
                unnamed[i] = found[i].values
            continue
        for one in made.request:  # one that is an input as well is a number, as the model got it
            if not (one.name in PREDICTION.names or one.name in named or (one.name in made.names and not _is_number(_TYPES[one.dtype]))):
                named[one.name] = pa.array([_typed(p.request.get(one.name), one.dtype) for p in found], _TYPES[one.dtype])
        if any(name in PREDICTION.names or (name in named and not _is_number(named[name].type)) for name in made.names):
            for i in rows:  # a column of that name holds something else: the values would not come back
                unnamed[i] = found[i].values
            continue
        values = np.full((len(found), len(made.inputs)), np.nan)
        values[rows] = [[np.nan if v is None else v for v in found[i].values] for i in rows]
        for n, name in enumerate(made.names):
            column = pa.array(values[:, n], mask=np.isnan(values[:, n]))
            named[name] = pc.coalesce(named[name].cast(pa.float64(), safe=False), column) if name in named else column
    arrays = [pa.array(columns[f.name], f.type) for f in PREDICTION]
    named = {k: v for k, v in named.items() if k not in PREDICTION.names}
    return pa.table([*arrays, *named.values()], names=[*PREDICTION.names, *named])


def predictions_of(model: str, table: pa.Table, contract_of: ContractOf) -> list[Prediction]:
    """Rows as the predictions they were; one that is none (of an hour of before there were checksums) is left out and named."""
    found = []
    for row in (row for batch in table.to_batches(max_chunksize=5000) for row in _rows(batch)):
        one = _prediction(model, row, contract_of)
        if one is None:
            log.warning("model %s: archived prediction %r is broken and left out", model, row["prediction_id"])
        else:
            found.append(one)
    return found


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # one of them has a moment that no calendar has, or text that is none
        if len(batch) == 1:
            return []
    half = len(batch) // 2
    return [*_rows(batch.slice(0, half)), *_rows(batch.slice(half))]


def _prediction(model: str, row: dict[str, Any], contract_of: ContractOf) -> Prediction | None:
    try:
        made = contract_of(model, row["model_version"]) if row["unnamed"] is None else None
        values = row["unnamed"] if made is None else [_number(row[name]) for name in made.names]
        said = {
            "id": row["prediction_id"],
            "model": model,
            "version": row["model_version"],
            "at_us": _us(row["event_timestamp"]),
            "wall_us": _us(row["served_at"]),
            "request": msgspec.json.decode(row["request"]),
            "values": values,
            "statuses": row["statuses"],
            "marks": msgspec.json.decode(row["marks"], type=dict[str, Mark]),
            "score": row["score"],
            "role": row["role"],
            "of": row["shadow_of"],
        }
        return msgspec.convert(said, Prediction)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_floating(dtype) or pa.types.is_integer(dtype) or pa.types.is_boolean(dtype))


def _number(value: Any) -> Any:
    """An input as it was, also from a column that is text (`streaming.offline.archive_hours`)."""
    return float(value) if isinstance(value, str | bool) else value


def truths_of(found: Sequence[Label]) -> pa.Table:
    """Truths as rows."""
    columns = [[t.prediction_id for t in found], [t.label for t in found], [t.at_us for t in found]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, TRUTH, strict=True)], names=TRUTH.names)


def _typed(value: Any, dtype: str) -> Any:
    """A request's field as its column's type; None where it does not fit (the request itself is kept as it came)."""
    try:
        if value is None or dtype == "string":
            return None if value is None else str(value)
        if dtype == "timestamp":
            at = datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        return bool(value) if dtype == "bool" else float(value) if dtype.startswith("float") else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _us(at: datetime) -> int:
    whole = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds
