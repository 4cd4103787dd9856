"""Rows that break what a use case declares of its tables (`feature_repo.spec.expectations`).

Whoever breaks a declaration is at fault, and that is proof. But a declaration that was always broken, as often as now, or by one row of
thousands, explains no drift: a violation says by what share of the rows more it is broken than in the time that says what is usual.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.cause import cause_of
from streaming.profiles.violation import Violation

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Breach:
    """
    Attributes:
        places: rows of the table that break it, ascending; None: it concerns the table as a whole, such as a column that is not there.
        values: of these rows, as far as they are known.
    """

    places: list[int] | None
    values: list[Any]


def breaches(schema: Any, table: pa.Table) -> dict[tuple[str, str], Breach]:
    """What a table breaks, by column (empty: of rows as a whole) and check.

    Args:
        schema: of Pandera. It changes nothing, also where it says `drop_invalid_rows` or `coerce`.
    """
    from pandera.errors import SchemaErrorReason, SchemaErrors

    frame = table.to_pandas()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas' on Pandera's own frames
            _fitting(schema, table).validate(frame, lazy=True)
    except SchemaErrors as broken:
        found: dict[tuple[str, str], Breach] = {}
        for one in broken.schema_errors:
            name = str(getattr(one, "column_name", None) or getattr(one.schema, "name", None) or "")
            if one.reason_code == SchemaErrorReason.CHECK_ERROR:  # who wrote the check is at fault, not the source
                log.warning("the check %s of %s cannot be run: %s", _named(one.check), name, one.failure_cases)
                continue
            cases = one.failure_cases
            if not hasattr(cases, "columns"):
                found[name or str(cases), _named(one.check)] = Breach(None, [cases])
            elif "index" not in cases or cases["index"].isna().all():
                found[name, _named(one.check)] = Breach(None, cases["failure_case"].tolist()[:EXAMPLES])
            else:
                first = cases.dropna(subset="index").drop_duplicates("index").sort_values("index")
                found[name, _named(one.check)] = Breach([int(i) for i in first["index"]], first["failure_case"].tolist())
        return found
    return {}


def _named(check: Any) -> str:
    return str(getattr(check, "error", None) or getattr(check, "name", None) or check)


def _fitting(schema: Any, table: pa.Table) -> Any:
    """The schema as it fits a table of the store: it drops no row, and a whole number may be null (pandas makes it a float then)."""
    import copy

    import pyarrow as pa

    fitting = copy.deepcopy(schema)
    fitting.drop_invalid_rows = False
    for name, column in fitting.columns.items():
        column.drop_invalid_rows = False
        field = table.schema.field(name) if name in table.column_names else None
        if field is not None and table[name].null_count and (pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)):
            column.dtype = None
    return fitting


def partial(schema: Any, table: pa.Table) -> Any:
    """What of a schema can be asked of rows that lack columns: they came live, with what views read and no more."""
    import copy

    known = copy.deepcopy(schema)
    missing = [name for name in known.columns if name not in table.column_names]
    if missing:
        known = known.remove_columns(missing)
        known.checks = []
        known.unique = None
    known.strict = known.ordered = False
    return known


def find_broken(
    source: str, schema: Any, table: pa.Table, before: pa.Table, at_us: np.ndarray, keys: list[str], from_us: int
) -> list[Violation]:
    """What a table breaks since a moment of what is declared of it.

    Args:
        before: rows of the time that says what is usual. It is only looked at where something is broken.
        at_us: of the table's rows, when they happened, int64 [n].
        keys: its join keys.
    """
    recent = table.filter(at_us >= from_us)
    moments = at_us[at_us >= from_us]
    try:
        found = breaches(schema, recent) if recent.num_rows else {}
        usual = breaches(schema, before) if found and before.num_rows else {}
    except Exception as error:  # whatever a stranger's schema raises
        log.warning("what is declared of %s cannot be held against it: %s", source, cause_of(error))
        return []
    return [
        _violation(source, which, one, recent, moments, keys, from_us, _share(usual.get(which), before.num_rows))
        for which, one in found.items()
    ]


def _share(breach: Breach | None, rows: int) -> float:
    if breach is None:
        return 0.0
    return 1.0 if breach.places is None else len(breach.places) / max(rows, 1)


# wide: what one check found of one column
def _violation(
    source: str, which: tuple[str, str], one: Breach, table: pa.Table, moments: np.ndarray, keys: list[str], from_us: int, usual: float
) -> Violation:
    column, check = which
    of = column or "its rows"
    if one.places is None:
        text = f"what is declared of {of} does not hold: {check} ({', '.join(str(v) for v in one.values)})"
        return Violation(source, "expectation", column, from_us, text, [], proof=True, share=1.0 - usual)
    share = len(one.places) / table.num_rows
    before = f" ({share:.2%}, where {usual:.2%} did before)" if usual else ""
    text = f"{len(one.places):,} of {table.num_rows:,} rows break what is declared of {of}: {check}{before}"
    newest = one.places[-EXAMPLES:]
    values: Mapping[int, Any] = dict(zip(one.places, one.values, strict=True))
    rows = []
    for place in newest:
        named = ", ".join(f"{key} {table[key][place].as_py()}" for key in keys if key in table.column_names)
        rows.append(f"{np.datetime64(int(moments[place]), 'us').astype('datetime64[s]')}Z, {named}, {column or 'value'} = {values[place]}")
    return Violation(source, "expectation", column, int(moments[one.places].min()), text, rows, proof=True, share=max(share - usual, 0.0))
