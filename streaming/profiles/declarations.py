"""Rows that break what a use case declares of its tables (`feature_repo.spec.expectations`).

Whoever breaks a declaration is at fault, and that is proof. But a declaration that was always broken, as often as now, or by one row of
thousands, explains no drift: a violation says by what share of the rows more it is broken than in the time that says what is usual.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Declared:
    """Rows of a source, and what is declared of them.

    Attributes:
        schema: of Pandera.
        at_us: when each row happened, int64 [n].
    """

    schema: Any
    table: pa.Table
    at_us: np.ndarray

    def since(self, from_us: int) -> Declared:
        hit = self.at_us >= from_us
        return Declared(self.schema, self.table.filter(hit), self.at_us[hit])


def find_broken(source: str, parts: Sequence[Declared], before: pa.Table, keys: list[str], from_us: int) -> list[Violation]:
    """What a source breaks since a moment of what is declared of it.

    Args:
        parts: its rows, of the table and those that are live only. Shares are of all of them: one live row that is wrong is one of thousands.
        before: rows of the time that says what is usual. It is only looked at where something is broken.
        keys: its join keys.
    """
    recent = [part.since(from_us) for part in parts]
    total = sum(part.table.num_rows for part in recent)
    found: dict[tuple[str, str], list[tuple[Declared, Breach]]] = {}
    try:
        for part in recent:
            for which, one in (breaches(part.schema, part.table) if part.table.num_rows else {}).items():
                found.setdefault(which, []).append((part, one))
        usual = breaches(parts[0].schema, before) if found and before.num_rows else {}
    except Exception as error:  # whatever a stranger's schema raises
        log.warning("what is declared of %s cannot be held against it: %s", source, cause_of(error))
        return []
    return [
        _violation(source, which, broken, total, keys, from_us, _share(usual.get(which), before.num_rows))
        for which, broken in found.items()
    ]


def _share(breach: Breach | None, rows: int) -> float:
    if breach is None:
        return 0.0
    return 1.0 if breach.places is None else len(breach.places) / max(rows, 1)


# wide: what one check found of one column
def _violation(
    source: str, which: tuple[str, str], broken: list[tuple[Declared, Breach]], total: int, keys: list[str], from_us: int, usual: float
) -> Violation:
    column, check = which
    of = column or "its rows"
    count = sum(part.table.num_rows if one.places is None else len(one.places) for part, one in broken)
    share = max(count / total - usual, 0.0)
    whole = next((one for _, one in broken if one.places is None), None)
    if whole is not None:
        text = f"what is declared of {of} does not hold: {check} ({', '.join(str(v) for v in whole.values)})"
        return Violation(source, "expectation", column, from_us, text, [], proof=True, share=share)
    before = f" ({count / total:.2%}, where {usual:.2%} did before)" if usual else ""
    text = f"{count:,} of {total:,} rows break what is declared of {of}: {check}{before}"
    shown: list[tuple[int, str]] = []
    for part, one in broken:
        values: Mapping[int, Any] = dict(zip(one.places or [], one.values, strict=True))
        for place in (one.places or [])[-EXAMPLES:]:
            named = ", ".join(f"{key} {part.table[key][place].as_py()}" for key in keys if key in part.table.column_names)
            at_us = int(part.at_us[place])
            row = f"{np.datetime64(at_us, 'us').astype('datetime64[s]')}Z, {named}, {column or 'value'} = {values[place]}"
            shown.append((at_us, row))
    since_us = min(int(part.at_us[one.places].min()) for part, one in broken)
    rows = [row for _, row in sorted(shown, key=lambda one: one[0])[-EXAMPLES:]]
    return Violation(source, "expectation", column, since_us, text, rows, proof=True, share=share)
