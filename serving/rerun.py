"""One logged prediction, made again: features from the offline store as far as they were known, the version's own model, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from feature_repo.prediction import Prediction, id_ms, is_prediction_id, stream_key
from feature_repo.use_case import UseCase
from infra.settings import Settings
from serving.offline import feature_rows, offline_predictor
from streaming.recompute import recompute

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


def find(client: redis.Redis, project: str, number: str) -> Prediction:
    """A logged prediction by its id.

    Raises:
        RerunError: the log has none of that id (any more).
    """
    if not is_prediction_id(number):
        raise RerunError(f"{number!r} is no prediction_id: give one as a prediction carried it")
    at_ms, decoder = id_ms(number), msgspec.json.Decoder(Prediction)
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
    predictor, wanted = offline_predictor(use_case.store, folder)

    def spark() -> Any:
        from streaming.session import session

        return session(settings)

    table = recompute(spark, settings, wanted, [prediction])
    rows = feature_rows(table, wanted)
    question = predictor.schema.decode(msgspec.json.encode({"instances": [prediction.request]}))
    seen, _, matrix = predictor.assemble(question, rows)
    before = [None if letter == "s" else v for v, letter in zip(prediction.values, prediction.statuses, strict=True)]
    now = [None if v != v else v for v in seen[0].tolist()]
    cells = [Cell(*cell) for cell in zip(predictor.contract.names, before, now, strict=True)]
    return Rerun(prediction, cells, float(predictor.score(matrix)[0]))
