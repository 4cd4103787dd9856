"""What a world drew, as Arrow tables: the raw rows by source, and the requests with their truths; and as Parquet for the offline store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.bench.drift.worlds.definitions import KNOWN, LABEL
from tests.bench.drift.worlds.world import NEVER_KNOWN, Columns, Drawn, Ints, World

US = pa.timestamp("us", "UTC")
EVENT_TIME, KNOWN_TIME, DELIVERED = "event_timestamp", "created_timestamp", "delivered_us"
TYPES = {"Float64": pa.float64(), "Int64": pa.int64(), "String": pa.string()}


@dataclass(frozen=True)
class Tables:
    """
    Attributes:
        rows: source → `event_timestamp`, `created_timestamp`, keys, columns; by known time.
        asked: requests by moment: `event_timestamp`, `id`, keys, `asked_at`, request fields, label and when it became known.
    """

    rows: Mapping[str, pa.Table]
    asked: pa.Table

    def with_rows(self, source: str, rows: pa.Table) -> Tables:
        return replace(self, rows={**self.rows, source: rows})

    def write(self, root: Path) -> None:
        for name, table in self.rows.items():
            write(table, root / name)


def write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part.parquet", compression="none")


def moments(table: pa.Table, name: str = EVENT_TIME) -> Ints:
    """int64 [n], microseconds since the epoch."""
    return np.asarray(table[name].cast(pa.int64()).to_numpy())


def of(world: World, drawn: Drawn, first_id: int = 0) -> Tables:
    rows = {}
    for source in world.sources:
        columns = drawn.rows[source.name]
        made: dict[str, Any] = {
            EVENT_TIME: pa.array(columns["event_us"], US),
            KNOWN_TIME: pa.array(columns["known_us"], US),
        }
        made |= {key: pa.array(columns[key], pa.string()) for key in source.keys}
        made |= {name: _column(columns, name, TYPES[dtype]) for name, dtype in source.columns.items()}
        rows[source.name] = pa.table(made)
    asked, at = drawn.asked, drawn.asked["at_us"]
    known = asked["known_us"]
    never = known == NEVER_KNOWN
    made = {EVENT_TIME: pa.array(at, US), "id": pa.array(np.arange(len(at)) + first_id, pa.int64())}
    made |= {key: pa.array(asked[key], pa.string()) for key in dict.fromkeys(v.key for v in world.views)}
    made["asked_at"] = pa.array(at, US)
    made |= {name: _column(asked, name, TYPES[dtype]) for name, dtype in world.request.items()}
    made[LABEL] = pa.array(asked["label"].astype(np.int64), pa.int64(), mask=never)
    made[KNOWN] = pa.array(known, US, mask=never)
    return Tables(rows, pa.table(made))


def _column(columns: Columns, name: str, dtype: pa.DataType) -> pa.Array:
    values = columns[name]
    mask = np.isnan(values) if values.dtype.kind == "f" else None
    return pa.array(values, mask=mask).cast(dtype)


def part(tables: Tables, from_us: int, upto_us: int, lasting: Mapping[str, bool]) -> Tables:
    """Rows and requests between two moments, [from, upto) by known time; of sources that last for ever, everything before, too."""
    rows = {}
    for name, table in tables.rows.items():
        known = moments(table, KNOWN_TIME)
        rows[name] = table.filter(pa.array((known < upto_us) & ((known >= from_us) | lasting[name])))
    at = moments(tables.asked)
    return Tables(rows, tables.asked.filter(pa.array((at >= from_us) & (at < upto_us))))


def spliced(before: Tables, after: Tables, at_us: int) -> Tables:
    """Rows that were known, and requests that were made, before a moment from one run of the process, and the others from another."""
    rows = {}
    for name, table in before.rows.items():
        old = table.filter(pa.array(moments(table, EVENT_TIME) < at_us))
        new = after.rows[name]
        new = new.filter(pa.array(moments(new, EVENT_TIME) >= at_us))
        rows[name] = pa.concat_tables([old, new])
    old, new = before.asked, after.asked
    old, new = old.filter(pa.array(moments(old) < at_us)), new.filter(pa.array(moments(new) >= at_us))
    asked = pa.concat_tables([old, new])
    return Tables(rows, asked.set_column(asked.column_names.index("id"), "id", pa.array(np.arange(asked.num_rows), pa.int64())))


def replaced(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray, where: np.ndarray) -> pa.Table:
    """A column with other values in some rows, bool [n]; its type stays."""
    column = table[name]
    values = values.cast(column.type, safe=False)
    return table.set_column(table.column_names.index(name), name, pc.if_else(pa.array(where), values, column))
