"""A world made ready: drawn, written, applied, trained through the platform's own code, and served once without any fault."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records import contract
from feature_repo.records.contract import Contract, RequestField
from feature_repo.registry.apply import apply_definitions, quiet
from feature_repo.registry.definitions import definition_hash, definitions_of
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from serving.inference.scorer import Scorer
from serving.monitoring.reference import Reference
from serving.monitoring.triage.calendar import Calendar
from streaming.join.in_process import gather
from streaming.join.on_demand import append_each, transformations
from streaming.join.recompute import plan
from streaming.schema.columns import column_name
from streaming.schema.feature_view import projections
from streaming.skew.proof import SkewResult, prove
from tests.bench.drift.worlds import definitions, tables
from tests.bench.drift.worlds.pipe import Engine, Faults, Log, faulty, run
from tests.bench.drift.worlds.tables import EVENT_TIME, Tables
from tests.bench.drift.worlds.world import LIVE_DAYS, TRAINING_DAYS, Knobs, Latest, World
from training.data.training_set import TrainingSet, model_inputs
from training.registration.register import train_and_register

BEFORE_DAYS = 20
"""Of the days before a case, so many are in its tables: a window of predictions, and as far as the views look back from there."""


@dataclass(frozen=True)
class Ground:
    """
    Attributes:
        settings: its state folder holds the offline store and the registered version.
        calm: everything the process drew without a change.
    """

    world: World
    settings: Settings
    case: UseCase
    spec: ModelSpec
    contract: Contract
    engine: Engine
    calm: Tables
    reference: Reference

    @property
    def calendar(self) -> Calendar:
        """As the watch reads it of the spec."""
        return calendar(self.spec)

    @property
    def folder(self) -> Path:
        return self.settings.state

    @cached_property
    def log(self) -> Log:
        """The live weeks' predictions without fault or change, and those of the last three training weeks."""
        first, last = self.world.at(TRAINING_DAYS - 21), self.world.at(TRAINING_DAYS + LIVE_DAYS)
        return self.serve(self.calm, first, last, Faults(), "calm")

    def before(self, begins_us: int) -> Log:
        """Of `log`, what was asked before a moment."""
        return self.log[: int(np.searchsorted(self.log.at_us, begins_us))]

    def drawn(self, begins_us: int, upto_us: int, knobs: Knobs, luck: int = 0) -> Tables:
        """The tables of a case: the calm process's until it begins, and what the changed one draws from there."""
        found = self._part(self.calm, begins_us - BEFORE_DAYS * 86_400_000_000, upto_us)
        if not knobs.changes and not luck:
            return found
        first, last = ((us - self.world.at(0)) // 86_400_000_000 for us in (begins_us, upto_us))
        other = tables.of(self.world, type(self.world)(luck).raw(max(int(first) - 1, 0), int(last) + 2, knobs))
        return self._part(tables.spliced(found, other, begins_us), 0, upto_us)

    def serve(self, of: Tables, from_us: int, upto_us: int, faults: Faults, name: str) -> Log:
        """The pipe over the requests of `of` between two moments; the sources' faults are put into its rows here.

        Writes what the offline store has to `root(name)`.
        """
        of = faulty(of, faults)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        of.write(self.root(name))
        at = tables.moments(of.asked)
        asked = of.asked.filter(pa.array((at >= from_us) & (at < upto_us)))
        found = run(self.engine, replace(of, asked=asked), faults, self.folder / name / "online", int((at < from_us).sum()))
        shutil.rmtree(self.folder / name / "online")
        return found

    def root(self, name: str) -> Path:
        """The offline store of a case."""
        return self.folder / name / "offline"

    def settings_of(self, name: str) -> Settings:
        """Settings whose offline store is a case's."""
        return self.settings.model_copy(update={"state": self.folder / name})

    def prove(self, log: Log, name: str) -> SkewResult:
        """The skew proof over logged predictions, from a case's own offline store."""
        return prove(_no_spark, self.case, self.settings_of(name), self.contract, log.predictions)

    def _part(self, of: Tables, from_us: int, upto_us: int) -> Tables:
        lasting = {v.source: isinstance(v, Latest) and not v.ttl_h for v in self.world.views}
        return tables.part(of, from_us, upto_us, lasting)


def make(world: World, state: Path) -> Ground:
    """Draw, write, apply, train, register; `state`: an empty folder."""
    settings = Settings(repo=state / "repo", state=state, detector="scipy")
    definitions.write(world, settings.repo)
    settings.export()
    case = UseCase(settings.repo)
    with quiet():
        apply_definitions(case)
    calm = tables.of(world, world.raw(0, TRAINING_DAYS + LIVE_DAYS))
    calm.write(settings.offline_root)
    spec = case.model(definitions.MODEL)
    made = train_and_register(spec, training_set(world, case, settings, spec, calm), settings, force=True)
    folder = settings.model_root / spec.name / str(made.version)
    return Ground(world, settings, case, spec, made, engine(world, case, spec, made, folder), calm, reference(settings, spec, made))


def reference(settings: Settings, spec: ModelSpec, made: Contract) -> Reference:
    """As the watch opens it."""
    return Reference(settings.model_root, spec.name, made.version, settings.drift_detector, calendar(spec))


def calendar(spec: ModelSpec) -> Calendar:
    said = spec.calendar
    return Calendar(said.time_zone, said.country, said.subdivision, said.around)


def engine(world: World, case: UseCase, spec: ModelSpec, made: Contract, folder: Path) -> Engine:
    store, service = case.store, spec.feature_service
    scorer = Scorer(folder / contract.MODEL, len(made.inputs))
    return Engine(
        model_name=spec.name,
        version=made.version,
        plan=plan(store, service, {i.source for i in made.inputs}),
        on_demand=transformations(store, service, projections(store, service)),
        references=[i.source for i in made.inputs],
        inputs=made.model_inputs,
        score=scorer.score,
        sources={v.name: v.source for v in world.views},
        request=[*definitions.keys(world), "asked_at", *world.request],
    )


def training_set(world: World, case: UseCase, settings: Settings, spec: ModelSpec, calm: Tables) -> TrainingSet:
    """What `training.data.training_set.build` makes, joined in this process instead of on Spark."""
    store, service = case.store, spec.feature_service
    inputs, by_feature = model_inputs(store, spec), definitions_of(store, service)
    asked = calm.asked.filter(pa.array(tables.moments(calm.asked) < world.live_us))
    found = gather(asked, EVENT_TIME, plan(store, service, {i.source for i in inputs}), settings.offline_root, 2**40)
    for view in transformations(store, service, projections(store, service)):
        found = append_each(found, view, lambda reference: column_name(*reference.split(":", 1)), partial(column_name, view.alias))
    path = settings.state / "training_sets" / f"{world.name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(found, path)
    request = [RequestField(name, "entity", "string", "x") for name in definitions.keys(world)]
    request.append(RequestField("asked_at", "request", "timestamp"))
    dtypes = {"Float64": "float64", "Int64": "int64"}
    request += [RequestField(name, "request", dtypes[dtype]) for name, dtype in world.request.items()]  # type: ignore[arg-type]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TrainingSet(path, digest, found.num_rows, inputs, request, by_feature, definition_hash(by_feature), world.name)


def _no_spark() -> Any:
    raise AssertionError("the bench joins in this process")
