"""The profiles of a use case's tables, and what violates them between two moments. Read from the offline store when it is asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.cause import cause_of
from streaming.offline import parquet
from streaming.offline.footers import extent
from streaming.profiles.declarations import Declared, find_broken, partial
from streaming.profiles.facts import DAY_US, Moments, Rows, joined, without_strays
from streaming.profiles.lasting import find_lasting
from streaming.profiles.live_rows import Live, fit
from streaming.profiles.unusual import alive_until, find_unusual, has_past
from streaming.profiles.violation import Violation

if TYPE_CHECKING:
    import pyarrow as pa

    from streaming.schema.feature_view import View

MOST = 3_000_000
"""Rows of a table that are looked at, at most: of a larger one every so many, the same ones of one key and moment."""
COUNTS = {"count", "count_distinct"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """
    Attributes:
        profiled: tables whose past is long enough to say what is usual.
        unreadable: tables of which nothing can be said, and why.
    """

    violations: list[Violation]
    profiled: frozenset[str]
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usual:
    """The time that says what is usual: what a model was trained on.

    Attributes:
        root: an offline store that has it; None: the one that is looked at.
        begins: earlier beginnings of what is looked at, where a unit that lasts is told from, too (`streaming.profiles.lasting`).
    """

    from_us: int
    upto_us: int
    root: Path | None = None
    begins: tuple[int, ...] = ()


# wide: what is looked at, and what is known of it
def violations(
    views: Sequence[View],
    root: Path,
    from_us: int,
    upto_us: int,
    usual: Usual,
    expectations: Mapping[str, Any] | None = None,
    served: Mapping[str, int] | None = None,
    live: Mapping[str, Live] | None = None,
) -> Looked:
    """What the tables of some views did between two moments that they usually do not, or must not.

    Args:
        root: of the offline store.
        expectations: Pandera schemas by table (the last part of its path).
        served: by table, what became known last of what was served of it, microseconds.
        live: by table, what lies on the event stream (`read_live`).
    """
    tables = {}
    found: list[Violation] = []
    profiled = set()
    unreadable = {}
    for path, (view, columns) in _sources(views).items():
        try:
            tables[path] = _Table.of(view, columns, root, (from_us, upto_us), usual, (live or {}).get(path))
        except Exception as error:  # a stranger's table may hold anything, and costs its own word only
            unreadable[path] = cause_of(error)
    for path, one in tables.items():
        alive = [other.alive_us(one.live is None, (served or {}).get(name)) for name, other in tables.items() if name != path]
        try:
            served_us = (served or {}).get(path, 0)
            mine = find_unusual(path, one.before, one.rows, one.whole_from_us, upto_us, max(alive, default=from_us), served_us)
            told = {v.column for v in mine if v.kind == "unit"}
            lasting = find_lasting(path, one.before, one.rows, (from_us, upto_us), usual.begins)
            units = {v.column: v for v in lasting if v.column not in told}
            mine = [v for v in mine if v.kind != "level" or v.column not in units] + list(units.values())
            found += mine + one.broken((expectations or {}).get(Path(path).name), from_us)
        except Exception as error:  # as above
            unreadable[path] = cause_of(error)
            continue
        if has_past(one.before):
            profiled.add(path)
    for path, why in unreadable.items():
        log.warning("the profile of %s cannot be read: %s", path, why)
    return Looked(found, frozenset(profiled), unreadable)


def _sources(views: Sequence[View]) -> dict[str, tuple[View, frozenset[str]]]:
    """By table, a view of it, and the columns whose values its views go by."""
    found: dict[str, tuple[View, frozenset[str]]] = {}
    for view in views:
        before = found[view.path][1] if view.path in found else frozenset()
        found[view.path] = (view, before | _by_value(view))
    return found


def _by_value(view: View) -> set[str]:
    """Columns of which the values count: of what is only counted, such as an id that goes on, they do not."""
    if view.layout is None:
        return {feature.name for feature in view.features}
    return {one.column for one in view.layout.aggregations if one.function not in COUNTS}


@dataclass(frozen=True)
class _Table:
    """A table of the store: its rows between the two moments (and a day before), and of the time that says what is usual.

    Attributes:
        live: rows that are on the event stream and not in the table.
        stored, rows: of the table, and of both.
        whole_from_us: no row is missing since then: a table may end before what is still on the stream begins.
    """

    view: View
    table: pa.Table
    past: pa.Table
    live: pa.Table | None
    stored: Rows
    rows: Rows
    before: Rows
    whole_from_us: int

    # wide: where it lies, and when
    @classmethod
    def of(
        cls, view: View, columns: frozenset[str], root: Path, span_us: tuple[int, int], usual: Usual, live: Live | None = None
    ) -> _Table:
        from_us, upto_us = span_us
        past = _read(view, usual.root or root, usual.from_us, min(usual.upto_us, from_us))
        table = _read(view, root, from_us - DAY_US, upto_us)
        more, known_us = None, 0
        if live is not None:
            known_us = known_upto(view, root) or 0
            later = live.later(known_us).table
            at_us = moments_of(later, view.timestamp)
            more = fit(later.filter((at_us >= from_us - DAY_US) & (at_us < upto_us)), table.schema)
        count = table.num_rows + (more.num_rows if more is not None else 0)
        every = max(past.num_rows, count) // MOST + 1  # of both, or their volumes could not be compared
        before, stored = without_strays(rows_of(view, past, columns, every)), rows_of(view, table, columns, every)
        if live is None or more is None or not more.num_rows:
            return cls(view, table, past, None, stored, stored, before, from_us)
        if live.gap_us(known_us) > int(np.diff(before.at_us).max(initial=0)):
            from_us = max(from_us, int(moments_of(more, view.timestamp).min()))
        return cls(view, table, past, more, stored, joined(stored, rows_of(view, more, columns, every)), before, from_us)

    def alive_us(self, stored: bool, served_us: int | None) -> int:
        """Up to when it is known to live.

        Args:
            stored: only by its rows that do not come live: a table that is filled once a day is not dead while others live on.
            served_us: what became known last of what was served of it. Rows that lie there and reached nobody are no sign of life: they may
                be dated ahead, as a forecast is. None: it was not served.
        """
        alive = alive_until(self.before, self.stored if stored else self.rows)
        return alive if served_us is None else min(alive, served_us)

    def broken(self, schema: Any, from_us: int) -> list[Violation]:
        """What it breaks of what is declared of it, if anything is."""
        if schema is None:
            return []
        parts = [Declared(schema, self.table, moments_of(self.table, self.view.timestamp))]
        if self.live is not None:
            parts.append(Declared(partial(schema, self.live), self.live, moments_of(self.live, self.view.timestamp)))
        return find_broken(self.view.path, parts, self.past, self.view.key_names, from_us)


def newest(views: Sequence[View], root: Path) -> dict[str, int]:
    """By table, up to when its rows are known, microseconds; tables that cannot be read are left out."""
    found = {}
    for view in {view.path: view for view in views}.values():
        try:
            known = known_upto(view, root)
        except parquet.TableError as error:
            log.warning("%s", error)
            continue
        if known is not None:
            found[view.path] = known
    return found


def known_upto(view: View, root: Path) -> int | None:
    """Up to when a table's rows are known, microseconds; None: nobody can say. A row that is known only in the future is dated wrongly: it
    would hide all that comes live until then.

    Raises:
        TableError: there is no such table, or it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    newest_us, now_us = extent(view, root, None, None).known_us, time.time_ns() // 1000
    if newest_us is None or newest_us <= now_us:
        return newest_us
    path, name = Path(parquet.table_path(view, root)), _stored(view, view.created or view.timestamp)
    dtype = parquet.schema(str(path)).field(name).type
    known = moments_of(parquet.table(path, [name], pc.field(name) <= pa.scalar(now_us, pa.timestamp("us", "UTC")).cast(dtype)), name)
    return int(known.max()) if len(known) else None


def _read(view: View, root: Path, from_us: int, upto_us: int) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    path = Path(parquet.table_path(view, root))
    at = pc.field(_stored(view, view.timestamp))
    dtype = parquet.schema(str(path)).field(_stored(view, view.timestamp)).type
    first, last = (pa.scalar(us, pa.timestamp("us", "UTC")).cast(dtype) for us in (max(from_us, 0), upto_us))
    table = parquet.table(path, None, (at >= first) & (at < last))
    return table.rename_columns([dict(view.mapping).get(name, name) for name in table.column_names])


def _stored(view: View, name: str) -> str:
    """A column's name in the files."""
    return {shown: stored for stored, shown in view.mapping}.get(name, name)


def moments_of(table: pa.Table, name: str) -> np.ndarray:
    import pyarrow as pa

    column = table[name].cast(pa.timestamp("us", table.schema.field(name).type.tz), safe=False).cast(pa.int64())
    return np.asarray(column.fill_null(0).to_numpy(), dtype=np.int64)


def rows_of(view: View, table: pa.Table, columns: Collection[str], every: int = 1) -> Rows:
    """A table's rows as a profile reads them: columns of numbers; keys as numbers.

    Args:
        columns: that are of interest; one that is not there, or has no numbers, is left out.
        every: one of so many rows is taken.
    """
    import pandas as pd
    import pyarrow as pa

    at = moments_of(table, view.timestamp)
    known = moments_of(table, view.created) if view.created else at
    parts = [pd.util.hash_array(table[k].to_pandas().to_numpy(), categorize=True).astype(np.int64) for k in view.key_names]
    key = np.bitwise_xor.reduce(parts) if parts else np.zeros(len(at), dtype=np.int64)
    keep = np.flatnonzero(_thinned(key, at) % np.uint64(every) == 0) if every > 1 else np.arange(len(at))
    order = keep[np.argsort(at[keep], kind="stable")]
    numbers = {}
    for column in table.schema:
        if column.name not in columns:
            continue
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            numbers[column.name] = np.asarray(table[column.name].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)[order]
        elif pa.types.is_boolean(column.type):
            numbers[column.name] = np.asarray(table[column.name].cast(pa.int8()).cast(pa.float64()).to_numpy(), dtype=np.float64)[order]

    def named(place: int) -> str:
        return ", ".join(f"{k} {table[k][int(order[place])].as_py()}" for k in view.key_names)

    return Rows(at[order], known[order], key[order], numbers, named)


def _thinned(key: Moments, at_us: Moments) -> np.ndarray:
    """A number per key and moment that has nothing to do with either (the multiplier is Knuth's: 2^64 over the golden ratio)."""
    with np.errstate(over="ignore"):
        return (key ^ at_us).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)
