"""The hours of an archived table: `day=YYYY-MM-DD/HH.parquet` (UTC), each replaced as a whole, and a broken one costs that hour only."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from infra import files
from streaming.offline.archive_rows import PREDICTION, TRUTH
from streaming.offline.footers import day_of
from streaming.offline.parquet import checked

HOUR_US = 3_600_000_000
BROKEN = (pa.ArrowException, OSError)
"""What reading a file raises that is none."""
log = logging.getLogger(__name__)


def path_of(folder: Path, hour: int) -> Path:
    """Where an hour lies, counted since the epoch."""
    return folder / f"day={day_of(hour * HOUR_US).isoformat()}" / f"{hour % 24:02}.parquet"


def paths(folder: Path, from_us: int | None = None, upto_us: int | None = None) -> list[Path]:
    """The hours there are, oldest first: those of the days from one moment to another."""
    found = sorted(folder.glob("day=*/*.parquet"))
    first, last = (None if us is None else day_of(us).isoformat() for us in (from_us, upto_us))
    return [f for f in found if (not first or f.parent.name[4:] >= first) and (not last or f.parent.name[4:] <= last)]


def add(path: Path, rows: pa.Table) -> int:
    """Add rows that the file does not hold: predictions by their id, truths by all they say. Returns how many were new."""
    table = _first(rows)
    before = None
    if path.exists():
        try:
            before = _checked(path, TRUTH if "known_at" in rows.column_names else PREDICTION)
        except BROKEN as error:  # an hour that cannot be read is lost; what comes in is not
            files.put_aside(path, f"{path} cannot be read ({_first_line(error)})", hidden=True)
    if before is not None:
        table = table.filter(pc.invert(pc.is_in(_identity(table), _identity(before))))
        if not table.num_rows:
            return 0
    merged = table if before is None else _together(before, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        pq.write_table(merged, partial, compression="zstd", write_page_checksum=True)
    return int(table.num_rows)


def read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table | None:
    """An hour; None where it cannot be read, which is said.

    Args:
        schema: the columns that every hour of its table has.
    """
    try:
        return _checked(path, schema, columns)
    except BROKEN as error:
        log.warning("%s cannot be read and is left out (%s): put it back from a copy, or move it away", path, _first_line(error))
        return None


def table(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    """Hours as one table of all their columns, or those wanted that there are; what cannot be read is left out.

    Args:
        schema: the columns that every hour has.
    """
    try:
        return _table(paths, schema, columns)
    except BROKEN:
        return _table([path for path in paths if read(path, schema) is not None], schema, columns, every=True)


def _table(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str] | None, every: bool = False) -> pa.Table:
    if not paths:
        return schema.empty_table()
    # where only some columns are wanted, those of the ends will do: a file that lacks one has nulls there
    schemas = [_sound(pq.read_schema(path), schema) for path in (paths if every or columns is None else [paths[0], paths[-1]])]
    unified = _unified(schemas)
    wanted = None if columns is None else [c for c in dict.fromkeys(columns) if c in unified.names]
    return ds.dataset(list(paths), schema=unified, format=checked()).to_table(columns=wanted)


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for all: a column that has types which do not go together is text. (Versions may ask for a field of one name differently.)"""
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        types: dict[str, set[pa.DataType]] = {}
        for field in (field for schema in schemas for field in schema):
            types.setdefault(field.name, set()).add(field.type)
        return pa.schema([(name, _promoted(some)) for name, some in types.items()])


def _promoted(types: Collection[pa.DataType]) -> pa.DataType:
    try:
        return pa.unify_schemas([pa.schema([("one", dtype)]) for dtype in types], promote_options="permissive").field("one").type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.string()


def _together(before: pa.Table, table: pa.Table) -> pa.Table:
    wanted = _unified([before.schema, table.schema])
    parts = [t.cast(pa.schema([wanted.field(name) for name in t.column_names]), safe=False) for t in (before, table)]
    return pa.concat_tables(parts, promote_options="permissive")


def _sound(found: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    """
    Raises:
        pa.ArrowInvalid: an hour lacks a column that every one has, or has it of another type.
    """
    for one in wanted:
        if one.name not in found.names or found.field(one.name).type != one.type:
            raise pa.ArrowInvalid(f"it has no column {one.name!r} of type {one.type}")
    return found


def _checked(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """
    Raises:
        pa.ArrowException, OSError: it is not as it was written: its pages carry checksums.
    """
    _sound(pq.read_schema(path), schema)
    return pq.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _identity(table: pa.Table) -> pa.Array:
    """What makes a row the same as another: a prediction's id; of a truth everything it says."""
    if "known_at" not in table.column_names:
        return table["prediction_id"].combine_chunks()
    columns = (table[name].cast(pa.int64()).cast(pa.string()) for name in ("label", "known_at"))
    return pc.binary_join_element_wise(table["prediction_id"], *columns, " ").combine_chunks()


def _first(table: pa.Table) -> pa.Table:
    """The first of rows that are the same."""
    _, rows = np.unique(_identity(table).to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return table if len(rows) == table.num_rows else table.take(pa.array(np.sort(rows)))
