"""The skew proof: every logged prediction's features, recomputed from the offline store and compared to the bit.

Each served view value carries its high-water mark, so two questions are told apart for every cell (prediction x feature):

* **wrong** - recomputed from the same events, the value differs from what was served. Must be 0.
* **late** - an event known at the moment of the request had not reached the online store yet, and it would have changed the value.
  Reported as a share, with the lag: how long the first such event had been known.

Every difference has a cause by name: `streaming.skew.causes`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract, known
from feature_repo.records.prediction import Prediction, rows, sound
from feature_repo.records.redis_keys import prediction_log_key
from feature_repo.registry.definitions import definitions_of
from streaming.aggregation.windows import NEVER
from streaming.join.on_demand import transformations
from streaming.join.recompute import asked, fitting, plan, recomputed
from streaming.schema.columns import HIDDEN, NOW, column_name, floats
from streaming.schema.feature_view import projections
from streaming.skew.causes import MOVED_ON, STALE_AFTER_S, Floats, differ, name_causes

if TYPE_CHECKING:
    import pyarrow as pa
    import redis
    from pyspark.sql import SparkSession

    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings
    from streaming.offline.archive import Archive


logger = logging.getLogger(__name__)


class SkewError(ValueError):
    """There is nothing to compare, or the log is of another definition."""


@dataclass
class ViewSkew:
    view: str
    cells: int = 0
    wrong: int = 0
    late: int = 0
    lags_s: list[float] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Difference:
    """One wrong cell."""

    prediction: str
    feature: str
    served: float | None
    recomputed: float | None
    cause: str


@dataclass(frozen=True)
class SkewResult:
    """
    Attributes:
        passed_over: logged predictions that could not be compared, by reason.
        log: the predictions that were compared, where they were to be kept.
        now: of each input, what everything known at each of their moments gives, `[n]`; likewise.
    """

    predictions: int
    views: list[ViewSkew]
    examples: list[Difference]
    passed_over: dict[str, int] = field(default_factory=dict)
    log: list[Prediction] = field(default_factory=list)
    now: dict[str, Floats] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        return sum(v.cells for v in self.views)

    @property
    def wrong(self) -> int:
        return sum(v.wrong for v in self.views)

    @property
    def late(self) -> int:
        return sum(v.late for v in self.views)

    @property
    def causes(self) -> dict[str, int]:
        """Cells by cause (`streaming.skew.causes`), the most frequent first."""
        return dict(sum((v.causes for v in self.views), Counter[str]()).most_common())

    def lag_s(self, view: ViewSkew | None = None) -> dict[str, float] | None:
        """p50 and p99 of the lag of late cells' views, seconds; None where nothing was late."""
        lags = view.lags_s if view else [lag for v in self.views for lag in v.lags_s]
        return {"p50": float(np.quantile(lags, 0.5)), "p99": float(np.quantile(lags, 0.99))} if lags else None

    def summary(self) -> dict[str, Any]:
        return {
            "predictions": self.predictions,
            "passed_over": self.passed_over,
            "cells": self.cells,
            "wrong": self.wrong,
            "late": self.late,
            "late_share": self.late / self.cells if self.cells else 0.0,
            "late_lag_s": self.lag_s(),
            "causes": self.causes,
            "views": [
                {"view": v.view, "cells": v.cells, "wrong": v.wrong, "late": v.late, "late_lag_s": self.lag_s(v), "causes": v.causes}
                for v in self.views
            ],
            "examples": [msgspec.structs.asdict(e) if isinstance(e, msgspec.Struct) else e.__dict__ for e in self.examples],
        }


def read_log(client: redis.Redis, project: str, model: str, version: int | None = None, archive: Archive | None = None) -> list[Prediction]:
    """Every answer of a model that was logged, once each, oldest first: from the archive what it has, the rest from Redis.

    An entry that is no prediction is passed over; how many were is said in the log.
    """
    found: list[Prediction] = []
    if archive is not None:
        import pyarrow.compute as pc

        rows = archive.predictions(model)  # a year of them: only those that are asked for become objects
        wanted = pc.not_equal(rows["role"], "shadow")
        if version is not None:
            wanted = pc.and_(wanted, pc.equal(rows["model_version"], version))
        found = archive.restore(model, rows.filter(wanted))
    known = {p.id for p in found}
    after, broken = "-", 0
    while True:
        entries: Any = client.xrange(prediction_log_key(project), after, "+", count=5000)
        if not entries:
            if broken:
                logger.warning("%d entries of %s are no predictions and are passed over", broken, prediction_log_key(project))
            return found
        some, none = sound(entries)
        broken += none
        for prediction in some:
            if prediction.model != model or prediction.role == "shadow" or version not in (None, prediction.version):
                continue
            if prediction.id not in known:
                known.add(prediction.id)
                found.append(prediction)
        after = "(" + entries[-1][0].decode()


def prove(
    spark: Callable[[], SparkSession],
    use_case: UseCase,
    settings: Settings,
    contract: Contract,
    log: Sequence[Prediction],
    stale_after_s: float = STALE_AFTER_S,
    keep: bool = False,
) -> SkewResult:
    """Recompute every feature of logged predictions, on-demand ones as training computes them, and compare them with what was served.

    Args:
        spark: gives a session; called only where the tables are too large for this process.
        stale_after_s: an event that was known for longer, and had not been applied, is no late one: the store is behind.
        keep: whether the result keeps what was compared, too.

    Raises:
        SkewError: the log is empty, or no entry of it fits the version.
        DefinitionError, JoinError: the definitions or the offline store are not what the log was served from.
    """
    if not log:
        raise SkewError(f"no prediction of {contract.model} is in the log: serve some first (`headrace replay`)")
    applied = definitions_of(use_case.store, contract.feature_service)
    store, service = use_case.store, contract.feature_service
    on_demand = transformations(store, service, projections(store, service))
    place = {i.source: n for n, i in enumerate(contract.inputs)}
    read = plan(store, service, place.keys() | {s.reference for view in on_demand for s in view.sources})
    log, passed_over = _comparable(contract, log, asked(read, contract.request))
    table = recomputed(spark, settings, read, log, contract.request, on_demand)
    shown, codes = rows([p.values for p in log], [p.statuses for p in log], len(contract.inputs))
    served, letters = known(shown, codes), codes.view("S1").astype("U1")
    lags = {p.alias: _lag_s(table, p.alias, log) for p in read}
    moved = {p.alias: _moved_on(p.alias, log) for p in read}
    listed = [(p.alias, p.features, lags[p.alias], moved[p.alias], False) for p in read]
    for view in on_demand:  # as late as the latest of what it is made of
        of = [s.reference.partition(":")[0] for s in view.sources]
        lag_s = np.fmax.reduce([np.full(len(log), np.nan), *(lags[alias] for alias in of)])
        any_of = np.logical_or.reduce([np.zeros(len(log), dtype=bool), *(moved[alias] for alias in of)])
        listed.append((view.alias, view.wanted, lag_s, any_of, True))
    views: list[ViewSkew] = []
    examples: list[Difference] = []
    kept: dict[str, Floats] = {}
    for alias, names, lag_s, moved_on, computed in listed:
        result = ViewSkew(alias)
        behind = np.zeros(len(log), dtype=bool)
        for name in names:
            reference, column = f"{alias}:{name}", column_name(alias, name)
            if reference not in place:  # only a function reads it
                continue
            same_events, now = floats(table[column]), floats(table[NOW + column])
            value = served[:, place[reference]]
            if keep:
                kept[reference] = now
            redefined = contract.definitions.get(reference) != applied.get(reference)
            found = name_causes(value, letters[:, place[reference]], same_events, now, lag_s, redefined, stale_after_s, computed, moved_on)
            wrong = differ(value, same_events) & (found != MOVED_ON)
            late = ~wrong & (found != "") & (found != MOVED_ON)
            result.cells += len(log)
            result.wrong += int(wrong.sum())
            result.late += int(late.sum())
            result.causes.update(found[found != ""].tolist())
            behind |= late
            for i in np.flatnonzero(wrong)[: max(0, 20 - len(examples))]:
                examples.append(Difference(log[i].id, reference, _number(value[i]), _number(same_events[i]), str(found[i])))
        result.lags_s = lag_s[behind & ~np.isnan(lag_s)].tolist()
        if result.cells:
            views.append(result)
    return SkewResult(len(log), views, examples, passed_over, list(log) if keep else [], kept)


def _comparable(contract: Contract, log: Sequence[Prediction], fields: Mapping[str, str]) -> tuple[list[Prediction], dict[str, int]]:
    """The predictions that fit the version, and why the others do not.

    Raises:
        SkewError: none does.
    """
    found, why = fitting(log, fields, f"version {contract.version}", len(contract.inputs))
    passed_over = dict(why.most_common())
    if passed_over:
        said = "; ".join(f"{n} with {reason}" for reason, n in passed_over.items())
        if not found:
            raise SkewError(f"no logged prediction of {contract.model} can be compared: {said}")
        logger.warning("%d logged predictions of %s are passed over: %s", sum(passed_over.values()), contract.model, said)
    return found, passed_over


def _lag_s(table: pa.Table, alias: str, log: Sequence[Prediction]) -> Floats:
    """How long the first event that a view's mark hides had been known, seconds `[n]`; NaN where it hides none."""
    first = np.array([NEVER if v is None else v for v in table[HIDDEN + alias].to_pylist()], dtype=np.int64)
    at_us = np.array([p.at_us for p in log], dtype=np.int64)
    return np.where(first > NEVER, (at_us - first) / 1e6, np.nan)


def _moved_on(alias: str, log: Sequence[Prediction]) -> NDArray[np.bool_]:
    """Where the store held an event of the view that is later than the request, `[n]`: it cannot tell what was newest then."""
    marks = [p.marks.get(alias) for p in log]
    return np.array(
        [m is not None and m.event_us is not None and m.event_us > p.at_us for m, p in zip(marks, log, strict=True)], dtype=bool
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
