"""The HTTP API: routes, status codes and bodies. What the calls do is in `serving.handlers.data_plane`.

`predict` is bare ASGI that hands bytes to msgspec and back; its schema and examples come from the contracts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from serving.grpc.servicer import listening
from serving.handlers.data_plane import GONE, DataPlane
from serving.http.openapi import FEEDBACK, JSON, PREDICT, document, problems
from serving.http.origin import Origins
from serving.http.protocols import add_routes
from serving.protocol import problem
from serving.protocol.body import read_body
from serving.protocol.problem import FieldError, Invalid, Problem, Unavailable
from serving.telemetry.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)


class Predict:
    """The predict call as bare ASGI: what a framework does around a handler takes longer than the prediction."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(scope["path_params"]["model"], scope, receive, send)

    async def answer(self, model: str, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer; the status that is sent, or would have been."""
        started = time.perf_counter()
        status, headers = 200, [(b"content-type", b"application/json")]
        try:
            content = await self._content(model, scope, receive, started)
        except ClientDisconnect:
            return GONE
        except Exception as error:
            refusal = error if isinstance(error, Problem) else _failed(scope, error)
            status, content = refusal.status, refusal.body()
            headers = [(b"content-type", problem.MEDIA_TYPE.encode())]
            headers += [(name.lower().encode(), str(value).encode()) for name, value in (refusal.headers or {}).items()]
        headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return status

    async def _content(self, model: str, scope: Scope, receive: Receive, started: float) -> bytes:
        try:
            body = await read_body(scope, receive, self._plane.limits)
        except BaseException as error:
            self._plane.failed(model, error)
            raise
        timeout_ms = route = None
        for name, value in scope["headers"]:
            if name == b"x-request-timeout-ms":
                timeout_ms = value.decode("latin-1")
            elif name == b"x-route-key":
                route = value
        return await self._plane.predict(model, body, timeout_ms, started, route)


class Front:
    """What the server calls: predictions straight away, everything else through FastAPI. Every call is counted, whatever it ends in."""

    def __init__(self, app: FastAPI, plane: DataPlane) -> None:
        self.plane = plane
        self._app, self._predict = app, Predict(plane)
        self._origins = Origins(plane.settings.host, plane.settings.hosts.split(","))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        status = GONE
        try:
            try:
                self._origins.check(scope)
            except Problem as refusal:
                status = refusal.status
                await _response(refusal)(scope, receive, send)
                return
            if scope["method"] == "POST" and path.endswith("/predict") and path.startswith("/v1/models/") and path.count("/") == 4:
                status = await self._predict.answer(path[11:-8], scope, receive, send)
                return

            async def watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self.plane.metrics.answered(door(path), status)


_LAST = frozenset({"predict", "feedback", "drift", "quality", "infer"})
_FIRST = frozenset({"get-online-features", "push", "metrics", "docs", "openapi.json"})
_PROBES = frozenset({"/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"})


def door(path: str) -> str:
    """What a path asks for: one of a few words, whatever anyone calls."""
    if path in _PROBES:
        return "probe"
    _, _, rest = path.partition("/")
    first, _, rest = rest.partition("/")
    if first in _FIRST and not rest:
        return first
    if first in ("v1", "v2"):
        last = rest.rpartition("/")[2]
        return last if last in _LAST else "prediction" if rest.startswith("predictions/") else "models"
    return "(unknown)"


def _failed(scope: Scope, error: Exception) -> Problem:
    log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
    return Problem("The server failed on this request; its log says why.")


def build_app(plane: DataPlane) -> FastAPI:
    """The application over a data plane; its lifespan starts and stops the plane."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await plane.start()
        try:
            async with listening(plane):
                yield
        finally:
            await plane.stop()

    # its pages bring their own scripts: /docs works where the internet does not reach
    app: FastAPI = FastAPIOffline(
        title="Headrace", version="1", description="Predictions from features that are the same everywhere.", lifespan=lifespan
    )
    _answer_problems(app)

    async def feedback(request: Request) -> Response:
        return Response(
            await plane.feedback(request.path_params["model"], await read_body(request.scope, request.receive, plane.limits)),
            media_type=JSON,
        )

    app.add_route(PREDICT, Predict(plane), methods=["POST"], include_in_schema=False)  # type: ignore[arg-type]
    app.add_route(FEEDBACK, feedback, methods=["POST"], include_in_schema=False)
    _add_models(app, plane)
    _add_operation(app, plane)
    add_routes(app, plane, problems)
    app.openapi = lambda: document(app, plane)  # type: ignore[method-assign]
    return app


def _add_models(app: FastAPI, plane: DataPlane) -> None:
    """What is told of models and of single predictions."""

    @app.get("/v1/models", summary="Every model, its live version, or why it has none", tags=["models"])
    async def models() -> Response:
        return Response(msgspec.json.encode(plane.catalogue()), media_type=JSON)

    @app.get("/v1/models/{model}", summary="One model: versions, contract, how to ask it", tags=["models"], responses=problems(404))
    async def model(model: str) -> Response:
        return Response(msgspec.json.encode(plane.describe(model)), media_type=JSON)

    @app.get(
        "/v1/models/{model}/drift", summary="The watch's latest verdict on what comes in", tags=["models"], responses=problems(404, 503)
    )
    async def drift(model: str) -> Response:
        return Response(await plane.drift(model), media_type=JSON)

    @app.get(
        "/v1/models/{model}/quality",
        summary="How good the answers were, by the truths that came in",
        tags=["models"],
        responses=problems(404, 503),
    )
    async def quality(model: str) -> Response:
        return Response(await plane.quality(model), media_type=JSON)

    @app.get(
        "/v1/predictions/{prediction_id}",
        summary="One prediction's passport: what it was made of, and the truth once it is known",
        tags=["models"],
        responses=problems(404, 503),
    )
    async def prediction(prediction_id: str) -> Response:
        return Response(await plane.passport(prediction_id), media_type=JSON)


def _add_operation(app: FastAPI, plane: DataPlane) -> None:
    """What operators and their probes ask."""

    @app.get("/healthz", summary="The process answers", tags=["operation"])
    async def healthz() -> Response:
        return Response(b'{"status":"ok"}', media_type=JSON)

    @app.get("/readyz", summary="Models are loaded and Redis answers; what else is degraded", tags=["operation"], responses=problems(503))
    async def readyz(strict: str | None = None) -> Response:
        degraded = await plane.ready()
        if degraded and strict is not None and strict.lower() not in ("0", "false", "no"):
            said = "; ".join(f"{one['part']}: {one['detail']}" for one in degraded)
            raise Unavailable(f"Predictions are made, but not everything works: {said}.", retry_after_s=5, degraded=degraded)
        return Response(msgspec.json.encode({"status": "ready", "degraded": degraded}), media_type=JSON)

    @app.get("/metrics", summary="Prometheus metrics of this replica", tags=["operation"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(await plane.scrape(), media_type=CONTENT_TYPE)


def _response(refusal: Problem) -> Response:
    return Response(refusal.body(), refusal.status, refusal.headers, problem.MEDIA_TYPE)


def _answer_problems(app: FastAPI) -> None:
    """Every error, the framework's own included, is a problem object."""

    async def ours(_: Request, error: Any) -> Response:
        return _response(error)

    async def framework(request: Request, error: Any) -> Response:
        detail = {
            404: f"There is nothing at {request.url.path}; see /docs.",
            405: f"{request.method} is not a method of {request.url.path}; see /docs.",
        }.get(error.status_code, str(error.detail))
        body = problem.encode(error.status_code, HTTPStatus(error.status_code).phrase, detail)
        return Response(body, error.status_code, error.headers, problem.MEDIA_TYPE)

    async def invalid(_: Request, error: Any) -> Response:
        faults = [FieldError(e["msg"], field=".".join(map(str, e["loc"]))) for e in error.errors()]
        return _response(Invalid(f"field {faults[0].field!r}: {faults[0].message}.", faults))

    async def gone(_: Request, __: Any) -> Response:
        return Response(status_code=GONE)  # nobody reads it, but it is counted

    async def failure(request: Request, error: Exception) -> Response:
        return _response(_failed(request.scope, error))

    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        Problem: ours,
        HTTPException: framework,
        RequestValidationError: invalid,
        ClientDisconnect: gone,
        Exception: failure,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
