"""Leakage: no feature at a moment may move when what was not yet known at that moment changes.

For a few moments, every feature is asked for twice: from the tables as they are, and from copies in which every row that was not wholly
known by then is scrambled, dropped, doubled or joined by new ones. What moves has seen the future. "Known" is what the *table* declares
(ingest.yaml), not what a view says of it: that is how a view with the wrong timestamp, or without its created column, is caught. Of a
model's own examples, the label and its moment are known at the label's moment only.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.registry.definitions import service_projections
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from infra.timestamps import moment_at, second_text
from streaming.join.in_process import gather
from streaming.offline import parquet
from streaming.offline.parquet import fault, table_path
from streaming.schema.columns import column_name
from streaming.schema.feature_view import Projection, View, views

if TYPE_CHECKING:
    from infra.settings import Settings

AFTER = timedelta(days=3)
"""How much of the future is copied and scrambled."""
_AT = "event_timestamp"


class LeakageError(ValueError):
    """There is nothing to check: no data, or no examples."""


@dataclass(frozen=True)
class Leak:
    """One feature that saw the future."""

    feature: str
    moment: str
    moved: int
    examples: int
    before: Any
    after: Any


@dataclass
class LeakCheck:
    """
    Attributes:
        features: asked for, over all moments.
        perturbed: rows of each view's table that were not known at the moment and were changed, over all moments.
        untested: views of whose tables no row could be changed, with the reason.
    """

    moments: list[str] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    examples: int = 0
    perturbed: dict[str, int] = field(default_factory=dict)
    untested: dict[str, str] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)

    @property
    def tested(self) -> set[str]:
        """The features that a change of unknown rows could have moved: all but those of views that are `untested`."""
        return {f for f in self.features if f.rpartition("__")[0] not in self.untested}


def find_leaks(
    use_case: UseCase, settings: Settings, moments: int = 3, examples: int = 200, told: Callable[[str], None] = lambda _: None
) -> LeakCheck:
    """Check every model's feature service, on-demand features included, and every applied view.

    Args:
        moments: how many moments per model, spread over its examples.
        examples: how many examples per moment.

    Raises:
        LeakageError: there is nothing to check.
        DefinitionError, JoinError: the definitions cannot be executed.
    """
    compiled = views(use_case.store)
    if not use_case.models:
        raise LeakageError("the use case has no model yet (models/*.yaml), and so no examples to look at")
    found = LeakCheck()
    for spec in use_case.models.values():
        service_projections(use_case.store, spec.feature_service)  # or it says what to apply
        path = settings.offline_root / spec.spine.table
        if why := fault(str(path)):
            raise LeakageError(f"model {spec.name!r}: {why}")
        at = _read(path, [spec.spine.timestamp])[spec.spine.timestamp]
        for quantile in np.linspace(0, 1, moments + 2)[1:-1]:
            moment = pc.quantile(at.cast(pa.int64()), q=[float(quantile)], interpolation="nearest")[0].as_py()
            told(f"{spec.name} at {second_text(moment)}")
            _check_moment(use_case, settings, spec, compiled, int(moment), examples, found)
    for view in compiled.values():
        if view.name not in found.untested and not found.perturbed.get(view.name):
            found.untested[view.name] = "no row of its table was still unknown at any of the moments"
    return found


def _check_moment(
    use_case: UseCase, settings: Settings, spec: ModelSpec, compiled: dict[str, View], moment: int, examples: int, found: LeakCheck
) -> None:
    spine = _nearest(settings.offline_root / spec.spine.table, spec, moment, examples)
    found.moments.append(second_text(moment))
    found.examples += spine.num_rows
    folder = Path(tempfile.mkdtemp(prefix="hr-leakage-"))
    try:
        tables = _tables(use_case, settings, compiled, moment, found)
        for path, (known, mask, moments) in tables.items():
            _write(folder / "true" / path, known)
            _write(folder / "scrambled" / path, _perturb(known, mask, moments, moment))
        true = _features(use_case, spec, compiled, spine, folder / "true")
        scrambled = _features(use_case, spec, compiled, _unknown_label(spine, spec), folder / "scrambled")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, before in true.items():
        found.features.add(name)
        moved = [i for i, (a, b) in enumerate(zip(before, scrambled[name], strict=True)) if not _same(a, b)]
        if moved:
            first = moved[0]
            found.leaks.append(Leak(name, second_text(moment), len(moved), len(before), before[first], scrambled[name][first]))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):  # with NaN in it, a list is not equal to itself
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b or (a != a and b != b))


def _read(path: Path, columns: list[str] | None = None, days: Any = None) -> pa.Table:
    found = parquet.table(path, columns, days)
    for i, one in enumerate(found.schema):
        if pa.types.is_timestamp(one.type):
            found = found.set_column(i, one.name, found[one.name].cast(pa.timestamp("us", "UTC"), safe=False))
    return found


def _nearest(path: Path, spec: ModelSpec, moment: int, examples: int) -> pa.Table:
    """The examples nearest to a moment, asked at that very moment."""
    table = _read(path)
    table = table.drop_columns(["day"]) if "day" in table.column_names else table
    distance = pc.abs(pc.subtract(table[spec.spine.timestamp].cast(pa.int64()), moment))
    table = table.take(pc.sort_indices(distance)[:examples])
    asked = pa.array([moment] * table.num_rows, pa.timestamp("us", "UTC"))
    table = table.drop_columns([spec.spine.timestamp])
    # Feast finds the moment by this name where there is more than one timestamp column
    return (table.drop_columns([_AT]) if _AT in table.column_names else table).append_column(_AT, asked)


def _unknown_label(spine: pa.Table, spec: ModelSpec) -> pa.Table:
    """The same examples with another label and another moment of it: neither is known when the question is asked."""
    random = np.random.default_rng(11)
    for name in (spec.spine.label, spec.spine.label_timestamp):
        place = spine.schema.get_field_index(name)
        spine = spine.set_column(place, name, _scrambled(spine[name], random))
    return spine


def _tables(
    use_case: UseCase, settings: Settings, compiled: dict[str, View], moment: int, found: LeakCheck
) -> dict[str, tuple[pa.Table, Any, list[str]]]:
    """Per table that a view reads: its rows around the moment, which of them were not known by then, and the columns that say so."""
    root, tables = settings.offline_root, {}
    by_path: dict[str, list[View]] = {}
    for view in compiled.values():
        if "://" in view.path or view.path.startswith("/"):
            found.untested[view.name] = f"its table {view.path} lies outside the offline store"
            continue
        by_path.setdefault(view.path, []).append(view)
    for path, using in by_path.items():
        table = _read(Path(table_path(using[0], root)), None, _window(use_case, path, root, using, moment))
        table = table.drop_columns(["day"]) if "day" in table.column_names else table
        declared = _known_columns(use_case, path, table, using)
        mask = np.zeros(table.num_rows, dtype=bool)
        for name in declared:
            mask |= np.asarray(pc.fill_null(pc.greater(table[name].cast(pa.int64()), moment), False))
        for spec in use_case.models.values():
            if spec.spine.table == path:  # a view made of the examples themselves: the label is the future
                mask |= np.asarray(pc.fill_null(pc.greater(table[spec.spine.label_timestamp].cast(pa.int64()), moment), False))
        for view in using:
            found.perturbed[view.name] = found.perturbed.get(view.name, 0) + int(mask.sum())
        tables[path] = (table, mask, declared)
    return tables


def _known_columns(use_case: UseCase, path: str, table: pa.Table, using: list[View]) -> list[str]:
    """The moments by which a row of a table is known: what ingest.yaml declares of it, and what any view on it declares as created."""
    declared = use_case.ingest.tables.get(path)
    names = [declared.timestamp if declared else "", (declared.known or "") if declared else "", "created_timestamp"]
    for view in using:
        backwards = {name: source for source, name in view.mapping}
        names += [backwards.get(view.created, view.created)] if view.created else []
        if declared is None:
            names.append(backwards.get(view.timestamp, view.timestamp))
    return [n for n in dict.fromkeys(names) if n in table.column_names]


def _window(use_case: UseCase, path: str, root: Path, using: list[View], moment: int) -> Any:
    """Day partitions that matter: as far back as the views reach, and a little into the future."""
    if "day" not in parquet.schema(str(root / path)).names:
        return None
    day = pc.field("day").cast(pa.string())
    at = moment_at(moment)
    chosen = day <= str((at + AFTER).date())
    reaches = [v.reach_us or v.ttl_us for v in using]
    if all(reaches):
        chosen &= day >= str((at - timedelta(microseconds=max(reaches)) - timedelta(days=2)).date())
    return chosen


def _write(folder: Path, table: pa.Table) -> None:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet")


def _perturb(table: pa.Table, mask: Any, moments: list[str], moment: int) -> pa.Table:
    """The table with every row of `mask` scrambled; some are gone, some are there twice, and known rows have got unknown companions."""
    random = np.random.default_rng(moment % 2**32)
    known, unknown = table.filter(pa.array(~mask)), table.filter(pa.array(mask))
    fate = random.random(unknown.num_rows)
    kept = unknown.filter(pa.array(fate > 0.3))
    doubled = unknown.filter(pa.array(fate > 0.8))
    parts = [known, *(_scramble(t, moments, random) for t in (kept, doubled))]
    if known.num_rows:
        # rows of entities that are really asked for, known only after the moment
        companions = known.take(pa.array(random.choice(known.num_rows, min(500, known.num_rows), replace=False)))
        for name in moments:
            later = moment + random.integers(1, 86_400_000_000, companions.num_rows)
            place = companions.schema.get_field_index(name)
            companions = companions.set_column(
                place, name, pa.array(later).cast(pa.timestamp("us", "UTC")).cast(table.schema.field(name).type)
            )
        parts.append(_scramble(companions, moments, random))
    return pa.concat_tables(parts)


def _scramble(table: pa.Table, keep: list[str], random: np.random.Generator) -> pa.Table:
    """Other values in every column but the moments. Whole numbers and text may be keys: half of them stay."""
    for i, one in enumerate(table.schema):
        if one.name in keep or pa.types.is_timestamp(one.type):
            continue
        other = _scrambled(table[one.name], random)
        if pa.types.is_integer(one.type) or pa.types.is_string(one.type):
            stay = pa.array(random.random(table.num_rows) < 0.5)
            other = pc.if_else(stay, table[one.name], other)
        table = table.set_column(i, one.name, other)
    return table


def _scrambled(column: pa.ChunkedArray, random: np.random.Generator) -> Any:
    """Values of the same type that are none of those given, where the type has any."""
    dtype, n = column.type, len(column)
    if pa.types.is_boolean(dtype):
        return pc.invert(pc.fill_null(column, True))
    if pa.types.is_floating(dtype):
        return pc.add(pc.multiply(pc.fill_null(column, 1.0), -3.0), pa.array(1e3 + random.random(n))).cast(dtype)
    if pa.types.is_integer(dtype):
        if pc.all(pc.is_in(pc.fill_null(column, 0), pa.array([0, 1], dtype))).as_py():
            return pc.subtract(1, pc.fill_null(column, 0)).cast(dtype)
        return pc.take(column, pa.array(random.permutation(n)))
    if pa.types.is_timestamp(dtype):
        return pc.add(pc.fill_null(column, 0), pa.array(random.integers(3_600_000_000, 86_400_000_000, n), pa.duration("us")))
    if pa.types.is_string(dtype):
        return pc.take(column, pa.array(random.permutation(n)))
    return column


@contextlib.contextmanager
def _rooted(store: Any, root: Path) -> Iterator[None]:
    """Feast's offline store on other tables."""
    config = store.config.offline_store
    before, config.root = config.root, str(root)
    try:
        yield
    finally:
        config.root = before


def _features(use_case: UseCase, spec: ModelSpec, compiled: dict[str, View], spine: pa.Table, root: Path) -> dict[str, list[Any]]:
    """Every feature of the model's service, and of every other view that the examples have the keys of."""
    store = use_case.store
    with _rooted(store, root):
        service = store.get_feature_service(spec.feature_service)
        job = store.get_historical_features(entity_df=spine, features=service, full_feature_names=True)
        table = job.to_arrow()
    found = {name: table[name].to_pylist() for name in table.column_names if name not in spine.column_names}
    rest = [
        Projection(v, v.name, tuple(f.name for f in v.features), ())
        for v in compiled.values()
        if set(v.key_names) <= set(spine.column_names) and (root / v.path).is_dir()
    ]
    rest = [p for p in rest if not all(column_name(p.alias, n) in found for n in p.features)]
    if rest:
        joined = gather(spine, _AT, rest, root, 10**9)
        for projection in rest:
            for name in projection.features:
                found.setdefault(column_name(projection.alias, name), joined[column_name(projection.alias, name)].to_pylist())
    return found
