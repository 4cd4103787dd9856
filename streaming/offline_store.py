"""Headrace's point-in-time join as a Feast offline store: `offline_store: {type: streaming.offline_store.HeadraceOfflineStore}`.

Where Feast's Spark store is wrong (keys that concatenate alike, ties, lateness, time zones; docs/semantics.md) this one is not, and it
executes the aggregations that a stream feature view declares.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkOfflineStore, SparkOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from infra.settings import load_settings
from streaming.join.in_process import NotHere, gather
from streaming.join.on_demand import Transformation, append, transformation
from streaming.join.on_spark import JoinError, check_spine, point_in_time_join, point_in_time_table
from streaming.offline.parquet import read
from streaming.offline.spark import session
from streaming.schema.columns import column_name
from streaming.schema.feature_view import Projection, compile_view
from streaming.versions.pinned import version_read

log = logging.getLogger(__name__)


class HeadraceOfflineStoreConfig(SparkOfflineStoreConfig):
    """
    Attributes:
        root: the offline store's folder, which sources' relative paths start from; default `HEADRACE_STATE/offline`.
        buckets: hash buckets per join.
    """

    type: Literal["streaming.offline_store.HeadraceOfflineStore"] = "streaming.offline_store.HeadraceOfflineStore"
    root: str = ""
    buckets: int = 4

    @property
    def folder(self) -> Path:
        return Path(self.root) if self.root else load_settings().offline_root


@dataclass(frozen=True)
class _Join:
    """What is to be joined; done once something asks for the rows.

    Attributes:
        spine: the examples, an Arrow table or a Spark DataFrame.
        names: output columns by the join's own (`alias__feature`).
    """

    spine: Any
    timestamp: str
    wanted: list[Projection]
    root: Path
    buckets: int
    names: dict[str, str]

    def column(self, reference: str) -> str:
        """The output column of `alias:feature`."""
        name = column_name(*reference.split(":", 1))
        return self.names.get(name, name)

    def frame(self) -> Any:
        """On Spark, as a DataFrame."""
        spark = session(load_settings())
        spine = spark.createDataFrame(self.spine) if isinstance(self.spine, pa.Table) else self.spine
        return point_in_time_join(spark, spine, self.timestamp, self.wanted, self.root, self.buckets).withColumnsRenamed(self.names)

    def arrow(self) -> pa.Table:
        """In this process where it fits (`HEADRACE_JOIN_IN_PROCESS_ROWS`), else on Spark."""
        limit = load_settings().join_in_process_rows
        try:
            if not limit:
                raise NotHere("switched off")
            if not isinstance(self.spine, pa.Table) and self.spine.limit(limit + 1).count() > limit:
                raise NotHere("too many examples")
            spine = self.spine if isinstance(self.spine, pa.Table) else self.spine.toArrow()
            joined = gather(spine, self.timestamp, self.wanted, self.root, limit)
        except NotHere as why:
            log.info("joining on Spark: %s", why)
            spark = session(load_settings())
            examples = spark.createDataFrame(self.spine) if isinstance(self.spine, pa.Table) else self.spine
            joined = point_in_time_table(spark, examples, self.timestamp, self.wanted, self.root, self.buckets)
        return joined.rename_columns([self.names.get(c, c) for c in joined.column_names])


class HeadraceRetrievalJob(RetrievalJob):
    """The lazily joined rows; on-demand features are computed here, from the columns they name and no others."""

    def __init__(self, join: _Join, full_feature_names: bool, on_demand: list[Transformation], metadata: RetrievalMetadata) -> None:
        self._join = join
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []  # already in the result: Feast would hand every column of every row to the function as Python objects

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._metadata

    def to_spark_df(self) -> Any:
        """The stored features as a Spark DataFrame (on-demand features excluded)."""
        return self._join.frame()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = self._join.arrow()
        for view in self._on_demand:
            called = partial(column_name, view.alias) if self._full_feature_names else str
            table = append(table, view, self._join.column, called)
        extra = [c for c in table.column_names if c.startswith(_HELPER)]
        return table.drop_columns(extra) if extra else table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None) -> None:
        path = getattr(getattr(storage, "spark_options", None), "path", None)
        if not path:
            raise JoinError("persist needs a SavedDatasetSparkStorage with a path")
        self._join.frame().write.mode("overwrite" if allow_overwrite else "errorifexists").parquet(path)


_HELPER = "__odfv__"


class HeadraceOfflineStore(SparkOfflineStore):
    """Feast's offline store interface over `streaming.join.on_spark`."""

    # wide: Feast's own signature
    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | Any | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> HeadraceRetrievalJob:
        """Feast's contract. `filter_by_created_timestamp` is always on: what was not yet known at an example's moment is never seen.

        Args:
            entity_df: pandas, an Arrow table, a Spark DataFrame, or an SQL query; with one timestamp column (`event_timestamp`, or the only one).
        """
        if entity_df is None:
            raise JoinError("get_historical_features needs an entity_df: Headrace joins to examples, each with its own moment")
        spine = _spine(entity_df)
        timestamp = infer_event_timestamp_from_entity_df(_dtypes(spine))
        wanted, requested = _projections(feature_views, feature_refs, registry, project)
        columns = spine.column_names if isinstance(spine, pa.Table) else spine.columns
        check_spine(columns, wanted)
        store = config.offline_store
        root = store.folder if isinstance(store, HeadraceOfflineStoreConfig) else load_settings().offline_root
        names: dict[str, str] = {}
        for projection in wanted:
            for name in projection.features:
                column = column_name(projection.alias, name)
                if f"{projection.alias}:{name}" not in requested:
                    names[column] = _HELPER + column
                elif not full_feature_names:
                    if name in (*columns, *names.values()):
                        raise JoinError(f"two features are called {name!r}: ask with full_feature_names=True")
                    names[column] = name
        join = _Join(spine, timestamp, wanted, root, getattr(store, "buckets", 4), names)
        keys = sorted({k for p in wanted for k in p.spine_keys})
        on_demand = [
            transformation(view, alias, names, wanted) for alias, view, names in _on_demand(feature_refs, registry, project, wanted)
        ]
        return HeadraceRetrievalJob(join, full_feature_names, on_demand, RetrievalMetadata(features=feature_refs, keys=keys))

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None) -> None:
        raise JoinError("write to the offline store with `headrace ingest`; Feast's append would duplicate rows on a second run")

    # wide: Feast's own signature
    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        return SparkOfflineStore.pull_latest_from_table_or_query(
            config,
            _rooted(config, data_source),
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
        )


def _rooted(config: RepoConfig, source: Any) -> Any:
    """The source with its relative path made absolute, for what is left to Feast's own code."""
    from copy import copy

    root = config.offline_store.folder if isinstance(config.offline_store, HeadraceOfflineStoreConfig) else load_settings().offline_root
    path = getattr(source, "path", None)
    if not path or path.startswith("/") or "://" in path:
        return source
    moved = copy(source)
    moved.spark_options = copy(source.spark_options)
    table = str(root / path)
    if version_read(table) is None:
        moved.spark_options._path = table
        return moved
    # what else lies in the folder is of other versions
    view = "headrace_" + hashlib.sha256(table.encode()).hexdigest()[:16]
    read(session(load_settings()), table).createOrReplaceTempView(view)
    moved.spark_options._path, moved.spark_options._table = None, view
    return moved


def _spine(entity_df: Any) -> Any:
    """The examples as an Arrow table where they are in this process, else as the Spark DataFrame they are."""
    if isinstance(entity_df, str):
        return session(load_settings()).sql(entity_df)
    if isinstance(entity_df, pd.DataFrame):
        entity_df = pa.Table.from_pandas(entity_df, preserve_index=False)
    if isinstance(entity_df, pa.Table):
        for i, f in enumerate(entity_df.schema):
            if pa.types.is_timestamp(f.type):  # naive means UTC, as everywhere in Feast; Spark has no nanoseconds
                column = entity_df[f.name].cast(pa.timestamp("us", f.type.tz or "UTC"), safe=False)
                entity_df = entity_df.set_column(i, f.name, column)
    return entity_df


def _dtypes(spine: Any) -> dict[str, Any]:
    """Column types as Feast's own inference reads them."""
    if not isinstance(spine, pa.Table):
        return dict(spine.dtypes)
    return {f.name: "timestamp" if pa.types.is_timestamp(f.type) else str(f.type) for f in spine.schema}


def _projections(
    feature_views: list[FeatureView], feature_refs: list[str], registry: BaseRegistry, project: str
) -> tuple[list[Projection], set[str]]:
    """What to join for these references, on-demand views' inputs included, and the references themselves."""
    from types import SimpleNamespace

    store: Any = SimpleNamespace(project=project, list_entities=lambda allow_cache=True: registry.list_entities(project, allow_cache))
    requested = set(feature_refs)
    needed: dict[str, dict[str, None]] = {}
    for reference in feature_refs:
        alias, _, name = reference.partition(":")
        needed.setdefault(alias.partition("@")[0], {})[name] = None
    for _, on_demand, _ in _on_demand(feature_refs, registry, project, feature_views):
        for source in on_demand.source_feature_view_projections.values():
            needed.setdefault(source.name_to_use(), {}).update({f.name: None for f in source.features})
    found = []
    for view in feature_views:
        alias = view.projection.name_to_use()
        if alias in needed:
            key_map = tuple(sorted(view.projection.join_key_map.items()))
            compiled = compile_view(view, store)
            own = {f.name for f in compiled.features}
            found.append(Projection(compiled, alias, tuple(n for n in needed[alias] if n in own), key_map))
    return found, requested


def _on_demand(
    feature_refs: list[str], registry: BaseRegistry, project: str, stored: Sequence[Any]
) -> list[tuple[str, OnDemandFeatureView, list[str]]]:
    """The on-demand views that references name: what they are called there, the view, and which of its features.

    A feature service may give a view another name (`with_name`); Feast hands on the name only, so the view is looked up in the services.

    Raises:
        JoinError: a reference names no view, or services give that name to several.
    """
    by_alias: dict[str, list[str]] = {}
    for reference in dict.fromkeys(feature_refs):
        alias, _, name = reference.partition(":")
        by_alias.setdefault(alias, []).append(name)
    have = {view.alias if isinstance(view, Projection) else view.projection.name_to_use() for view in stored}
    known = {view.name: view for view in registry.list_on_demand_feature_views(project, allow_cache=True)}
    found = []
    for alias, names in by_alias.items():
        if alias.partition("@")[0] in have or alias in have:
            continue
        pinned = OnDemandFeatureView.get_requested_odfvs([f"{alias}:{name}" for name in names], project, registry)
        if pinned:
            found.append((alias.partition("@")[0], pinned[0], names))
            continue
        services = registry.list_feature_services(project, allow_cache=True)
        meant = {
            p.name
            for service in services
            for p in service.feature_view_projections
            if p.name in known and p.name_to_use() == alias and set(names) <= {f.name for f in p.features}
        }
        if len(meant) != 1:
            which = f"several on-demand views ({', '.join(sorted(meant))})" if meant else "no view"
            raise JoinError(f"{alias!r} is the name of {which} in the feature services: {', '.join(names)} cannot be told")
        found.append((alias, known[meant.pop()], names))
    return found
