"""The point-in-time join on Spark: examples and events meet in hash buckets of their entity, and each bucket is joined as plain arrays.

For every projection of a feature service, spine and events are cogrouped by `hash(keys) % buckets`; a bucket is one call of
`streaming.join.point_in_time` over NumPy arrays. The features come back by row id, so one example in is one row out, whatever the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregation.windows import HASHED, NEVER, Ints, declared
from streaming.join.point_in_time import Events, Spine, aggregate, latest
from streaming.offline import unfit
from streaming.offline.parquet import TableError, read, table_path
from streaming.schema.cast import sorted_out
from streaming.schema.columns import (
    ARROW_TYPES,
    AT,
    BUCKET,
    EVENT,
    HIDDEN,
    KNOWN,
    MARK,
    NOW,
    ROW,
    SQL_TYPES,
    TIES,
    column_name,
    inputs,
    microseconds,
    sortable,
    to_arrow,
)
from streaming.schema.feature_view import Feature, Projection, View

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SLICED = 2_000_000
"""Events in a bucket beyond which windows are joined one slice of time after the other."""


class JoinError(ValueError):
    """The spine lacks a column, or an offline table is not there or not as declared. The message names view and column."""


def read_events(spark: SparkSession, view: View, root: Path, from_us: int | None = None, upto_us: int | None = None) -> DataFrame:
    """Events of a view's batch source: its keys, the columns its features need, `__event` and `__known` (microseconds), and `unfit.WHY`:
    why a row is not as declared, in a sentence, null where it is (texts have not been looked at).

    Args:
        root: the offline store, for views whose path is relative.
        from_us, upto_us: bounds on the event time, inclusive; days outside are never read.

    Raises:
        JoinError: the table or a column is missing.
    """
    from pyspark.sql import functions as F

    path = table_path(view, root)
    try:
        table = read(spark, path)
    except TableError as error:
        raise JoinError(f"feature view {view.name!r}: {error}") from error
    for source, name in view.mapping:
        table = table.withColumnRenamed(source, name)
    times = [view.timestamp, *([view.created] if view.created else [])]
    wanted = [*view.key_names, *view.source_columns, *times]
    absent = [c for c in dict.fromkeys(wanted) if c not in table.columns]
    if absent:
        raise JoinError(f"feature view {view.name!r}: its table {path} has no column {', '.join(absent)}")
    for bound, above in ((from_us, True), (upto_us, False)):
        if bound is None:
            continue
        if "day" in table.columns:
            day = F.lit(str(np.datetime64(bound, "us").astype("datetime64[D]"))).cast("date")
            partition = F.col("day").cast("date")
            table = table.where(partition >= day if above else partition <= day)
        moment = F.unix_micros(F.col(view.timestamp))
        table = table.where(moment >= bound if above else moment <= bound)
    types = {f.name: SQL_TYPES[f.dtype] for f in (*view.features, *view.keys)}
    if view.layout:
        types |= dict.fromkeys(view.columns, "double")
    for name in [c for c in view.columns if c.startswith(HASHED)]:
        table, types[name] = table.withColumn(name, _hash(table, name.removeprefix(HASHED))), "bigint"
    event = F.unix_micros(F.col(view.timestamp))
    known = F.unix_micros(F.coalesce(F.col(view.created), F.col(view.timestamp))) if view.created else event
    columns = dict.fromkeys([*view.key_names, *view.columns])
    table = table.where(F.col(view.timestamp).isNotNull())
    held, said = zip(*(sorted_out(table, c, types[c]) for c in columns), strict=True)
    return table.select(*held, event.alias(EVENT), known.alias(KNOWN), F.coalesce(*said).alias(unfit.WHY))


def _hash(table: DataFrame, column: str) -> Any:
    """`sketches.hashed`, computed by Spark."""
    from pyspark.sql import functions as F

    value = F.col(column) if table.schema[column].dataType.typeName() in ("string", "varchar", "char") else F.col(column).cast("double")
    null = value.isNull() if table.schema[column].dataType.typeName() in ("string", "varchar", "char") else value.isNull() | F.isnan(value)
    return F.when(~null, F.xxhash64(value).bitwiseAND(F.lit(2**63 - 1)))


def _canonical_order(code: Ints, events: pa.Table) -> Ints:
    """Rows by entity, event time, known time, and - where all three are equal - content, as `canonical` has it."""
    event_us, known_us = microseconds(events[EVENT]), microseconds(events[KNOWN])
    order = np.lexsort((known_us, event_us, code))
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in (code, event_us, known_us):
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    if not same.any():
        return order
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    number = np.cumsum(np.concatenate([[True], ~same]))[places]
    others = [c for c in events.column_names if c not in (EVENT, KNOWN, BUCKET)]
    content = events.select(others).take(pa.array(order[places])).append_column("__tie", pa.array(number))
    within = pc.sort_indices(sortable(content), [("__tie", "ascending"), *((c, "ascending") for c in others)]).to_numpy()
    order[places] = order[places][within]
    return order


def _codes(spine: pa.Table, keys: Sequence[str], events: pa.Table, names: Sequence[str]) -> tuple[Ints, Ints]:
    """Dense codes of composite keys, the same in both tables: equal codes mean equal in every key column; -1 where any is null."""
    n = spine.num_rows
    code, missing = np.zeros(n + events.num_rows, dtype=np.int64), np.zeros(n + events.num_rows, dtype=bool)
    for i, (key, name) in enumerate(zip(keys, names, strict=True)):
        column = pa.chunked_array([*spine[key].chunks, *events[name].cast(spine[key].type).chunks], spine[key].type)
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        part = np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
        missing |= part < 0
        code = part if i == 0 else np.unique(code * (len(encoded.dictionary) + 1) + part + 1, return_inverse=True)[1].astype(np.int64)
    code[missing] = -1
    return code[:n], code[n:]


def join_bucket(view: View, features: Sequence[str], spine: pa.Table, keys: Sequence[str], events: pa.Table) -> list[pa.Array]:
    """Features of the examples in one bucket, in spine order.

    Args:
        spine: columns `keys`, `__at` and, for a cutoff per example, `__mark` and `__ties` (microseconds).
        events: as from `read_events`.

    Returns:
        One Arrow array per name in `features`. With marks: first as of each example's mark, then again as of its moment, and last the
        known-time of the first event that the mark hides (null where it hides none).
    """
    if view.layout and events.num_rows > SLICED and MARK not in spine.column_names:
        return _join_sliced(view, features, spine, keys, events)
    spine, back = _by_entity(spine, keys)
    found = _join_sorted(view, features, spine, keys, events)
    return [array.take(back) for array in found]


def _join_sliced(view: View, features: Sequence[str], spine: pa.Table, keys: Sequence[str], events: pa.Table) -> list[pa.Array]:
    """`join_bucket` for one slice of time after the other, each with only the events that it can reach. So an entity with millions of events
    needs less memory.
    """
    at, event_us = microseconds(spine[AT]), microseconds(events[EVENT])
    width = max(view.reach_us // 2, 1)
    number = (at - at.min(initial=0)) // width if len(at) else at
    parts, places = [], []
    for one in np.unique(number):
        rows = np.flatnonzero(number == one)
        moments = at[rows]
        inside = (event_us >= moments.min() - view.reach_us) & (event_us <= moments.max())
        some, back = _by_entity(spine.take(pa.array(rows)), keys)
        parts.append([a.take(back) for a in _join_sorted(view, features, some, keys, events.filter(pa.array(inside)))])
        places.append(rows)
    order = np.empty(len(at), dtype=np.int64)
    order[np.concatenate(places)] = np.arange(len(at))
    return [pa.concat_arrays(column).take(pa.array(order)) for column in zip(*parts, strict=True)]


def _by_entity(spine: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, pa.Array]:
    """The examples by entity and moment - every search then goes through memory in one direction - and the way back to their order."""
    order = pc.sort_indices(spine, [(k, "ascending") for k in (*keys, AT)])
    back = np.empty(len(order), dtype=np.int64)
    back[order.to_numpy()] = np.arange(len(order))
    return spine.take(order), pa.array(back)


def _join_sorted(view: View, features: Sequence[str], spine: pa.Table, keys: Sequence[str], events: pa.Table) -> list[pa.Array]:
    code, event_code = _codes(spine, keys, events, view.key_names)
    usable = event_code >= 0
    if not usable.all():
        events, event_code = events.filter(pa.array(usable)), event_code[usable]
    order = _canonical_order(event_code, events)
    if (order[1:] < order[:-1]).any():
        events, event_code = events.take(pa.array(order)), event_code[order]
    del order
    indexed = Events(event_code, microseconds(events[EVENT]), microseconds(events[KNOWN]))
    examples = Spine(code, microseconds(spine[AT]))
    if MARK not in spine.column_names:
        return _features(view, features, indexed, examples, events)
    cut = Spine(code, examples.t_us, microseconds(pc.fill_null(spine[MARK], NEVER)), microseconds(pc.fill_null(spine[TIES], 0)))
    hidden = indexed.first_unknown(cut)
    return [
        *_features(view, features, indexed, cut, events),
        *_features(view, features, indexed, examples, events),
        pa.array(hidden, mask=hidden == NEVER),
    ]


def _features(view: View, features: Sequence[str], indexed: Events, examples: Spine, events: pa.Table) -> list[pa.Array]:
    types = {f.name: ARROW_TYPES[f.dtype] for f in view.features}
    if view.layout:
        values, dtypes = aggregate(view.layout, indexed, inputs(view, events), examples), {f.name: f.dtype for f in view.features}
        return [to_arrow(declared(values[name], dtypes[name]), types[name]) for name in features]
    row = latest(indexed, examples, view.ttl_us)
    take = pa.array(row, mask=row < 0)
    from streaming.schema.declared import as_stored  # which is made of this module's types

    dtypes = {f.name: f.dtype for f in view.features}
    return [as_stored(events[name].combine_chunks().take(take).cast(types[name]), dtypes[name]) for name in features]


def _columns(projection: Projection, marks: bool) -> dict[str, str]:
    """Output columns of a projection with their Spark types."""
    dtypes = {f.name: SQL_TYPES[f.dtype] for f in projection.view.features}
    plain = {column_name(projection.alias, n): dtypes[n] for n in projection.features}
    if not marks:
        return plain
    return plain | {NOW + c: t for c, t in plain.items()} | {HIDDEN + projection.alias: "bigint"}


def _bucket_function(projection: Projection, columns: Sequence[str]) -> Callable[[pa.Table, pa.Table], pa.Table]:
    view, names = projection.view, projection.features

    def join(spine: pa.Table, events: pa.Table) -> pa.Table:
        arrays = join_bucket(view, names, spine, projection.spine_keys, events)
        return pa.table([spine[ROW].combine_chunks(), *arrays], names=[ROW, *columns])

    return join


def check_spine(columns: Sequence[str], projections: Sequence[Projection]) -> None:
    """Raises JoinError when the spine lacks an entity column."""
    for projection in projections:
        absent = [k for k in projection.spine_keys if k not in columns]
        if absent:
            raise JoinError(f"the spine has no column {', '.join(absent)}, which feature view {projection.alias!r} is keyed by")


def point_in_time_join(
    spark: SparkSession,
    spine: DataFrame,
    timestamp: str,
    projections: Sequence[Projection],
    root: Path,
    buckets: int = 4,
    marks: bool = False,
) -> DataFrame:
    """Join every projection's features to the spine as of each example's moment.

    Args:
        spine: the examples with their entity columns and any others; kept as they are, in their order.
        timestamp: column with the moment (timestamp).
        projections: what to join.
        root: the offline store.
        buckets: hash buckets per view; a bucket must fit into a worker's memory.
        marks: the spine has `__mark:<alias>` and `__ties:<alias>` columns: see only what each example's high-water marks let through.

    Returns:
        The spine's columns, then one column `alias__feature` per feature, sorted by the spine's order. With marks also
        `__now__alias__feature`, the value without the cutoff, and `__hidden__alias`, the known-time (microseconds) of the first event
        that the mark hides.

    Raises:
        JoinError: a column or table is missing.
    """
    numbered, joined = _joined(spark, spine, timestamp, projections, root, buckets, marks)
    result = numbered
    for _, frame in joined:
        result = result.join(frame, ROW, "left")
    drop = [c for c in result.columns if c.startswith((f"{MARK}:", f"{TIES}:"))]
    return result.orderBy(ROW).drop(ROW, *drop)


def point_in_time_table(
    spark: SparkSession,
    spine: DataFrame,
    timestamp: str,
    projections: Sequence[Projection],
    root: Path,
    buckets: int = 4,
    marks: bool = False,
) -> pa.Table:
    """What `point_in_time_join` gives, in this process: the features are put in order here, which spares Spark a join and a sort per view."""
    numbered, joined = _joined(spark, spine, timestamp, projections, root, buckets, marks)
    result = numbered.toArrow()
    row = result[ROW].to_numpy()
    order = np.argsort(row, kind="stable")
    drop = [c for c in result.column_names if c == ROW or c.startswith((f"{MARK}:", f"{TIES}:"))]
    result, row = result.take(pa.array(order)).drop_columns(drop), row[order]
    for columns, frame in joined:
        features = frame.toArrow()
        place = np.empty(len(row), dtype=np.int64)
        place[np.searchsorted(row, features[ROW].to_numpy())] = np.arange(len(row))
        features = features.take(pa.array(place))
        for name in columns:
            result = result.append_column(name, features[name])
    numbered.unpersist()
    return result


def _joined(
    spark: SparkSession, spine: DataFrame, timestamp: str, projections: Sequence[Projection], root: Path, buckets: int, marks: bool
) -> tuple[DataFrame, list[tuple[list[str], DataFrame]]]:
    """The spine with row ids, and per projection its columns and a frame of row id and features, every example once."""
    from pyspark.sql import functions as F

    check_spine(spine.columns, projections)
    numbered = spine.withColumn(ROW, F.monotonically_increasing_id()).persist()
    at = F.unix_micros(F.col(timestamp))
    first, last, missing = numbered.select(F.min(at), F.max(at), F.sum(F.col(timestamp).isNull().cast("int"))).first() or (None, None, 0)
    if missing:
        raise JoinError(f"{missing} examples have no {timestamp}")
    found = []
    for projection in projections:
        view = projection.view
        reach = max(view.reach_us, view.ttl_us)
        events = read_events(spark, view, root, None if first is None or not reach else first - reach, last)
        events = unfit.leave_out_on_spark(view, table_path(view, root), events)
        keys = projection.spine_keys
        types = {k.name: SQL_TYPES[k.dtype] for k in view.keys}
        # a key that its type cannot hold is no entity's: nothing is known of it
        typed = [F.col(c).try_cast(types[k]).alias(c) for c, k in zip(keys, view.key_names, strict=True)]
        cut = [F.col(f"{MARK}:{projection.alias}").alias(MARK), F.col(f"{TIES}:{projection.alias}").alias(TIES)] if marks else []
        left = numbered.select(ROW, at.alias(AT), *typed, *cut)
        left = left.withColumn(BUCKET, F.pmod(F.hash(*keys), F.lit(buckets)))
        right = events.withColumn(BUCKET, F.pmod(F.hash(*view.key_names), F.lit(buckets)))
        columns = _columns(projection, marks)
        schema = ", ".join([f"{ROW} bigint", *(f"`{c}` {t}" for c, t in columns.items())])
        frame = left.groupBy(BUCKET).cogroup(right.groupBy(BUCKET)).applyInArrow(_bucket_function(projection, list(columns)), schema)
        found.append((list(columns), frame))
    return numbered, found


def feature_types(projections: Sequence[Projection]) -> dict[str, Feature]:
    """Every output column with its feature."""
    return {column_name(p.alias, f.name): f for p in projections for n in p.features for f in p.view.features if f.name == n}
