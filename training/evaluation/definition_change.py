"""How predictions would move: logged requests, their features as of their own moments under two definitions, scored by the live model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.records import contract
from feature_repo.records.onnx_session import INPUT, OUTPUT, session
from feature_repo.records.prediction import Prediction, sound
from feature_repo.records.redis_keys import prediction_log_key
from feature_repo.registry.definitions import DefinitionError
from streaming.join.recompute import fitting, sent
from streaming.schema.columns import floats
from streaming.schema.feature_view import projections

if TYPE_CHECKING:
    import pyarrow as pa
    import redis

    from feature_repo.records.contract import Contract
    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings

_AT = "event_timestamp"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moved:
    """How the scores of logged requests move from one definition to another.

    Attributes:
        requests: that were scored under both.
        mean, largest: of the scores' absolute differences.
        share: of scores that move by more than .01.
        rank: Spearman's rank correlation of the scores.
        features: inputs that move, with the share of requests in which they do, most first.
    """

    model: str
    requests: int
    mean: float
    largest: float
    share: float
    rank: float
    features: list[tuple[str, float]]


def last_requests(client: redis.Redis, project: str, model: str, limit: int) -> list[Prediction]:
    """The newest logged predictions of a model, oldest first. Entries that are none are passed over; how many is said in the log."""
    found: list[Prediction] = []
    before, broken = "+", 0
    while len(found) < limit:
        entries: Any = client.xrevrange(prediction_log_key(project), before, "-", count=1000)
        if not entries:
            break
        some, none = sound(entries)
        found, broken = found + [p for p in some if p.model == model], broken + none
        before = "(" + entries[-1][0].decode()
    if broken:
        logger.warning("%d entries of %s are no predictions and are passed over", broken, prediction_log_key(project))
    return found[:limit][::-1]


def with_and_without(before: UseCase, after: UseCase, settings: Settings, made: Contract, log: Sequence[Prediction]) -> Moved | str:
    """Score logged requests under both definitions; a sentence where that cannot be done."""
    if not log:
        return "no request is logged: nothing to compare"
    log, why = fitting(log, _fields(made, before), f"version {made.version}")
    if why:
        said = "; ".join(f"{n} with {reason}" for reason, n in why.most_common())
        logger.warning("%d logged requests of %s are passed over: %s", why.total(), made.model, said)
        if not log:
            return f"nothing to compare: of the logged requests, {said}"
    try:
        old, new = (_inputs(case, made, log) for case in (before, after))
    except KeyError as error:
        return f"input {error} would no longer exist: the model would be refused"
    except DefinitionError as error:
        return f"nothing to compare: {error}"
    score = _scorer(settings, made)
    a, b = score(old), score(new)
    differs = ~((old == new) | (np.isnan(old) & np.isnan(new)))
    moving = [(made.names[i], float(differs[:, i].mean())) for i in np.argsort(-differs.mean(axis=0)) if differs[:, i].any()]
    delta = np.abs(a - b)
    return Moved(made.model, len(log), float(delta.mean()), float(delta.max()), float((delta > 0.01).mean()), _rank(a, b), moving)


def _rank(a: Any, b: Any) -> float:
    from scipy.stats import spearmanr

    return 1.0 if (a == b).all() or len(a) < 3 else float(spearmanr(a, b).statistic)


def _spine(made: Contract, case: UseCase, log: Sequence[Prediction]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, pa.Array] = {_AT: pa.array([p.at_us for p in log], pa.timestamp("us", "UTC"))}
    return pa.table(columns | {name: sent(log, name, dtype) for name, dtype in _fields(made, case).items()})


def _fields(made: Contract, case: UseCase) -> dict[str, str]:
    """What a request carries → dtype."""
    fields: dict[str, str] = {f.name: f.dtype for f in made.request}
    for projection in projections(case.store, made.feature_service):
        for column in projection.spine_keys:
            fields.setdefault(column, "string")
    return fields


def _inputs(case: UseCase, made: Contract, log: Sequence[Prediction]) -> Any:
    """float64 `[requests, inputs]` in the contract's order, null policies applied."""
    store = case.store
    service = store.get_feature_service(made.feature_service)
    job = store.get_historical_features(entity_df=_spine(made, case, log), features=service, full_feature_names=True)
    table = job.to_arrow()
    matrix = np.empty((len(log), len(made.inputs)))
    for i, one in enumerate(made.inputs):
        if one.name not in table.column_names:
            raise KeyError(one.name)
        matrix[:, i] = floats(table[one.name])
    return made.model_inputs(matrix)


def _scorer(settings: Settings, made: Contract) -> Any:
    loaded = session(settings.model_root / made.model / str(made.version) / contract.MODEL)
    return lambda matrix: np.asarray(loaded.run([OUTPUT], {INPUT: matrix})[0], dtype=np.float64).reshape(len(matrix))
