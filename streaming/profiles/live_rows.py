"""Rows that have come live and lie on the event stream: a profile needs no state of its own to know of what no table has yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feature_repo.records.redis_keys import events_key
from streaming import clock
from streaming.aggregation.windows import HASHED
from streaming.clock import TOLERANCE_S
from streaming.live import event_log, events
from streaming.schema.columns import EVENT, KNOWN, microseconds
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis

MOST = 300_000
"""Of a stream with more entries nothing is read: it would take longer than the next look is away."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """
    Attributes:
        table: rows of one table's push source that fit all views of it, with the columns that these read, by their names in the views.
        known_us: when each became known, int64 [n].
    """

    table: pa.Table
    known_us: np.ndarray

    def later(self, than_us: int) -> Live:
        """Those that became known after a moment: a table whose rows are known up to then has the others."""
        hit = self.known_us > than_us
        return Live(self.table.filter(hit), self.known_us[hit])

    def gap_us(self, after_us: int) -> int:
        """For how long nothing is known, between a table's newest row and the oldest event that is still on the stream."""
        return max(int(self.known_us.min()) - after_us, 0)


def read_live(client: redis.Redis, views: Sequence[View], tolerance_s: float = TOLERANCE_S) -> dict[str, Live]:
    """By table, what is on the event stream of its push source, applied or not. Tables without live events are left out.

    Args:
        tolerance_s: how far ahead of the clock an event may be dated.
    """
    fed: dict[str, dict[str, list[View]]] = {}
    for view in views:
        if view.stream:
            fed.setdefault(view.stream, {}).setdefault(view.path, []).append(view)
    if not fed:
        return {}
    key = events_key(views[0].project)
    total: Any = client.xlen(key)
    if total > MOST:
        log.warning("the event stream has %s entries: what is odd about a source is told from its table alone", f"{total:,}")
        return {}
    parts: dict[str, list[pa.Table]] = {}
    for batch in event_log.entries(client, key, "0-0", "+"):
        ms, source, data = (batch[name].to_pylist() for name in ("ms", "source", "data"))
        latest = clock.latest_us(ms, tolerance_s)
        for stream, tables in fed.items():
            some = [i for i, name in enumerate(source) if name == stream]
            for path, own in tables.items():
                if some:
                    parts.setdefault(path, []).append(_rows(own, [data[i] for i in some], [latest[i] for i in some]))
    found = {path: pa.concat_tables(tables) for path, tables in parts.items()}
    return {path: Live(table.drop_columns([KNOWN]), microseconds(table[KNOWN])) for path, table in found.items() if table.num_rows}


def _rows(views: Sequence[View], data: Sequence[bytes], latest_us: Sequence[int]) -> pa.Table:
    """Events that fit every view, with the columns of all of them and `__known`."""
    decoded = [(view, *events.decode(view, data, range(len(data)), latest_us)[:2]) for view in views]
    common = set(range(len(data))).intersection(*(kept for _, _, kept in decoded))
    columns: dict[str, Any] = {}
    for view, table, kept in decoded:
        fitting = table.filter(np.isin(kept, list(common)))
        named: Mapping[str, str] = {view.timestamp: EVENT, **({view.created: KNOWN} if view.created else {})}
        for name, ours in named.items():
            columns[name] = fitting[ours].cast(pa.timestamp("us", "UTC"))
        columns |= {
            name: fitting[name] for name in table.column_names if name not in columns and not name.startswith((EVENT, KNOWN, HASHED))
        }
        columns[KNOWN] = fitting[KNOWN]
    return pa.table(columns)


def fit(table: pa.Table, like: pa.Schema) -> pa.Table:
    """Live rows with the types that their table has, as far as their values allow it."""
    for place, field in enumerate(table.schema):
        wanted = like.field(field.name).type if field.name in like.names else field.type
        if wanted != field.type:
            try:
                table = table.set_column(place, field.name, table[field.name].cast(wanted))
            except pa.ArrowException:  # nested, or another kind altogether
                continue
    return table
