"""From request to answer for one model version: read, assemble (`serving.inference.assembler`), score, log and shape
(`serving.inference.recorder`).

HTTP, Ray and the clock stay outside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract
from feature_repo.records.prediction import Prediction
from serving.features.on_demand import OnDemand
from serving.features.reader import FeatureRows, OnlineReader, OnlineStoreUnavailable, joined
from serving.inference.assembler import Assembler
from serving.inference.explainer import Explainer
from serving.inference.recorder import Asked, Recorder, with_more
from serving.inference.scorer import Scorer
from serving.protocol.answer import Answer, Contribution, Timings
from serving.protocol.limits import Limits
from serving.protocol.problem import FieldError, Invalid, Unavailable
from serving.protocol.request import Question, RequestSchema
from serving.telemetry.metrics import ModelMetrics
from serving.telemetry.prediction_id import PredictionIds

_OFF_LOOP_ROWS = 256
"""Above this many rows the model runs in a thread: the event loop must not wait milliseconds for one caller."""


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
        self.schema = RequestSchema(contract, limits)
        self._reader = reader
        self._scorer = scorer
        self.assemble = Assembler(contract, reader, on_demand)
        self._metrics = metrics(contract.model, contract.version, reader.views)
        self._recorder = Recorder(contract, reader, self.assemble.sources, self._metrics, log, ids)
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

        computed = await self.assemble.computed(question, rows, deadline_s - read_s)
        seen, codes, served = self.assemble(question, rows, computed)
        before_score = time.perf_counter()
        if len(served) > _OFF_LOOP_ROWS:
            scores = await asyncio.to_thread(self._scorer.score, served)
        else:
            scores = self._scorer.score(served)
        score_s = time.perf_counter() - before_score

        predictions = self._recorder.answered(question, rows, seen, codes, scores, now_us, wall_us, role)
        if beside is not None:
            beside(Asked(question, rows, now_us, wall_us, [p.prediction_id for p in predictions]))
        if question.explain and self._explainer is not None:
            try:
                async with asyncio.timeout(max(0.001, deadline_s - (time.perf_counter() - started))):
                    contributions = await self._explainer.explain(served)
            except TimeoutError:
                raise Unavailable("The explanation was not ready within the deadline; ask again, with a longer one.") from None
            predictions = [with_more(p, contributions=c) for p, c in zip(predictions, contributions, strict=True)]
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
        computed = await self.assemble.computed(question, rows, self.contract.deadline_ms / 1e3)
        seen, codes, served = self.assemble(question, rows, computed)
        self._recorder.shadow(asked, instances, rows, (seen, codes), self._scorer.score(served).tolist())

    async def close(self) -> None:
        """Release the reader's connections, and the threads of explainer and on-demand functions."""
        if self._explainer is not None:
            self._explainer.close()
        self.assemble.on_demand.close()
        await self._reader.close()

    @property
    def trouble(self) -> str:
        """What keeps it from answering all that it could, in one line; empty: nothing."""
        return self.assemble.on_demand.trouble
