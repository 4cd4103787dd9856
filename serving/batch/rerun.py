"""One logged prediction, made again: features from the offline store as far as they were known, the version's own model, cell by cell.

It goes the way of training, on-demand features included, not the way of serving: else a fault of serving would be made again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records import contract as contracts
from feature_repo.records import release
from feature_repo.records.contract import Input
from feature_repo.records.prediction import Prediction, id_ms, is_prediction_id, logged, rows
from feature_repo.records.redis_keys import prediction_log_key
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from serving.inference.scorer import Scorer
from streaming.join.on_demand import transformations
from streaming.join.recompute import asked, fitting, plan, recomputed
from streaming.schema.columns import column_name
from streaming.schema.feature_view import projections

if TYPE_CHECKING:
    import pyarrow as pa
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


def find(client: redis.Redis, project: str, number: str) -> Prediction:
    """A logged prediction by its id.

    Raises:
        RerunError: the log has none of that id (any more).
    """
    if not is_prediction_id(number):
        raise RerunError(f"{number!r} is no prediction_id: give one as a prediction carried it")
    after = f"{max(id_ms(number) - 5_000, 0)}-0"
    while entries := client.xrange(prediction_log_key(project), after, "+", count=2000):
        for _, fields in entries:  # type: ignore[union-attr]
            if number.encode() in fields.get(b"p", b""):
                with contextlib.suppress(ValueError):  # an entry that is broken is not the one
                    if (found := logged(fields, Prediction)).id == number:
                        return found
        after = "(" + entries[-1][0].decode()  # type: ignore[index]
    raise RerunError(f"the log has no prediction {number} (any more)")


def run_again(use_case: UseCase, settings: Settings, prediction: Prediction) -> Rerun:
    """Make a prediction again.

    Raises:
        ContractError: its version is gone or altered.
        RerunError: what was logged does not fit the version, or the feature service does not give what that reads.
        DefinitionError, JoinError: features are not what they were, or the offline store has no such table.
    """
    folder = settings.model_root / prediction.model / str(prediction.version)
    contract, store = release.verified(settings.model_root, prediction.model, prediction.version), use_case.store
    on_demand = transformations(store, contract.feature_service, projections(store, contract.feature_service))
    needed = {i.source for i in contract.inputs} | {s.reference for view in on_demand for s in view.sources}
    wanted = plan(store, contract.feature_service, needed)

    _, why = fitting([prediction], asked(wanted, contract.request), f"version {contract.version}", len(contract.inputs))
    if why:
        raise RerunError(f"the log's entry of {prediction.id} is no prediction of its version: it has {', '.join(why)}")

    def spark() -> Any:
        from streaming.offline.spark import session

        return session(settings)

    table = recomputed(spark, settings, wanted, [prediction], contract.request, on_demand)
    absent = [i.name for i in contract.inputs if _column(i) not in table.column_names]
    if absent:
        raise RerunError(f"version {contract.version} reads {', '.join(absent)}, which feature service {contract.feature_service!r} lacks")
    again = np.array([[_value(table[_column(i)]) for i in contract.inputs]])
    shown, letters = rows([prediction.values], [prediction.statuses], len(contract.inputs))
    before, now = (_numbers(matrix[0]) for matrix in (contracts.known(shown, letters), again))
    cells = [Cell(*cell) for cell in zip(contract.names, before, now, strict=True)]
    score = Scorer(folder / contracts.MODEL, len(contract.inputs)).score(contract.model_inputs(again))
    return Rerun(prediction, cells, float(score[0]))


def _column(one: Input) -> str:
    return one.source if one.kind == "request" else column_name(*one.source.split(":", 1))


def _value(column: pa.ChunkedArray) -> float:
    value = column[0].as_py()
    return np.nan if value is None else float(value.timestamp() if hasattr(value, "timestamp") else value)


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if v != v else v for v in values.tolist()]
