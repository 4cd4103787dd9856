"""What was predicted, logged and shaped into the answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract
from feature_repo.records.prediction import Mark, Prediction
from serving.features.decoder import LETTERS
from serving.features.reader import FeatureRows, OnlineReader
from serving.inference.assembler import NAMES
from serving.inference.input_sources import Sources
from serving.protocol.answer import FeatureValue, Scored, Statuses
from serving.protocol.request import Question
from serving.telemetry.metrics import ModelMetrics
from serving.telemetry.prediction_id import PredictionIds


@dataclass(frozen=True)
class Asked:
    """A request as another version answered it, for a shadow to follow.

    Attributes:
        rows: what was read.
        ids: of the predictions that were answered.
    """

    question: Question
    rows: FeatureRows
    now_us: int
    wall_us: int
    ids: list[str]


class Recorder:
    """
    Args:
        contract, reader: of the version.
        sources: where each input comes from.
        metrics: of this version.
        log: takes each prediction; returns at once.
        ids: of its predictions; None: some that no feedback is taken for.
    """

    def __init__(
        self,
        contract: Contract,
        reader: OnlineReader,
        sources: Sources,
        metrics: ModelMetrics,
        log: Callable[[Prediction], Any],
        ids: PredictionIds | None,
    ) -> None:
        self._contract, self._sources, self._metrics, self._log = contract, sources, metrics, log
        self._names, self._view_of = contract.names, reader.view_of
        self._ids = ids or PredictionIds(secrets.token_bytes(32))
        self._shadow_ids = PredictionIds(secrets.token_bytes(32))  # nobody was answered with one, so that no truth is taken for it

    # wide: the hot path of a request: what is logged, without an object in between
    def answered(
        self,
        question: Question,
        rows: FeatureRows,
        seen: NDArray[np.float64],
        codes: NDArray[np.uint8],
        scores: NDArray[np.float64],
        now_us: int,
        wall_us: int,
        role: str,
    ) -> list[Scored]:
        """Log every prediction and shape its answer."""
        contract, metrics, width = self._contract, self._metrics, len(self._names)
        letters = codes.tobytes().decode()
        answers: list[Scored] = []
        numbers = self._ids.make(contract.model, wall_us, len(rows.marks))
        for row, (values, score) in enumerate(zip(seen.tolist(), scores.tolist(), strict=True)):
            own = letters[row * width : (row + 1) * width]
            number = numbers[row]
            vector = [None if v != v else v for v in values] if isnan(sum(values)) else values
            request = question.instances[row]
            marks = rows.marks[row]
            self._log(Prediction(number, contract.model, contract.version, now_us, wall_us, request, vector, own, marks, score, role))
            fresh = own.count("f")
            if fresh + own.count("r") == width:
                summary = Statuses(fresh, 0, 0, 0, {})
            else:
                unfresh = {n: NAMES[s] for n, s in zip(self._names, own, strict=True) if s not in "fr"}
                summary = Statuses(fresh, own.count("s"), own.count("n"), own.count("m"), unfresh)
            answer = Scored(number, score, summary)
            answers.append(with_more(answer, **self._detail(rows, row, vector, own)) if question.features else answer)
        for place, status in enumerate(LETTERS):
            metrics.statuses[place] += letters.count(status)
        metrics.freshness.observe(rows.ages)
        return answers

    def _detail(self, rows: FeatureRows, row: int, vector: list[float | None], letters: str) -> dict[str, Any]:
        ages: list[float | None] = [None] * len(vector)
        of_view = rows.ages[row].tolist()
        for place, column in zip(self._sources.stored_places, self._sources.stored_columns, strict=True):
            age = of_view[self._view_of[column]]
            ages[place] = None if age != age else age
        names = NAMES | {"r": "request"}
        features = {
            name: FeatureValue(value, names[letter], age)
            for name, value, letter, age in zip(self._names, vector, letters, ages, strict=True)
        }
        return {"features": features, "views": {view: {"high_water_mark": _mark(mark)} for view, mark in rows.marks[row].items()}}

    def shadow(
        self,
        asked: Sequence[Asked],
        instances: Sequence[dict[str, Any]],
        rows: FeatureRows,
        matrix: tuple[NDArray[np.float64], NDArray[np.uint8]],
        scores: Sequence[float],
    ) -> None:
        """Log what this version would have said to what others have answered.

        Args:
            instances, rows, matrix, scores: of all that was asked, one after the other.
        """
        seen, codes = matrix
        letters, width, contract = codes.tobytes().decode(), len(self._names), self._contract
        origins = [(a, number) for a in asked for number in a.ids]
        for row, ((a, answered), values, score) in enumerate(zip(origins, seen.tolist(), scores, strict=True)):
            vector = [None if v != v else v for v in values]
            own, (number,) = letters[row * width : (row + 1) * width], self._shadow_ids.make(contract.model, a.wall_us)
            named = contract.model, contract.version, a.now_us, a.wall_us
            self._log(Prediction(number, *named, instances[row], vector, own, rows.marks[row], score, "shadow", answered))


def _mark(mark: Mark) -> dict[str, int | None]:
    return {"known_us": mark.known_us, "ties": mark.ties, "event_us": mark.event_us}


def with_more(answer: Scored, **more: Any) -> Scored:
    return Scored(**{name: getattr(answer, name) for name in answer.__struct_fields__} | more)
