"""Headrace's backfill as a Feast compute engine: `batch_engine: {type: streaming.compute_engine.HeadraceComputeEngine}`.

`feast materialize` and `FeatureStore.materialize` then write through `streaming.backfill.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

from feast.entity import Entity
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel

from infra.settings import load_settings
from infra.timestamps import microseconds
from streaming.backfill.run import backfill
from streaming.kafka.client import Topics
from streaming.offline.spark import session
from streaming.online.store import OnlineStoreError
from streaming.schema.feature_view import compile_view


class HeadraceComputeEngineConfig(FeastConfigBaseModel):
    type: Literal["streaming.compute_engine.HeadraceComputeEngine"] = "streaming.compute_engine.HeadraceComputeEngine"


class HeadraceMaterializationJob(MaterializationJob):
    """A backfill that has ended."""

    def __init__(self, task: MaterializationTask, error: BaseException | None) -> None:
        self.task = task
        self._error = error

    def status(self) -> MaterializationJobStatus:
        return MaterializationJobStatus.ERROR if self._error else MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        return self._error

    def should_be_retried(self) -> bool:
        return False

    def job_id(self) -> str:
        return f"{self.task.feature_view.name}-{self.task.end_time:%Y%m%dT%H%M%S}"

    def url(self) -> str | None:
        return None


class HeadraceComputeEngine(ComputeEngine):
    """Feast's materialization, written by `streaming.backfill.run`. There is no infrastructure of its own to make or tear down."""

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        return None

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        return None

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any) -> MaterializationJob:
        store: Any = SimpleNamespace(
            project=task.project, list_entities=lambda allow_cache=True: registry.list_entities(task.project, allow_cache)
        )
        view = compile_view(task.feature_view, store)
        own = load_settings()
        folder = getattr(self.repo_config.offline_store, "folder", own.offline_root)
        (result,) = backfill(
            session(own),
            [view],
            folder,
            own.redis(),
            microseconds(task.end_time),
            max(microseconds(task.start_time), 0),
            topics=Topics.among(own, [view]),
        )
        return HeadraceMaterializationJob(task, OnlineStoreError(result.error) if result.error else None)
