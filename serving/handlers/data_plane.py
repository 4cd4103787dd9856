"""The data plane of one replica: everything its HTTP calls do, without HTTP.

It owns what the calls share: the models, the prediction log, the metrics and one Redis client.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError, ResponseError
from starlette.requests import ClientDisconnect

from feature_repo.records.contract import Contract
from feature_repo.records.prediction import is_prediction_id
from feature_repo.records.redis_keys import drift_key, equality_key, held_key, labels_key, prediction_log_key, quality_key, sources_key
from feature_repo.spec.use_case import UseCase
from infra import files, redis_client
from infra.redis_client import says, whole
from infra.settings import Settings
from infra.supervision import beat
from infra.supervision.beat import Part
from serving.features.lost_windows import LostWindows
from serving.features.redis_connection import client
from serving.handlers import open_inference
from serving.handlers.admission import Admission
from serving.handlers.catalogue import description, summary
from serving.handlers.feast import FeatureServer
from serving.handlers.feedback import Feedback
from serving.handlers.lookup import find, passport
from serving.handlers.open_inference import Inference
from serving.inference.predictor import Predictor
from serving.models.loading import Loader
from serving.models.repository import Entry, ModelRepository
from serving.protocol.answer import Answer
from serving.protocol.limits import Limits, natural
from serving.protocol.problem import FieldError, Invalid, NotFound, Problem, Unavailable
from serving.protocol.refusal import refusal_of
from serving.protocol.request import Question, shown
from serving.telemetry import liveness
from serving.telemetry.metrics import Metrics, drift_gauges, held_gauges, quality_gauges, readable, source_gauges
from serving.telemetry.prediction_id import PredictionIds
from serving.telemetry.prediction_log import PredictionLog
from serving.telemetry.spool import Spool
from serving.telemetry.tally_writer import TallyWriter, replica_name

_MILLISECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
GONE = 499
"""What is counted where the caller went away before there was an answer, as nginx does."""


def status_of(error: BaseException) -> int:
    """The HTTP status that a request ends in which raised this."""
    if isinstance(error, Problem):
        return error.status
    return GONE if isinstance(error, ClientDisconnect | asyncio.CancelledError) else 500


def wall_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class DataPlane:
    """
    Args:
        settings: where models, features, Redis are, and what a request may do.
        clock: the server's clock, microseconds since the epoch.
        loader: see `ModelRepository`.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int] = wall_clock, loader: Loader | None = None) -> None:
        self._began = time.perf_counter()
        self.settings = settings
        self._clock = clock
        self._project = UseCase(settings.repo).project
        timeout = settings.redis_timeout_s
        self._redis: Any = redis_client.asynchronous(settings.redis(), socket_timeout=timeout, socket_connect_timeout=timeout)
        self.limits = Limits.of(settings)
        self.admission = Admission(settings.max_at_once)
        self.metrics = Metrics(replica_name())
        self._log = PredictionLog(
            client(settings.redis(), timeout),
            prediction_log_key(self._project),
            settings.log_capacity,
            settings.log_retention,
            spool=Spool(settings.state / "spool"),
            capacity_bytes=int(settings.log_buffer_mb * 2**20),
        )
        self.metrics.watch_log(self._log)
        self._tally = TallyWriter(self._redis, self._project, self.metrics, wall_clock, trouble=self._trouble)
        self._feedback = Feedback(self._redis, self._project, clock, settings, PredictionIds.of(settings))
        self.lost = LostWindows(settings.redis(), settings.offline_root, lambda: [*self.models.readers, *self.features.readers])
        self.features = FeatureServer(settings, self._redis, clock, self.metrics.on_demand, self.lost.look)
        self.models = ModelRepository(settings, self.metrics, self._log, loader, self.lost.look)

    async def start(self) -> None:
        """Start the log and load every model."""
        self._log.start()
        await self.models.start()
        await self.lost.start()
        self._tally.start()
        self.metrics.started(time.perf_counter() - self._began)
        # what was loaded stays: the collector need not look at it again and again while requests wait
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        """Flush the log, release models and connections."""
        await self.lost.close()
        await self.models.stop()
        await self._tally.close()
        await self._log.close()
        await self.features.close()
        await self._redis.aclose()

    async def predict(self, model: str, body: bytes, timeout_ms: str | None, started: float, route: bytes | None = None) -> bytes:
        """Answer a predict request.

        Args:
            body: as it came.
            timeout_ms: the caller's deadline (`X-Request-Timeout-Ms`), or None for the contract's.
            started: `time.perf_counter()` when it arrived.
            route: what a canary's share goes by (`X-Route-Key`); None: the first instance's entity keys.

        Returns:
            `serving.protocol.answer.Answer` as JSON.

        Raises:
            Problem: any answer but predictions.
        """
        predictor, role = None, "champion"
        try:
            with self.admission:
                entry, predictor = self.models.predictor(model)
                deadline_s = _deadline_s(timeout_ms, predictor.contract)
                question = predictor.schema.decode(body)
                if entry.canary is not None:  # it takes the same request
                    champion = predictor
                    predictor, role = entry.answering(champion, lambda: route or champion.schema.route_key(question))
                return msgspec.json.encode(await self._answer(entry, predictor, question, deadline_s, started, role))
        except BaseException as error:
            self.failed(model, error, predictor)
            raise

    async def _answer(self, entry: Entry, predictor: Predictor, question: Question, deadline_s: float, started: float, role: str) -> Answer:
        wall_us = self._clock()
        if question.now_us is not None and not self.settings.allows_request_now:
            raise Invalid(
                "`now` is not allowed here: features are read at the server's own time.", [FieldError("is not allowed here", field="now")]
            )
        now_us = wall_us if question.now_us is None else question.now_us
        if now_us > wall_us + round(self.settings.clock_tolerance_s * 1e6):
            raise Invalid("`now` lies ahead of the server's clock.", [FieldError("lies ahead of the server's clock", field="now")])
        left_s = deadline_s - (time.perf_counter() - started)
        beside = entry.shadow.put if entry.shadow is not None else None
        return await predictor.predict(question, now_us, wall_us, left_s, started, role, beside)

    async def infer(
        self, model: str, version: str | None, read: Callable[[Contract], Inference], timeout_ms: str | None, started: float
    ) -> tuple[Answer, Inference]:
        """Answer an inference request of the Open Inference Protocol.

        Args:
            version: one of those that are loaded; None: the champion.
            read: the request as instances of the version's contract.

        Raises:
            Problem: any answer but an inference.
        """
        predictor = None
        try:
            with self.admission:
                entry, predictor = self._loaded(model, version)
                asked = read(predictor.contract)
                question = predictor.schema.decode(msgspec.json.encode({"instances": asked.instances}))
                role = entry.release.versions.get(predictor.contract.version, "champion") if entry.release else "champion"
                deadline_s = _deadline_s(timeout_ms, predictor.contract)
                return await self._answer(entry, predictor, question, deadline_s, started, role), asked
        except BaseException as error:
            self.failed(model, error, predictor)
            raise

    def _loaded(self, model: str, version: str | None) -> tuple[Entry, Predictor]:
        entry, predictor = self.models.predictor(model)
        if version is not None and version != str(predictor.contract.version):
            number = natural(version)
            other = None if number is None else entry.ready.get(number)
            if other is None:
                raise NotFound(
                    f"Version {shown(version)} of {model!r} is not loaded; there is: {', '.join(map(str, sorted(entry.ready)))}."
                )
            predictor = other
        return entry, predictor

    def tensors(self, model: str, version: str | None) -> dict[str, Any]:
        """The model's metadata in the Open Inference Protocol.

        Raises:
            NotFound, Unavailable: no such model or version, or it does not answer.
        """
        entry, predictor = self._loaded(model, version)
        return open_inference.metadata(predictor.contract, sorted(entry.ready))

    def failed(self, model: str, error: BaseException, predictor: Predictor | None = None) -> None:
        """Count a request to a model that was not answered with predictions, whatever it ended in."""
        known = model in self.models  # a label per name anyone cares to invent would never stop growing
        self.metrics.failed(model if known else "(unknown)", predictor.contract.version if predictor else None, status_of(error))

    async def feedback(self, model: str, body: bytes) -> bytes:
        """Keep truths by prediction id: see `serving.handlers.feedback`."""
        self.models.entry(model)
        return await self._feedback.keep(model, body)

    async def drift(self, model: str) -> bytes:
        """The watch's latest verdict, JSON as it was written.

        Raises:
            NotFound: no such model, no verdict yet, or something else in its place.
        """
        self.models.entry(model)
        verdict = await self._kept(drift_key(self._project, model), "the verdicts")
        if verdict is None:
            raise NotFound(f"There is no verdict on {model!r} yet: the watch has not seen a full window (is it running?).")
        return _object(verdict, f"verdict on {model!r}")

    async def quality(self, model: str) -> bytes:
        """How good the answers were, by the truths that came in: JSON as the loop wrote it.

        Raises:
            NotFound: no such model, nothing was measured yet, or something else lies in its place.
        """
        self.models.entry(model)
        measured = await self._kept(quality_key(self._project, model), "the live quality")
        if measured is None:
            raise NotFound(f"The live quality of {model!r} was not measured yet: run `headrace quality` or `headrace autopilot`.")
        return _object(measured, f"live quality of {model!r}")

    async def _kept(self, key: str, what: str) -> bytes | None:
        try:
            found: bytes | None = await self._redis.get(key)
        except (RedisError, OSError, TimeoutError) as error:
            why = await refusal_of(self._redis, error, {key: "string"})
            raise Unavailable(f"The online store, which keeps {what}, {why}.") from None
        return found

    async def passport(self, number: str) -> bytes:
        """Everything that is known of one prediction, JSON.

        Raises:
            NotFound: the log has no such prediction (any more), or its version is gone.
        """
        if not is_prediction_id(number):
            raise NotFound(f"{number!r} is no prediction_id: give one as a prediction carried it.")
        kinds = {prediction_log_key(self._project): "stream"}
        try:
            prediction = await find(self._redis, self._project, number)
            if prediction is None:
                raise NotFound(f"The log has no prediction {number} (any more).")
            kinds |= {labels_key(self._project, prediction.model): "hash"}
            label = await self._redis.hget(labels_key(self._project, prediction.model), prediction.of or number)
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(f"The prediction log {await refusal_of(self._redis, error, kinds)}.") from None
        contract, explain = await self.models.version(prediction.model, prediction.version)
        try:
            return msgspec.json.encode(await passport(prediction, contract, label, explain))
        except ValueError as error:
            raise NotFound(f"What the log holds of prediction {number} is broken: {error}.") from None

    def check_models(self) -> None:
        """
        Raises:
            Unavailable: no model answers here; says why.
        """
        if not self.models.loaded:
            raise Unavailable("Models are being loaded.")
        if not self.models.live:
            reasons = "; ".join(f"{e.name}: {e.reason}" for e in self.models.entries) or "no model has a champion: train and promote one"
            raise Unavailable(f"No model answers ({reasons}).", retry_after_s=5)

    async def ready(self) -> list[dict[str, str]]:
        """
        Returns:
            the parts of the platform that do not do their work, and why: predictions are made without them.

        Raises:
            Unavailable: no model answers, or Redis does not; the reason says which.
        """
        self.check_models()
        try:
            async with asyncio.timeout(self.settings.redis_timeout_s):
                said = await self._said()
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(f"The online store {says(error)}.") from None
        return liveness.degraded(self._parts(said, await asyncio.to_thread(liveness.kept, self.settings)))

    async def _said(self) -> Any:
        """What parts say of themselves, as Redis has it; its refusal, where something else lies there."""
        try:
            return await self._redis.eval(beat.READ, 1, beat.parts_key(self._project))
        except ResponseError as error:
            return error

    def _parts(self, said: Any, kept: liveness.Kept) -> list[Part]:
        if isinstance(said, ResponseError):
            return [Part("redis", "failing", f"how the parts fare cannot be read: {said}")]
        found = liveness.parts(*beat.parse(said), kept)
        refusal = self._tally.refused
        return [*found, Part("redis", "failing", f"it takes no writes: {refusal}") if refusal else Part("redis", "well")]

    async def scrape(self) -> bytes:
        """Metrics in Prometheus' text format; verdicts, and how the parts fare, are left out while Redis is away."""
        self.metrics.verdicts, self.metrics.equality, self.metrics.quality, self.metrics.held = {}, {}, {}, {}
        self.metrics.sources = {}
        names = [entry.name for entry in self.models.entries]
        kept = await asyncio.to_thread(liveness.kept, self.settings)
        self.metrics.parts, self.metrics.restarts = [Part("redis", "silent")], kept.restarts
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            verdicts = await self._redis.mget([drift_key(self._project, name) for name in names]) if names else []
            self.metrics.verdicts = readable(names, verdicts, drift_gauges)
            measured = await self._redis.mget([quality_key(self._project, name) for name in names]) if names else []
            self.metrics.quality = readable(names, measured, quality_gauges)
            held = await self._redis.mget([held_key(self._project, name) for name in names]) if names else []
            self.metrics.held = readable(names, held, held_gauges)
            looked = await self._redis.get(sources_key(self._project))
            self.metrics.sources = readable([self._project], [looked], source_gauges)
            for name in names:
                counts = await self._redis.hmget(equality_key(self._project, name), "compared", "unequal")
                self.metrics.equality[name] = tuple(whole(n) or 0 for n in counts)
            self.metrics.parts = self._parts(await self._said(), kept)
        return self.metrics.text()

    def _trouble(self) -> str:
        """Which models do not answer as they should, and what else the replica cannot do, in one line; empty: all is well."""
        own = [said for said in (self.models.stuck, self._log.trouble, self.lost.trouble) if said]
        own += [
            f"model {entry.name}: {said}"
            for entry in self.models.entries
            for said in sorted({predictor.trouble for predictor in entry.ready.values()})
            if said
        ]
        return "; ".join([*own, *(f"model {entry.name}: {entry.reason}" for entry in self.models.entries if entry.reason)])

    def now_us(self) -> int:
        """The server's clock, microseconds since the epoch."""
        return self._clock()

    def catalogue(self) -> dict[str, Any]:
        """Every model, its live version or why there is none."""
        return {"models": [summary(entry, self.models.versions(entry.name)) for entry in self.models.entries]}

    def describe(self, model: str) -> dict[str, Any]:
        """One model: versions, contract, how to ask it.

        Raises:
            NotFound: there is no such model.
        """
        return description(self.models.entry(model), self.models.versions(model))


def _object(raw: bytes, what: str) -> bytes:
    """
    Raises:
        NotFound: it is no JSON object.
    """
    try:
        files.parse(raw, dict[str, Any])
    except ValueError:
        raise NotFound(f"What Redis holds of the {what} is broken; the next one takes its place.") from None
    return bytes(raw)


def _deadline_s(timeout_ms: str | None, contract: Contract) -> float:
    if timeout_ms is None:
        return contract.deadline_ms / 1e3
    milliseconds = float(timeout_ms) if _MILLISECONDS.fullmatch(timeout_ms.strip()) else 0.0
    if not 1 <= milliseconds < 1e9:
        raise Invalid(
            f"X-Request-Timeout-Ms is {shown(timeout_ms)}: give a number of milliseconds, at least 1.",
            [FieldError("must be a number of milliseconds, at least 1", field="X-Request-Timeout-Ms")],
        )
    return milliseconds / 1e3
