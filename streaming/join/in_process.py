"""The point-in-time join in this process. Where tables and examples fit into memory, this is faster than Spark: nothing is shuffled.

It is the same arithmetic on the same arrays as the join on Spark (`join_bucket`). Each table is read once for all views that are made of
it, and the views are joined at the same time, in threads (NumPy lets other threads run while it works).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregation.sketches import hashed
from streaming.aggregation.windows import HASHED
from streaming.join.on_spark import JoinError, check_spine, join_bucket
from streaming.offline import unfit
from streaming.offline.footers import day_of, extent
from streaming.offline.parquet import TableError, dataset, table_path
from streaming.schema.columns import ARROW_TYPES, AT, EVENT, HIDDEN, KNOWN, MARK, NOW, TIES, column_name
from streaming.schema.feature_view import Projection, View

Bounds = tuple[int | None, int | None]


class NotHere(Exception):
    """This join has to be done on Spark: it is too large, or Arrow reads a table otherwise than Spark does. Says why."""


def gather(
    spine: pa.Table, timestamp: str, projections: Sequence[Projection], root: Path, limit: int, marks: bool = False, threads: int = 2
) -> pa.Table:
    """Join every projection's features to the spine as of each example's moment.

    Args:
        spine: the examples with their entity columns and any others; kept as they are, in their order.
        timestamp, projections, root, marks: as for `point_in_time_join`.
        limit: rows, of examples or of a table, beyond which it is a join for Spark.

    Returns:
        What `point_in_time_join` gives, as an Arrow table.

    Raises:
        NotHere: too large, or not readable here.
        JoinError: a column or table is missing, or an example has no moment.

    Notes:
        Rows that a view cannot hold are left out, which is said in the log (`streaming.offline.unfit`), as on Spark.
    """
    check_spine(spine.column_names, projections)
    if spine.num_rows > limit:
        raise NotHere(f"{spine.num_rows:,} examples")
    if spine[timestamp].null_count:
        raise JoinError(f"{spine[timestamp].null_count} examples have no {timestamp}")
    at = _microseconds(spine[timestamp])
    tables = _read(projections, root, limit, (pc.min(at).as_py(), pc.max(at).as_py()))

    def one(projection: Projection) -> list[pa.Array]:
        view = projection.view
        keys = {}
        for column, key in zip(projection.spine_keys, view.keys, strict=True):
            keys[column] = _cast(spine[column], ARROW_TYPES[key.dtype], f"the spine's {column}")
        cut = {MARK: spine[f"{MARK}:{projection.alias}"], TIES: spine[f"{TIES}:{projection.alias}"]} if marks else {}
        path = table_path(view, root)
        events = _events(view, path, tables[path], _bounds(projection, at))
        return join_bucket(view, projection.features, pa.table(keys | {AT: at} | cut), projection.spine_keys, events)

    with ThreadPoolExecutor(threads) as pool:
        joined = list(pool.map(one, projections))
    drop = [c for c in spine.column_names if c.startswith((f"{MARK}:", f"{TIES}:"))]
    result = spine.drop_columns(drop) if drop else spine
    for projection, arrays in zip(projections, joined, strict=True):
        names = [column_name(projection.alias, n) for n in projection.features]
        if marks:
            names += [NOW + n for n in names] + [HIDDEN + projection.alias]
        for name, array in zip(names, arrays, strict=True):
            result = result.append_column(name, array)
    return result


def read_events_here(view: View, root: Path, from_us: int | None, upto_us: int | None) -> pa.Table:
    """`on_spark.read_events` without Spark.

    Raises:
        NotHere: Arrow does not read the table as Spark does.
        JoinError: the table or a column is missing.
    """
    whole = Projection(view, view.name, tuple(f.name for f in view.features), ())
    path = table_path(view, root)
    table = _read([whole], root, 2**62, (None if from_us is None else from_us + max(view.reach_us, view.ttl_us), upto_us))
    try:
        return _events(view, path, table[path], (from_us, upto_us))
    except pa.ArrowException as error:
        raise NotHere(f"Arrow cannot read {path}: {error}") from None


def _bounds(projection: Projection, at: Any) -> Bounds:
    """Event times that any example can see of a view, inclusive."""
    view = projection.view
    first, last = pc.min(at).as_py(), pc.max(at).as_py()
    reach = max(view.reach_us, view.ttl_us)
    return (None if first is None or not reach else first - reach, last)


def _read(projections: Sequence[Projection], root: Path, limit: int, span: Bounds) -> dict[str, pa.Table]:
    """Each table once: the columns that any view needs, of the days that any view reaches."""
    by_path: dict[str, list[Projection]] = defaultdict(list)
    for projection in projections:
        by_path[table_path(projection.view, root)].append(projection)
    found = {}
    for path, using in by_path.items():
        reaches = [max(p.view.reach_us, p.view.ttl_us) for p in using]
        first = None if span[0] is None or not all(reaches) else span[0] - max(reaches)
        view = using[0].view
        try:
            size = extent(view, root, first, span[1])
            if size.rows > limit:
                raise NotHere(f"{size.rows:,} rows in {path}")
            files = dataset(path)
        except TableError as error:
            raise JoinError(f"feature view {view.name!r}: {error}") from error
        except (pa.ArrowException, OSError) as error:
            raise NotHere(f"Arrow cannot read {path}: {error}") from None
        wanted = dict.fromkeys(c for p in using for c in _source_columns(p.view))
        for p in using:
            absent = [c for c in _source_columns(p.view) if c not in files.schema.names]
            if absent:
                raise JoinError(f"feature view {p.view.name!r}: its table {path} has no column {', '.join(absent)}")
        try:
            found[path] = files.to_table(columns=list(wanted), filter=_days(files.schema, first, span[1]))
        except (pa.ArrowException, OSError) as error:
            raise NotHere(f"Arrow cannot read {path}: {error}") from None
    return found


def _days(schema: pa.Schema, first: int | None, last: int | None) -> Any:
    if "day" not in schema.names:
        return None
    day, chosen = pc.field("day").cast(pa.string()), None
    for us, above in ((first, True), (last, False)):
        if us is not None:
            bound = day_of(us).isoformat()
            part = day >= bound if above else day <= bound
            chosen = part if chosen is None else chosen & part
    return chosen


def _source_columns(view: View) -> list[str]:
    backwards = {name: source for source, name in view.mapping}
    names: Iterable[str] = [*view.key_names, *view.source_columns, view.timestamp, *([view.created] if view.created else [])]
    return list(dict.fromkeys(backwards.get(n, n) for n in names))


def _events(view: View, path: str, table: pa.Table, bounds: Bounds) -> pa.Table:
    """The events that the view can hold, of those within bounds."""
    backwards = {name: source for source, name in view.mapping}
    types = {f.name: ARROW_TYPES[f.dtype] for f in (*view.features, *view.keys)}
    if view.layout:
        types |= dict.fromkeys(view.columns, pa.float64())

    def source(name: str) -> pa.ChunkedArray:
        return table[backwards.get(name, name)]

    event = _microseconds(source(view.timestamp))
    known = pc.coalesce(_microseconds(source(view.created)), event) if view.created else event
    columns = {}
    for c in dict.fromkeys([*view.key_names, *view.columns]):
        if c.startswith(HASHED):
            hashes = hashed(source(c.removeprefix(HASHED)))
            columns[c] = pa.array(hashes, mask=hashes < 0)
        else:
            columns[c] = _cast(source(c), types[c], f"feature view {view.name!r}, column {c}")
    events = pa.table(columns | {EVENT: event, KNOWN: known})
    chosen = pc.is_valid(events[EVENT])
    for us, inside in ((bounds[0], pc.greater_equal), (bounds[1], pc.less_equal)):
        if us is not None:
            chosen = pc.and_(chosen, pc.fill_null(inside(events[EVENT], us), False))
    if not pc.all(chosen).as_py():
        events = events.filter(chosen)
    return unfit.leave_out(view, path, events)


def _microseconds(column: pa.ChunkedArray) -> Any:
    if not pa.types.is_timestamp(column.type):
        raise NotHere(f"a moment of type {column.type}")
    return column.cast(pa.timestamp("us", "UTC"), safe=column.type.unit != "ns").cast(pa.int64())


def _cast(column: pa.ChunkedArray, dtype: pa.DataType, where: str) -> pa.ChunkedArray:
    """Casts only to a wider type. Everything else is cast by Spark, by rules of its own."""
    if column.type == dtype:
        return column
    numbers = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
    widening = (
        (pa.types.is_floating(dtype) and (numbers or pa.types.is_floating(column.type)) and dtype.bit_width >= 64)
        or (pa.types.is_integer(dtype) and pa.types.is_integer(column.type) and dtype.bit_width >= column.type.bit_width)
        or (pa.types.is_list(dtype) and pa.types.is_list(column.type) and column.type.value_type == dtype.value_type)
        or (pa.types.is_string(dtype) and (pa.types.is_large_string(column.type) or pa.types.is_dictionary(column.type)))
        or (pa.types.is_timestamp(dtype) and pa.types.is_timestamp(column.type) and column.type.unit in ("s", "ms", "us"))
    )
    if not widening:
        raise NotHere(f"{where} is {column.type}, not {dtype}")
    try:
        return column.cast(dtype, safe=not pa.types.is_floating(dtype))
    except pa.ArrowInvalid as error:
        raise NotHere(f"{where}: {error}") from None
