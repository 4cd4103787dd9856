"""What was served, computed again from the offline store: each view from exactly the events that its value was made of.

A logged prediction has, per view, the high-water mark of the value it got. The join takes the mark as the cut-off: what became known
after it is not looked at (docs/semantics/skew.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from feature_repo.records.contract import RequestField
from feature_repo.records.prediction import Prediction
from streaming.aggregation.windows import NEVER
from streaming.join.in_process import NotHere, gather
from streaming.join.on_demand import Transformation, append_each
from streaming.join.on_spark import point_in_time_table
from streaming.schema.columns import MARK, NOW, TIES, column_name
from streaming.schema.feature_view import Projection, projections
from streaming.schema.json_row import moment_us

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


def recomputed(
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
    "timestamp": pa.timestamp("us", "UTC"), "bytes": pa.binary(),
}  # fmt: skip
_UNFIT = (ValueError, TypeError, OverflowError, pa.ArrowException)
"""What a value that is not of its type may raise."""


def sent(log: Sequence[Prediction], name: str, dtype: str) -> pa.Array:
    """What was sent as one field of logged requests, as its type declares it.

    Raises:
        ValueError, TypeError, OverflowError, pyarrow.ArrowException: a value is not of the type.
    """
    values = [p.request.get(name) for p in log]
    if dtype in ("int32", "int64") and any(isinstance(v, float) and not v.is_integer() for v in values):  # Arrow would cut it off
        raise ValueError(f"{name} is no {dtype}")
    if dtype == "timestamp":
        return pa.array([None if v is None else moment_us(v, name) for v in values], pa.int64()).cast(REQUEST_TYPES[dtype])
    return pa.array(values, REQUEST_TYPES[dtype])


def asked(plan: Sequence[Projection], request: Sequence[RequestField]) -> dict[str, str]:
    """What a request carries: keys, as their views declare them, and the other fields → dtype."""
    keys = {c: k.dtype for p in plan for c, k in zip(p.spine_keys, p.view.keys, strict=True)}
    return keys | {f.name: f.dtype for f in request if f.name not in keys}


def fitting(
    log: Sequence[Prediction], fields: Mapping[str, str], version: str, width: int | None = None
) -> tuple[list[Prediction], Counter[str]]:
    """The logged predictions that can be computed again; and why the others cannot, with how many each reason holds for.

    Args:
        fields: of a request → dtype.
        version: what they must fit, for the reasons.
        width: how many values an entry must have.
    """
    why: Counter[str] = Counter()
    found = list(log)
    if width is not None:
        found = [p for p in log if len(p.values) == width]
        why.update(f"{len(p.values)} values, for the {width} inputs of {version}" for p in log if len(p.values) != width)
    for name, dtype in fields.items():
        try:
            sent(found, name, dtype)
        except _UNFIT:  # one of them: which?
            fits = [_fits(p, name, dtype) for p in found]
            why[f"{name!r} is no {dtype}, as {version} takes it"] += fits.count(False)
            found = [p for p, good in zip(found, fits, strict=True) if good]
    return found, why


def _fits(one: Prediction, name: str, dtype: str) -> bool:
    try:
        sent([one], name, dtype)
    except _UNFIT:
        return False
    return True


def _spine(log: Sequence[Prediction], plan: Sequence[Projection], request: Sequence[RequestField]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        INDEX: pa.array(range(len(log)), pa.int64()),
        AT: pa.array([p.at_us for p in log], pa.timestamp("us", "UTC")),
    }
    for name, dtype in asked(plan, request).items():
        columns[name] = sent(log, name, dtype)
    for projection in plan:
        marks = [p.marks.get(projection.alias) for p in log]
        known = [NEVER if m is None or m.known_us is None else m.known_us for m in marks]
        columns[f"{MARK}:{projection.alias}"] = pa.array(known, pa.int64())
        columns[f"{TIES}:{projection.alias}"] = pa.array([m.ties if m else 0 for m in marks], pa.int64())
    return pa.table(columns)
