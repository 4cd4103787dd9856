"""The routes of protocols that others have defined: Open Inference (`/v2`) and Feast's feature server."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from serving.handlers import open_inference
from serving.handlers.data_plane import DataPlane
from serving.protocol.body import read_body
from serving.protocol.problem import Problem

JSON = "application/json"
JSON_LENGTH = "Inference-Header-Content-Length"
VERSION = "1"


def add_routes(app: FastAPI, plane: DataPlane, problems: Any) -> None:
    """Put the routes on the application. `problems` makes the documented answers of statuses."""
    _add_inference(app, plane, problems)
    _add_features(app, plane, problems)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _add_inference(app: FastAPI, plane: DataPlane, problems: Any) -> None:
    v2: dict[str, Any] = {"tags": ["Open Inference Protocol"]}

    @app.get("/v2", summary="What this server is", **v2)
    async def server() -> Response:
        return _json({"name": "headrace", "version": VERSION, "extensions": list(open_inference.EXTENSIONS)})

    @app.get("/v2/health/live", summary="The process answers", **v2)
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", summary="Models are loaded and Redis answers", responses=problems(503), **v2)
    async def ready() -> Response:
        await plane.ready()
        return _json({"ready": True})

    async def metadata(model: str, version: str | None = None) -> Response:
        return _json(plane.tensors(model, version))

    async def model_ready(model: str, version: str | None = None) -> Response:
        plane.tensors(model, version)
        return _json({"name": model, "ready": True})

    async def infer(request: Request) -> Response:
        started = time.perf_counter()
        path = request.path_params
        try:
            try:
                body = await read_body(request.scope, request.receive, plane.limits)
            except BaseException as error:
                plane.failed(path["model"], error)
                raise
            length, timeout_ms = request.headers.get(JSON_LENGTH), request.headers.get("x-request-timeout-ms")
            read = partial(open_inference.decode, body, length, limits=plane.limits)
            content, at = open_inference.encode(*await plane.infer(path["model"], path.get("version"), read, timeout_ms, started))
        except Problem as refusal:
            refusal.extensions.setdefault("error", refusal.detail)  # where the protocol's clients look
            raise
        if at is None:
            return Response(content, media_type=JSON)
        return Response(content, headers={JSON_LENGTH: str(at)}, media_type="application/octet-stream")

    for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.get(place, summary="The model's tensors", responses=problems(404, 503), **v2)(metadata)
        app.get(f"{place}/ready", summary="The model answers", responses=problems(404, 503), **v2)(model_ready)
        app.add_route(f"{place}/infer", infer, methods=["POST"], include_in_schema=False)


def _add_features(app: FastAPI, plane: DataPlane, problems: Any) -> None:
    async def get_online_features(request: Request) -> Response:
        body = await read_body(request.scope, request.receive, plane.limits)
        return _json(await plane.features.get_online_features(body, plane.now_us()))

    async def push(request: Request) -> Response:
        return _json({"pushed": await plane.features.push(await read_body(request.scope, request.receive, plane.limits))})

    app.add_route("/get-online-features", get_online_features, methods=["POST"], include_in_schema=False)
    app.add_route("/push", push, methods=["POST"], include_in_schema=False)

    @app.get("/health", summary="The feature server answers", tags=["Feast feature server"])
    async def health() -> Response:
        return _json({"status": "ok"})
