"""One logged prediction, made again: features from the offline store as far as they were known, the version's own model, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from feature_repo import contract as contracts
from feature_repo.prediction import Mark, Prediction, stream_key
from feature_repo.use_case import UseCase
from infra.settings import Settings
from serving.metrics import Metrics
from serving.on_demand import OnDemand
from serving.predict import Predictor
from serving.reader import FeatureRows
from serving.reply import FRESH, NULL
from serving.scorer import Scorer
from streaming.join import column_name, floats
from streaming.recompute import plan, recompute

if TYPE_CHECKING:
    import redis


class RerunError(ValueError):
    """A prediction cannot be made again; the message says what is missing."""


@dataclass(frozen=True)
class Cell:
    """One input, as it was served and as it comes out now; None is null."""

    name: str
    served: float | None
    again: float | None

    @property
    def same(self) -> bool:
        return self.served == self.again


@dataclass(frozen=True)
class Rerun:
    prediction: Prediction
    cells: list[Cell]
    score: float

    @property
    def same(self) -> bool:
        return self.score == self.prediction.score and all(c.same for c in self.cells)

    def summary(self) -> dict[str, Any]:
        return {
            "prediction_id": self.prediction.id,
            "model": self.prediction.model,
            "version": self.prediction.version,
            "same": self.same,
            "score": {"served": self.prediction.score, "again": self.score},
            "differences": [{"name": c.name, "served": c.served, "again": c.again} for c in self.cells if not c.same],
        }


class _Offline:
    """In the online reader's place: rows that were computed from the offline store."""

    def __init__(self, features: list[str], views: list[str], view_of: list[int], join_keys: dict[str, str], rows: FeatureRows) -> None:
        self.features, self.views, self.view_of, self.join_keys, self._rows = features, views, view_of, join_keys, rows

    async def read(self, instances: Sequence[dict[str, Any]], now_us: int, timeout_s: float | None = None) -> FeatureRows:
        return self._rows

    async def close(self) -> None:
        return None


def find(client: redis.Redis, project: str, number: str) -> Prediction:
    """A logged prediction by its id.

    Raises:
        RerunError: the log has none of that id (any more).
    """
    from serving.predict import is_prediction_id

    if not is_prediction_id(number):
        raise RerunError(f"{number!r} is no prediction_id: give one as a prediction carried it")
    at_ms, decoder = int(number[:8] + number[9:13], 16), msgspec.json.Decoder(Prediction)
    after = f"{max(at_ms - 5_000, 0)}-0"
    while entries := client.xrange(stream_key(project), after, "+", count=2000):
        for _, fields in entries:  # type: ignore[union-attr]
            if number.encode() in fields[b"p"] and (found := decoder.decode(fields[b"p"])).id == number:
                return found
        after = "(" + entries[-1][0].decode()  # type: ignore[index]
    raise RerunError(f"the log has no prediction {number} (any more)")


def rerun(use_case: UseCase, settings: Settings, prediction: Prediction) -> Rerun:
    """Make a prediction again.

    Raises:
        ContractError: its version is gone or altered.
        DefinitionError, JoinError: features are not what they were, or the offline store has no such table.
    """
    folder = settings.model_root / prediction.model / str(prediction.version)
    contract = contracts.load(folder)
    store = use_case.store
    on_demand = OnDemand.compile(store, contract.feature_service)
    needed = {i.source for i in contract.inputs if i.kind == "feature"} | set(on_demand.sources)
    wanted = plan(store, contract.feature_service, needed)

    def spark() -> Any:
        from streaming.session import session

        return session(settings)

    table = recompute(spark, settings, wanted, [prediction])
    features, view_of, values, extras = [], [], [], {}
    for number, projection in enumerate(wanted):
        numeric = {f.name for f in projection.view.features if f.numeric}
        for name in projection.features:
            column = table[column_name(projection.alias, name)]
            features.append(f"{projection.alias}:{name}")
            view_of.append(number)
            values.append(float(floats(column)[0]) if name in numeric else np.nan)
            if name not in numeric and (value := column[0].as_py()) is not None:
                extras[features[-1]] = value
    statuses = [NULL if v != v and f not in extras else FRESH for f, v in zip(features, values, strict=True)]
    join_keys = {c: k.dtype for p in wanted for c, k in zip(p.spine_keys, p.view.keys, strict=True)}
    marks: dict[str, Mark] = {}
    rows = FeatureRows(np.array([values]), np.array([statuses], np.uint8), np.full((1, len(wanted)), np.nan), [marks], [extras])
    offline: Any = _Offline(features, [p.alias for p in wanted], view_of, join_keys, rows)
    scorer = Scorer(folder / contracts.MODEL, len(contract.inputs))
    predictor = Predictor(contract, offline, on_demand, scorer, Metrics().model, lambda _: None)
    question = predictor.schema.decode(msgspec.json.encode({"instances": [prediction.request]}))
    seen, _, matrix = predictor.assemble(question, rows)
    before = [None if letter == "s" else v for v, letter in zip(prediction.values, prediction.statuses, strict=True)]
    now = [None if v != v else v for v in seen[0].tolist()]
    cells = [Cell(*cell) for cell in zip(contract.names, before, now, strict=True)]
    return Rerun(prediction, cells, float(predictor.score(matrix)[0]))
