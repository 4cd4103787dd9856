"""The profiles of a use case's tables, and what violates them between two moments. Read from the offline store when it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.cause import cause_of
from streaming.offline import parquet
from streaming.profiles.facts import DAY_US, Rows
from streaming.profiles.unusual import FEWEST, find_unusual
from streaming.profiles.violation import Violation

if TYPE_CHECKING:
    import pyarrow as pa

    from streaming.schema.feature_view import View

MOST = 3_000_000
"""Rows of a table that are looked at, at most: a larger one is thinned by whole keys."""
EXAMPLES = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """
    Attributes:
        profiled: tables whose past is long enough to say what is usual.
    """

    violations: list[Violation]
    profiled: frozenset[str]


@dataclass(frozen=True)
class Usual:
    """The time that says what is usual: what a model was trained on.

    Attributes:
        root: an offline store that has it; None: the one that is looked at.
    """

    from_us: int
    upto_us: int
    root: Path | None = None


# wide: what is looked at, and what is known of it
def violations(
    views: Sequence[View],
    root: Path,
    from_us: int,
    upto_us: int,
    usual: Usual,
    expectations: Mapping[str, Any] | None = None,
    served: Mapping[str, int] | None = None,
) -> Looked:
    """What the tables of some views did between two moments that they usually do not, or must not.

    Args:
        root: of the offline store.
        expectations: Pandera schemas by table (the last part of its path).
        served: by table, what became known last of what was served of it, microseconds.
    """
    tables: dict[str, tuple[View, pa.Table, Rows]] = {}
    found: list[Violation] = []
    profiled = set()
    for view in {view.path: view for view in views}.values():
        try:
            before = rows_of(view, _read(view, usual.root or root, usual.from_us, min(usual.upto_us, from_us)))
            tables[view.path] = (view, _read(view, root, from_us - DAY_US, upto_us), before)
        except (parquet.TableError, OSError, ValueError, KeyError) as error:
            log.warning("the profile of %s cannot be read: %s", view.path, cause_of(error))
    alive = {path: _newest(view, table) for path, (view, table, _) in tables.items()}
    for path, (view, table, before) in tables.items():
        others = [us for other, us in alive.items() if other != path]
        if len(before) and before.at_us[-1] - before.at_us[0] >= FEWEST * DAY_US:
            profiled.add(path)
        found += find_unusual(
            path, before, rows_of(view, table), from_us, upto_us, max(others, default=from_us), (served or {}).get(path, 0)
        )
        schema = (expectations or {}).get(Path(path).name)
        if schema is not None:
            found += declared(path, view, table, from_us, schema)
    return Looked(found, frozenset(profiled))


def newest(views: Sequence[View], root: Path) -> dict[str, int]:
    """By table, up to when its rows are known, microseconds; tables that cannot be read are left out."""
    from streaming.offline.footers import extent

    found = {}
    for view in {view.path: view for view in views}.values():
        try:
            known = extent(view, root, None, None).known_us
        except parquet.TableError as error:
            log.warning("%s", error)
            continue
        if known is not None:
            found[view.path] = known
    return found


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


def _newest(view: View, table: pa.Table) -> int:
    return int(_moments(table, view.timestamp).max(initial=0))


def _moments(table: pa.Table, name: str) -> np.ndarray:
    import pyarrow as pa

    column = table[name].cast(pa.timestamp("us", table.schema.field(name).type.tz), safe=False).cast(pa.int64())
    return np.asarray(column.fill_null(0).to_numpy(), dtype=np.int64)


def rows_of(view: View, table: pa.Table) -> Rows:
    """A table's rows as a profile reads them: numbers of the view's own columns; keys as numbers."""
    import pandas as pd
    import pyarrow as pa

    at = _moments(table, view.timestamp)
    known = _moments(table, view.created) if view.created else at
    parts = [pd.util.hash_array(table[k].to_pandas().to_numpy(), categorize=True).astype(np.int64) for k in view.key_names]
    key = np.bitwise_xor.reduce(parts) if parts else np.zeros(len(at), dtype=np.int64)
    keep = np.arange(len(at)) if len(at) <= MOST else np.flatnonzero(np.abs(key) % (len(at) // MOST + 1) == 0)
    order = keep[np.argsort(at[keep], kind="stable")]
    used = {view.timestamp, view.created, *view.key_names, "day"}
    columns = {}
    for field in table.schema:
        if field.name not in used and (
            pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)
        ):
            values = (
                table[field.name].cast(pa.float64(), safe=False)
                if not pa.types.is_boolean(field.type)
                else table[field.name].cast(pa.int8()).cast(pa.float64())
            )
            columns[field.name] = np.asarray(values.to_numpy(), dtype=np.float64)[order]
    return Rows(at[order], known[order], key[order], columns)


def declared(source: str, view: View, table: pa.Table, from_us: int, schema: Any) -> list[Violation]:
    """Rows since a moment that break what was declared of their table."""
    import pandera.errors

    recent = table.filter(np.asarray(_moments(table, view.timestamp) >= from_us))
    frame = recent.to_pandas()
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as broken:
        cases = broken.failure_cases
        found = []
        for (check, column), some in cases.groupby(["check", "column"], dropna=False):
            places = [int(i) for i in some["index"].dropna().tolist()[:EXAMPLES]]
            moments = [str(frame[view.timestamp].iloc[i]) for i in places]
            keys = [", ".join(f"{k} {frame[k].iloc[i]}" for k in view.key_names) for i in places]
            shown = [f"{m}, {k}, {column} = {v}" for m, k, v in zip(moments, keys, some["failure_case"].tolist(), strict=False)]
            since = int(_moments(recent, view.timestamp)[places].min()) if places else from_us
            text = f"{len(some):,} of {len(frame):,} rows break what is declared of {column}: {check}"
            found.append(Violation(source, "expectation", str(column), since, text, shown, proof=True))
        return found
    return []
