"""What was served, computed again from the offline store: each view from exactly the events it had been made of.

Logged predictions carry, per view, the high-water mark of the value they got: the join takes it as the cutoff of what was known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from feature_repo.contract import RequestField
from feature_repo.prediction import Prediction
from streaming.event import moment_us
from streaming.gather import NotHere, gather
from streaming.join import MARK, NOW, TIES, column_name, point_in_time_table
from streaming.on_demand import Transformation, append_each
from streaming.point_in_time import NEVER
from streaming.view import Projection, projections

if TYPE_CHECKING:
    from feast import FeatureStore
    from pyspark.sql import SparkSession

    from infra.settings import Settings

AT = "event_timestamp"
INDEX = "__prediction"


def plan(store: FeatureStore, service: str, needed: Collection[str]) -> list[Projection]:
    """The views of a feature service, with those of their features that are needed (`view:feature`)."""
    found = []
    for p in projections(store, service):
        names = tuple(n for n in p.features if f"{p.alias}:{n}" in needed)
        if names:
            found.append(Projection(p.view, p.alias, names, p.key_map))
    return found


def recompute(
    spark: Callable[[], SparkSession],
    settings: Settings,
    plan: Sequence[Projection],
    log: Sequence[Prediction],
    request: Sequence[RequestField] = (),
    on_demand: Sequence[Transformation] = (),
) -> pa.Table:
    """One row per prediction, in order: its features from the events it was served from, and from all that were known then (`__now__…`).

    On-demand features are computed as the join computes them for training, not as serving does. Where a function fails, they are null.

    Args:
        spark: gives a session; called only where the tables are too large for this process.
        request: what a caller sends; columns of the table, too.

    Raises:
        DefinitionError, JoinError: the definitions or the offline store are not what the log was served from.
    """
    spine = _spine(log, plan, request)
    try:
        table = gather(spine, AT, plan, settings.offline_root, settings.join_in_process_rows, marks=True)
    except NotHere:
        session = spark()
        frame = session.createDataFrame(spine)
        table = point_in_time_table(session, frame, AT, plan, settings.offline_root, settings.shuffle_partitions, marks=True)
    table = table.sort_by(INDEX)
    for view in on_demand:
        for kind in ("", NOW):
            table = append_each(table, view, partial(_column, kind), partial(_called, kind, view.alias))
    return table


def _column(kind: str, reference: str) -> str:
    return kind + column_name(*reference.split(":", 1))


def _called(kind: str, alias: str, name: str) -> str:
    return kind + column_name(alias, name)


REQUEST_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(), "int64": pa.int64(), "int32": pa.int32(), "float64": pa.float64(), "float32": pa.float32(), "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


def sent(log: Sequence[Prediction], name: str, dtype: str) -> pa.Array:
    """What was sent as one field of logged requests, as its type declares it."""
    values = [p.request.get(name) for p in log]
    if dtype == "timestamp":
        return pa.array([None if v is None else moment_us(v, name) for v in values], pa.int64()).cast(REQUEST_TYPES[dtype])
    return pa.array(values, REQUEST_TYPES[dtype])


def _spine(log: Sequence[Prediction], plan: Sequence[Projection], request: Sequence[RequestField]) -> pa.Table:
    types = {"string": pa.string(), "int64": pa.int64(), "int32": pa.int32(), "bytes": pa.binary(), "timestamp": pa.timestamp("us", "UTC")}
    keys = {c: types[k.dtype] for p in plan for c, k in zip(p.spine_keys, p.view.keys, strict=True)}
    columns: dict[str, pa.Array] = {
        INDEX: pa.array(range(len(log)), pa.int64()),
        AT: pa.array([p.at_us for p in log], pa.timestamp("us", "UTC")),
    }
    for name, dtype in keys.items():
        columns[name] = pa.array([p.request.get(name) for p in log], dtype)
    for field in request:
        if field.name not in columns:
            columns[field.name] = sent(log, field.name, field.dtype)
    for projection in plan:
        marks = [p.marks.get(projection.alias) for p in log]
        known = [NEVER if m is None or m.known_us is None else m.known_us for m in marks]
        columns[f"{MARK}:{projection.alias}"] = pa.array(known, pa.int64())
        columns[f"{TIES}:{projection.alias}"] = pa.array([m.ties if m else 0 for m in marks], pa.int64())
    return pa.table(columns)
