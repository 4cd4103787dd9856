"""From request to answer for one model version: check, read, assemble, apply statuses and null policies, score, log.

One matrix row per instance, columns in the contract's order and from nowhere else:

    instances ── reader ──► stored [rows, features] ─┐ (stale → null for the model)
         └────── on-demand views ────────────────────┼─► matrix [rows, inputs] ─ null policies ─► scorer ─► scores [rows]
         └────── request fields ─────────────────────┘

HTTP, Ray and the clock stay outside.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract, Policy
from feature_repo.records.prediction import Mark, Prediction
from serving.features.decoder import STATUSES
from serving.features.on_demand import OnDemand, OnDemandError
from serving.features.reader import FeatureRows, OnlineReader, OnlineStoreUnavailable, joined
from serving.inference.explainer import Explainer
from serving.inference.input_sources import wire
from serving.inference.scorer import Scorer
from serving.protocol.answer import Answer, Contribution, FeatureValue, Scored, Statuses, Timings
from serving.protocol.limits import Limits
from serving.protocol.problem import FieldError, Invalid, Unavailable
from serving.protocol.request import Question, RequestSchema
from serving.telemetry.metrics import STATUS_NAMES, ModelMetrics
from serving.telemetry.prediction_id import PredictionIds

_REQUEST = ord("r")
_NAMES = dict(zip(STATUSES, STATUS_NAMES, strict=True))
_OFF_LOOP_ROWS = 256
"""Above this many rows the model runs in a thread: the event loop must not wait milliseconds for one caller."""


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


def _as_number(value: Any) -> float:
    if value is None:
        return np.nan
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)


class Predictor:
    """One model version, ready to answer.

    Args:
        contract: verified (`feature_repo.records.contract.load`, `check_definitions`).
        reader: online reader of the contract's feature service.
        on_demand: its compiled on-demand views.
        scorer: the contract's `model.onnx`.
        metrics: makes this version's metrics from its view names.
        log: takes each prediction; returns at once.
        explainer: contributions, where the version carries them.
        read_timeout_s: longest online read, seconds.
        limits: of one request.
        ids: of its predictions; None: some that no feedback is taken for.

    Raises:
        WiringError: the contract's inputs cannot all be served from these.
    """

    # wide: what a version is put together from; called once by the loader
    def __init__(
        self,
        contract: Contract,
        reader: OnlineReader,
        on_demand: OnDemand,
        scorer: Scorer,
        metrics: Callable[[str, int, list[str]], ModelMetrics],
        log: Callable[[Prediction], Any],
        explainer: Explainer | None = None,
        read_timeout_s: float = 0.5,
        limits: Limits | None = None,
        ids: PredictionIds | None = None,
    ) -> None:
        self.contract = contract
        self._ids = ids or PredictionIds(secrets.token_bytes(32))
        self._shadow_ids = PredictionIds(secrets.token_bytes(32))  # nobody was answered with one, so that no truth is taken for it
        self.schema = RequestSchema(contract, limits)
        self._reader = reader
        self._on_demand = on_demand
        self._scorer = scorer
        self._sources = wire(contract, reader, on_demand)
        self._policy = Policy(contract.inputs)
        self._names = contract.names
        self._metrics = metrics(contract.model, contract.version, reader.views)
        self._log = log
        self._explainer = explainer
        self._read_timeout_s = read_timeout_s

    @property
    def reader(self) -> OnlineReader:
        """What reads its stored features."""
        return self._reader

    def shares_reads_with(self, other: Predictor) -> bool:
        """Whether what is read for one is what is read for the other."""
        mine, theirs = self._reader, other._reader
        return (mine.features, mine.views, mine.join_keys) == (theirs.features, theirs.views, theirs.join_keys)

    async def predict(
        self,
        question: Question,
        now_us: int,
        wall_us: int,
        deadline_s: float,
        started: float,
        role: str = "champion",
        beside: Callable[[Asked], Any] | None = None,
    ) -> Answer:
        """Answer a decoded request.

        Args:
            question: from `self.schema.decode`.
            now_us: the moment features are read at, microseconds since the epoch.
            wall_us: the server's clock, likewise.
            deadline_s: seconds left.
            started: `time.perf_counter()` when the request arrived; timings are taken from there.
            role: of this version, for the log.
            beside: takes what was read and answered, for a shadow; returns at once.

        Raises:
            Invalid: an on-demand view or a `reject` null policy refuses a row, or contributions are asked of a model without.
            Unavailable: the online store did not answer in time.
            Late: an on-demand view did not.
        """
        if question.explain and self._explainer is None:
            raise Invalid("explain is not available for this model.", [FieldError("is not available for this model", field="explain")])
        instances = question.instances
        before_read = time.perf_counter()
        rows = await self._read(instances, now_us, deadline_s)
        read_s = time.perf_counter() - before_read

        computed = await self._computed(question, rows, deadline_s - read_s)
        seen, codes, served = self.assemble(question, rows, computed)
        before_score = time.perf_counter()
        if len(served) > _OFF_LOOP_ROWS:
            scores = await asyncio.to_thread(self._scorer.score, served)
        else:
            scores = self._scorer.score(served)
        score_s = time.perf_counter() - before_score

        predictions = self._record(question, rows, seen, codes, scores, now_us, wall_us, role)
        if beside is not None:
            beside(Asked(question, rows, now_us, wall_us, [p.prediction_id for p in predictions]))
        if question.explain and self._explainer is not None:
            try:
                async with asyncio.timeout(max(0.001, deadline_s - (time.perf_counter() - started))):
                    contributions = await self._explainer.explain(served)
            except TimeoutError:
                raise Unavailable("The explanation was not ready within the deadline; ask again, with a longer one.") from None
            predictions = [_with(p, contributions=c) for p, c in zip(predictions, contributions, strict=True)]
        metrics, total_s = self._metrics, time.perf_counter() - started
        metrics.latency.observe((read_s * 1e3, score_s * 1e3, total_s * 1e3))
        metrics.ok += 1
        metrics.instances += len(instances)
        timings = Timings(round(read_s * 1e3, 3), round(score_s * 1e3, 3), round(total_s * 1e3, 3))
        return Answer(self.contract.model, self.contract.version, predictions, timings)

    async def _read(self, instances: list[dict[str, Any]], now_us: int, deadline_s: float) -> FeatureRows:
        timeout_s = min(deadline_s, self._read_timeout_s)
        why = "nothing was left of the request's deadline when the online store was to be asked"
        if timeout_s > 0:
            try:
                return await self._reader.read(instances, now_us, timeout_s)
            except OnlineStoreUnavailable as error:
                why = str(error)
        raise Unavailable(f"{why[0].upper()}{why[1:]}, so no features could be read.", retry_after_s=1)

    def assemble(
        self, question: Question, rows: FeatureRows, computed: dict[str, list[Any]] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.float64]]:
        """The matrix as read (stale values included), each cell's status (a letter of f, s, n, m, r), and what the model gets.

        Args:
            computed: what the on-demand views give; None: they run here.

        Raises:
            Invalid: an on-demand view or a `reject` null policy refuses a row.
        """
        seen, codes = self._assemble(question, rows, computed)
        return seen, codes, self._nulls(seen, codes)

    @property
    def explain(self) -> Callable[[NDArray[np.float64]], Awaitable[list[list[Contribution]]]] | None:
        """Gives the strongest contributions of rows as they were scored; None where the version carries no booster."""
        return self._explainer.explain if self._explainer is not None else None

    def warm(self) -> None:
        """Load what only some requests need."""
        if self._explainer is not None:
            self._explainer.warm()

    def score(self, served: NDArray[np.float64]) -> NDArray[np.float64]:
        """The model itself, float64 [rows]."""
        return self._scorer.score(served)

    def _assemble(
        self, question: Question, rows: FeatureRows, computed: dict[str, list[Any]] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        sources, n = self._sources, len(question.instances)
        if sources.only_stored:
            return rows.values.take(sources.stored_columns, axis=1), rows.statuses.take(sources.stored_columns, axis=1)
        matrix = np.empty((n, len(self._names)))
        codes = np.full(matrix.shape, _REQUEST, dtype=np.uint8)
        matrix[:, sources.stored_places] = rows.values[:, sources.stored_columns]
        codes[:, sources.stored_places] = rows.statuses[:, sources.stored_columns]
        for place, field in sources.request:
            column = question.moments.get(field) or [i[field] for i in question.instances]
            matrix[:, place] = [_as_number(value) for value in column]
        if self._on_demand.features:
            found = self._compute(question, rows) if computed is None else computed
            for place, feature in sources.on_demand:
                matrix[:, place] = [np.nan if value is None else value for value in found[feature]]
        return matrix, codes

    def _compute(self, question: Question, rows: FeatureRows) -> dict[str, list[Any]]:
        try:
            return self._on_demand.run(self._asked(question), rows)
        except OnDemandError as error:
            raise _refused(error) from error

    async def _computed(self, question: Question, rows: FeatureRows, left_s: float) -> dict[str, list[Any]] | None:
        """What the on-demand views give, where they may not run on the event loop; None: `assemble` computes it, if there is any."""
        if self._sources.only_stored or self._on_demand.at_once(len(question.instances)):
            return None
        try:
            return await self._on_demand.answer(self._asked(question), rows, left_s)
        except OnDemandError as error:
            raise _refused(error) from error

    def _asked(self, question: Question) -> dict[str, Sequence[Any]]:
        return {f: question.moments.get(f) or [i[f] for i in question.instances] for f in self._on_demand.fields}

    def _nulls(self, seen: NDArray[np.float64], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What the model gets (`contract.Policy`), or which rows it refuses."""
        served = self._policy(seen, codes)
        if self._policy.reject.size and (refused := self._policy.refused(served)):
            faults = []
            for row, place in refused:
                status = "null" if codes[row, place] == _REQUEST else _NAMES[chr(codes[row, place])]
                faults.append(FieldError(f"is {status}, and this model refuses to score without it", row, self._names[place]))
            more = f" ({len(faults) - 1} more in `errors`)" if len(faults) > 1 else ""
            raise Invalid(f"row {faults[0].row}, input {faults[0].field!r}: {faults[0].message}{more}.", faults)
        return served

    # wide: the hot path of a request: what is logged, without an object in between
    def _record(
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
        contract, metrics, width = self.contract, self._metrics, len(self._names)
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
                unfresh = {n: _NAMES[s] for n, s in zip(self._names, own, strict=True) if s not in "fr"}
                summary = Statuses(fresh, own.count("s"), own.count("n"), own.count("m"), unfresh)
            answer = Scored(number, score, summary)
            answers.append(_with(answer, **self._detail(rows, row, vector, own)) if question.features else answer)
        for place, status in enumerate(STATUSES):
            metrics.statuses[place] += letters.count(status)
        metrics.freshness.observe(rows.ages)
        return answers

    def _detail(self, rows: FeatureRows, row: int, vector: list[float | None], letters: str) -> dict[str, Any]:
        ages: list[float | None] = [None] * len(vector)
        of_view = rows.ages[row].tolist()
        for place, column in zip(self._sources.stored_places, self._sources.stored_columns, strict=True):
            age = of_view[self._reader.view_of[column]]
            ages[place] = None if age != age else age
        names = _NAMES | {"r": "request"}
        features = {
            name: FeatureValue(value, names[letter], age)
            for name, value, letter, age in zip(self._names, vector, letters, ages, strict=True)
        }
        return {"features": features, "views": {view: {"high_water_mark": _mark(mark)} for view, mark in rows.marks[row].items()}}

    async def follow(self, asked: Sequence[Asked], read: bool) -> None:
        """Score what another version has answered, and log it as its shadow.

        Args:
            read: whether features must be read anew, because this version takes others.

        Raises:
            Problem: as `predict`; nothing is logged then.
        """
        rows = joined([await self._read(a.question.instances, a.now_us, self._read_timeout_s) if read else a.rows for a in asked])
        moments = {f: [m for a in asked for m in a.question.moments[f]] for f in asked[0].question.moments}
        instances = [i for a in asked for i in a.question.instances]
        question = Question(instances, moments, False, False, None)
        computed = await self._computed(question, rows, self.contract.deadline_ms / 1e3)
        seen, codes, served = self.assemble(question, rows, computed)
        scores = self._scorer.score(served).tolist()
        letters, width, contract = codes.tobytes().decode(), len(self._names), self.contract
        origins = [(a, number) for a in asked for number in a.ids]
        for row, ((a, answered), values, score) in enumerate(zip(origins, seen.tolist(), scores, strict=True)):
            vector = [None if v != v else v for v in values]
            own, (number,) = letters[row * width : (row + 1) * width], self._shadow_ids.make(contract.model, a.wall_us)
            named = contract.model, contract.version, a.now_us, a.wall_us
            self._log(Prediction(number, *named, instances[row], vector, own, rows.marks[row], score, "shadow", answered))

    async def close(self) -> None:
        """Release the reader's connections, and the threads of explainer and on-demand functions."""
        if self._explainer is not None:
            self._explainer.close()
        self._on_demand.close()
        await self._reader.close()

    @property
    def trouble(self) -> str:
        """What keeps it from answering all that it could, in one line; empty: nothing."""
        return self._on_demand.trouble


def _refused(error: OnDemandError) -> Invalid:
    return Invalid(f"row {error.row}: {error}." if error.row is not None else f"{error}.", [FieldError(str(error), error.row)])


def _mark(mark: Mark) -> dict[str, int | None]:
    return {"known_us": mark.known_us, "ties": mark.ties, "event_us": mark.event_us}


def _with(answer: Scored, **more: Any) -> Scored:
    return Scored(**{name: getattr(answer, name) for name in answer.__struct_fields__} | more)
