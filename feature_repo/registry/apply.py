"""Make a use case's definitions the applied ones: Feast's registry, and nothing else (no store is touched)."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import predictions_table, truths_table
from feature_repo.registry import stored_order
from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import UseCaseError
from infra.cause import cause_of, line_of

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True)
class Applied:
    """Names by kind, and what the registry held that the folder no longer defines."""

    entities: list[str]
    views: list[str]
    services: list[str]
    removed: list[str]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's notes on experimental features and its prints out of our output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    # Feast names the modules of a repository relative to the working directory
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path


def parse(use_case: UseCase) -> Any:
    """Feast's `RepoContents` of the folder.

    Raises:
        UseCaseError: a file in it cannot be imported; names it.
    """
    from feast.repo_operations import parse_repo

    known = set(sys.modules)
    with quiet(), _inside(use_case.folder):
        try:
            return parse_repo(use_case.folder)
        except Exception as error:
            raise UseCaseError(f"{use_case.folder} cannot be read: {cause_of(error, use_case.folder)}") from error
        finally:
            # two use cases may call their files alike
            for name in set(sys.modules) - known:
                file = getattr(sys.modules[name], "__file__", None)
                if file and Path(file).is_relative_to(use_case.folder):
                    del sys.modules[name]


class BreakingChangeError(UseCaseError):
    """Applying would break a live model; nothing has been changed. Names models and features, and says what to do."""


def check_live_models(broken: dict[str, list[str]]) -> None:
    """
    Raises:
        BreakingChangeError: a live model could no longer be served (`feature_repo.registry.plan`).
    """
    if not broken:
        return
    named = "; ".join(
        f"{model} reads {', '.join(features[:5])}{f' and {len(features) - 5} more' if len(features) > 5 else ''}"
        for model, features in broken.items()
    )
    raise BreakingChangeError(
        f"live models could no longer be served: {named}. Give the changed features names of their own (and train on them first), "
        "or apply with --allow-breaking: the models are refused until they are trained again"
    )


def apply_definitions(use_case: UseCase) -> Applied:
    """Apply the folder to the registry it names. Running it twice changes nothing.

    Raises:
        UseCaseError: the folder cannot be parsed, or Feast refuses an object.
    """
    contents = parse(use_case)
    store: FeatureStore = use_case.store
    views = [*contents.feature_views, *contents.stream_feature_views, *contents.on_demand_feature_views]
    objects = [*contents.data_sources, *_archives(use_case), *contents.entities, *views, *contents.feature_services]
    with quiet():
        stored_order.keep([*contents.feature_views, *contents.stream_feature_views], _applied(store))
        try:
            store.apply(objects, partial=True)
        except Exception as error:
            own = line_of(error, use_case.folder)  # Feast calls the functions of on-demand views to see what they give
            raise UseCaseError(own or f"{use_case.folder}: Feast refuses to apply it: {cause_of(error)}") from error
        removed = _remove(store, {v.name for v in views}, {s.name for s in contents.feature_services})
        store.refresh_registry()
    entities = sorted(e.name for e in contents.entities if e.name != "__dummy")
    return Applied(entities, sorted(v.name for v in views), sorted(s.name for s in contents.feature_services), removed)


def _applied(store: FeatureStore) -> list[Any]:
    return [*store.list_feature_views(), *store.list_stream_feature_views()]


def _archives(use_case: UseCase) -> list[Any]:
    """The offline tables that the platform itself keeps of each model (`streaming.offline.archive`), as Feast sources: to look into, or to build on."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    return [
        source
        for model in use_case.models
        for source in (
            SparkSource(
                name=predictions_table(model),
                path=predictions_table(model),
                file_format="parquet",
                timestamp_field="event_timestamp",
                created_timestamp_column="served_at",
            ),
            SparkSource(name=truths_table(model), path=truths_table(model), file_format="parquet", timestamp_field="known_at"),
        )
    ]


def _remove(store: FeatureStore, views: set[str], services: set[str]) -> list[str]:
    # only from the registry: Feast's own infrastructure update deletes keys of every project whose name ends like this one
    gone = []
    for service in store.list_feature_services():
        if service.name not in services:
            store.registry.delete_feature_service(service.name, store.project)
            gone.append(service.name)
    for view in [*_applied(store), *store.list_on_demand_feature_views()]:
        if view.name not in views:
            store.registry.delete_feature_view(view.name, store.project)
            gone.append(view.name)
    return sorted(gone)
