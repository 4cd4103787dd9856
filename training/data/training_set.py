"""The training set: every example of a model's spine with its features as of its own moment, as one Parquet file named by its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.records.contract import Input, Null, RequestField
from feature_repo.registry.definitions import DefinitionError, definition_hash, definitions_of, service_projections
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from infra.files import FileError
from infra.timestamps import microseconds
from streaming.join.on_demand import serveable, transformations
from streaming.offline.footers import extent
from streaming.schema.columns import column_name
from streaming.schema.feature_view import NUMERIC, dtype_of, projections
from streaming.versions import data_version
from streaming.versions.data_version import DataVersion
from streaming.versions.pinned import reading
from training.data import manifest
from training.data.left_out import Interval

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from infra.settings import Settings

_REQUEST_TYPES = {
    "string": "string",
    "int64": "int64",
    "int32": "int32",
    "double": "float64",
    "float": "float32",
    "bool": "bool",
    "timestamp": "timestamp",
}


@dataclass(frozen=True)
class TrainingSet:
    """
    Attributes:
        path: Parquet file: the spine's columns, then one column per input, sorted by moment and example id.
        hash: SHA-256 of that file.
        inputs: the model's inputs in order.
        request: what a caller has to send.
        definitions: hash by `view:feature`.
        identity: of `training.data.manifest`.
        known_upto_us: its knowledge cut-off, microseconds.
        left_out: spans of moments whose examples are not in it, and how many these are.
        data: which version of each table it was made of; None: they have none.
    """

    path: Path
    hash: str
    rows: int
    inputs: list[Input]
    request: list[RequestField]
    definitions: dict[str, str]
    definition_hash: str
    project: str
    identity: str = ""
    known_upto_us: int = 0
    left_out: tuple[Interval, ...] = ()
    left_out_rows: int = 0
    data: DataVersion | None = None


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A training set's file.

    Raises:
        FileNotFoundError: there is none.
        FileError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{path} cannot be read as a training set ({' '.join(str(error).split())}): make it again") from None


def rebuild(spark: SparkSession, use_case: UseCase, settings: Settings, spec: ModelSpec, training_set: Path) -> manifest.Difference | None:
    """Derive a training set again, under the cut-offs it was made with.

    Returns:
        None if the bytes are the same; otherwise which partitions and which examples differ.

    Raises:
        FileNotFoundError: it has no manifest.
        FileError: it, or its manifest, cannot be read.
    """
    before, old = manifest.load(training_set), read(training_set)
    made = build(spark, use_case, settings, spec, before.known_upto_us, before.left_out)
    if made.hash == before.content:
        return None
    after, new = manifest.load(made.path), read(made.path)
    found = manifest.differences(before, after, old, new, spec.spine.id)
    for path in (made.path, manifest.path_of(made.path)):  # it was made to be compared
        path.unlink(missing_ok=True)
    return found


def model_inputs(store: Any, spec: ModelSpec) -> list[Input]:
    """Every feature of the model's service, in the service's order, as inputs.

    Raises:
        DefinitionError: a feature is not numeric, or a null policy names no input.
        OnDemandError: an on-demand view could not be served.
    """
    from feast.on_demand_feature_view import OnDemandFeatureView

    serveable(transformations(store, spec.feature_service, projections(store, spec.feature_service)))
    found: list[Input] = []
    for projection in service_projections(store, spec.feature_service):
        view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
        alias = projection.name_to_use()
        on_demand = isinstance(view, OnDemandFeatureView)
        keys = set() if on_demand else {e.join_key for e in store.list_entities(allow_cache=True) if e.name in view.entities}
        for feature in projection.features:
            if feature.name in keys:
                continue
            name = column_name(alias, feature.name)
            dtype = dtype_of(feature.dtype, f"feature {alias}:{feature.name}")
            if dtype not in NUMERIC:
                raise DefinitionError(
                    f"feature service {spec.feature_service!r}: {alias}:{feature.name} is {dtype}; a model's inputs are numbers. "
                    "Turn it into one in the ingest SQL or an on-demand view"
                )
            policy = spec.nulls.get(name)
            null = Null(policy.action, policy.value) if policy else Null()
            found.append(Input(name, f"{alias}:{feature.name}", "on_demand" if on_demand else "feature", dtype, null))
    unknown = set(spec.nulls) - {i.name for i in found}
    if unknown:
        raise DefinitionError(f"model {spec.name!r}: null policy for {', '.join(sorted(unknown))}, which is no input of it")
    return found


def _request_fields(store: Any, spec: ModelSpec, table: pa.Table) -> list[RequestField]:
    import pyarrow.compute as pc
    from feast.on_demand_feature_view import OnDemandFeatureView

    fields: dict[str, tuple[str, str]] = {}
    for projection in projections(store, spec.feature_service):
        for key, column in zip(projection.view.keys, projection.spine_keys, strict=True):
            fields.setdefault(column, ("entity", key.dtype))
    for projection in service_projections(store, spec.feature_service):
        view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
        if isinstance(view, OnDemandFeatureView):
            for source in view.source_request_sources.values():
                for f in source.schema:
                    fields.setdefault(f.name, ("request", dtype_of(f.dtype, f"request field {f.name!r}")))
    complete = table.filter(pc.invert(pc.is_null(table[spec.spine.label])))
    for name in fields:
        complete = complete.filter(pc.is_valid(complete[name]))
    newest = pc.sort_indices(complete, [(spec.spine.timestamp, "ascending")]).slice(max(complete.num_rows - 1, 0))
    sample = complete.take(newest)
    found = []
    for name, (kind, dtype) in fields.items():
        example = sample[name][0].as_py() if sample.num_rows else None
        bounds: dict[str, float] = {}
        if dtype in ("int64", "int32", "double", "float") and kind == "request":
            extent = pc.min_max(table[name]).as_py()
            bounds = {k: float(v) for k, v in (("minimum", extent["min"]), ("maximum", extent["max"])) if v is not None}
        if isinstance(example, datetime):
            example = example.isoformat().replace("+00:00", "Z")
        found.append(RequestField(name, kind, _REQUEST_TYPES[dtype], example, **bounds))  # type: ignore[arg-type]
    return found


def newest_known(use_case: UseCase, settings: Settings, spec: ModelSpec) -> int:
    """How far knowledge reaches in the tables of a model's features and examples, microseconds: the default knowledge cut-off."""
    import pyarrow.compute as pc

    from streaming.offline.parquet import table

    known = [extent(p.view, settings.offline_root, None, None).known_us for p in projections(use_case.store, spec.feature_service)]
    path = settings.offline_root / spec.spine.table
    for name in (spec.spine.timestamp, spec.spine.label_timestamp):
        newest = pc.max(table(path, [name])[name]).as_py()
        known.append(None if newest is None else microseconds(newest))
    return max((k for k in known if k is not None), default=0)


def build(
    spark: SparkSession,
    use_case: UseCase,
    settings: Settings,
    spec: ModelSpec,
    known_upto_us: int | None = None,
    left_out: Sequence[Interval] = (),
    data: DataVersion | None = None,
) -> TrainingSet:
    """Join the model's spine and write the training set. The same data and definitions give the same file and hash.

    Args:
        known_upto_us: knowledge cut-off: examples, rows and labels known later are not there. Default: as far as the tables reach.
        left_out: examples whose moment lies in one of these spans are not there. Those after them are, and see the rows of that time.
        data: the version of the tables to read; None: as they are now (and stay, for this join, whatever is ingested meanwhile).

    Raises:
        DefinitionError: the service is not applied or has an input that is no number.
        JoinError: the spine lacks a column, or an offline table is missing, or its version is.
    """
    data = data or data_version.recorded(settings.offline_root)
    with reading(settings.offline_root, data):
        return _build(spark, use_case, settings, spec, known_upto_us, left_out, data)


def _build(
    spark: SparkSession,
    use_case: UseCase,
    settings: Settings,
    spec: ModelSpec,
    known_upto_us: int | None,
    left_out: Sequence[Interval],
    data: DataVersion | None,
) -> TrainingSet:
    from pyspark.sql import functions as F

    from streaming.join.on_spark import JoinError
    from streaming.offline.parquet import TableError, read

    store = use_case.store
    by_feature = definitions_of(store, spec.feature_service)
    inputs = model_inputs(store, spec)
    path = settings.offline_root / spec.spine.table
    try:
        examples = read(spark, str(path))
    except TableError as error:
        raise JoinError(f"model {spec.name!r}: {error}") from error
    spans = [s for s in (spec.split.train, spec.split.valid, spec.split.test) if s]
    first, last = min(s.bounds()[0] for s in spans), max(s.bounds()[1] for s in spans)
    moment = F.col(spec.spine.timestamp)
    spine = examples.where((moment >= first) & (moment < last))
    spine = spine.drop("day") if "day" in spine.columns else spine
    needed = [spec.spine.timestamp, *spec.spine.id, spec.spine.label, spec.spine.label_timestamp, *spec.slices]
    absent = [c for c in needed if c not in spine.columns]
    if absent:
        raise JoinError(f"model {spec.name!r}: its spine {spec.spine.table!r} has no column {', '.join(absent)}")
    known_upto_us = newest_known(use_case, settings, spec) if known_upto_us is None else known_upto_us
    # an example sees what was known at its moment: with its moment below the cut-off, so is all that it sees
    spine = spine.where(F.unix_micros(moment) <= known_upto_us)
    unknown = F.unix_micros(F.col(spec.spine.label_timestamp)) > known_upto_us
    spine, lost = _without(spine, spec, left_out)
    spine = spine.withColumns({c: F.when(~unknown | unknown.isNull(), F.col(c)) for c in (spec.spine.label, spec.spine.label_timestamp)})
    spine = _renamed_moment(spine, spec)
    job = store.get_historical_features(entity_df=spine, features=store.get_feature_service(spec.feature_service), full_feature_names=True)
    table = job.to_arrow()
    if spec.spine.timestamp != "event_timestamp":
        table = table.rename_columns([spec.spine.timestamp if c == "event_timestamp" else c for c in table.column_names])
    made = _write(table, spec, settings, inputs, _request_fields(store, spec, table), by_feature, store.project)
    plan = [p.view for p in projections(store, spec.feature_service)]
    parts = manifest.identity(made.definition_hash, spec, known_upto_us, left_out)
    listed = manifest.partitions(settings.offline_root, plan, spec, known_upto_us)
    read_of: dict[str, Any] = {"data_version": data.number, "tables": data.tables} if data else {}
    manifest.write(manifest.Manifest(**parts, content=made.hash, partitions=listed, **read_of), made.path)
    return replace(made, identity=parts["identity"], known_upto_us=known_upto_us, left_out=tuple(left_out), left_out_rows=lost, data=data)


def _without(spine: Any, spec: ModelSpec, left_out: Sequence[Interval]) -> tuple[Any, int]:
    """The spine without the examples of these spans, and how many they are."""
    from pyspark.sql import functions as F

    if not left_out:
        return spine, 0
    moment = F.unix_micros(F.col(spec.spine.timestamp))
    inside = F.lit(False)
    for first, last in left_out:
        inside |= moment.between(first, last)
    return spine.where(~inside), int(spine.where(inside).count())


def _renamed_moment(spine: Any, spec: ModelSpec) -> Any:
    # Feast finds the moment by this name where there is more than one timestamp column
    if spec.spine.timestamp == "event_timestamp":
        return spine
    return spine.withColumnRenamed(spec.spine.timestamp, "event_timestamp")


def _write(
    table: pa.Table,
    spec: ModelSpec,
    settings: Settings,
    inputs: list[Input],
    request: list[RequestField],
    by_feature: dict[str, str],
    project: str,
) -> TrainingSet:
    import pyarrow.parquet as pq

    names = {i.name for i in inputs}
    spine_columns = [c for c in table.column_names if c not in names]
    table = table.select([*spine_columns, *(i.name for i in inputs)])
    order = [spec.spine.timestamp, *spec.spine.id]
    table = table.sort_by([(c, "ascending") for c in order]).replace_schema_metadata(None).combine_chunks()
    folder = settings.state / "training_sets" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{os.getpid()}.parquet"
    pq.write_table(table, partial, compression="zstd", row_group_size=64_000)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    path = folder / f"{digest[:16]}.parquet"
    partial.replace(path)
    return TrainingSet(path, digest, table.num_rows, inputs, request, by_feature, definition_hash(by_feature), project)
