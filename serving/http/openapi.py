"""The OpenAPI document: what FastAPI knows of its routes, and from the contracts what it cannot know: each model's body and example."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving.handlers import open_inference
from serving.handlers.data_plane import DataPlane
from serving.inference.predictor import Predictor
from serving.protocol import problem
from serving.protocol.answer import Answer

JSON = "application/json"
PREDICT = "/v1/models/{model}/predict"
FEEDBACK = "/v1/models/{model}/feedback"

PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["message"],
                "properties": {"message": {"type": "string"}, "row": {"type": "integer"}, "field": {"type": "string"}},
            },
        },
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    reference = {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": reference} for s in statuses}


def _post(
    summary: str, body: dict[str, Any], answer: dict[str, Any], *statuses: int, parameters: list[dict[str, Any]] | None = None
) -> Any:
    success = {"description": "OK", "content": {JSON: {"schema": answer}}}
    failures = {str(status): value for status, value in problems(*statuses).items()}
    return {
        "post": {
            "summary": summary,
            "tags": ["models"],
            "parameters": [_path("model"), *(parameters or [])],
            "requestBody": {"required": True, "content": {JSON: body}},
            "responses": {"200": success, **failures},
        }
    }


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def document(app: FastAPI, plane: DataPlane) -> dict[str, Any]:
    """The document, made anew each time: models come and go while the server runs."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    (answer,), definitions = msgspec.json.schema_components([Answer], ref_template="#/components/schemas/{name}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions | {"Problem": PROBLEM})
    live = plane.models.live
    predict = {
        "schema": {"anyOf": [p.schema.json_schema() | {"title": p.contract.model} for p in live]} if live else {"type": "object"},
        "examples": {p.contract.model: {"summary": f"model={p.contract.model}", "value": p.schema.example()} for p in live},
    }
    deadline = {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "required": False,
        "schema": {"type": "number", "minimum": 1},
        "description": "deadline in milliseconds; the contract's where it is not given",
    }
    paths = {
        PREDICT: _post(
            "Predictions, in the order of the instances", predict, answer, 400, 404, 413, 415, 422, 503, 504, parameters=[deadline]
        )
    }
    for p in live:
        body = {"schema": p.schema.json_schema(), "example": p.schema.example()}
        own = _post(f"Predictions of {p.contract.model}", body, answer, 400, 413, 415, 422, 503, 504, parameters=[deadline])
        own["post"]["parameters"] = [deadline]
        paths[PREDICT.replace("{model}", p.contract.model)] = own
    item = {
        "type": "object",
        "required": ["prediction_id", "label"],
        "properties": {
            "prediction_id": {"type": "string", "format": "uuid"},
            "label": {"type": "integer", "enum": [0, 1]},
            "at": {"type": ["string", "number", "null"], "description": "when it became known; now where it is not given"},
        },
        "additionalProperties": False,
    }
    many = {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": item, "minItems": 1}}}
    example = {"prediction_id": "0192f0c1-7a3e-7c5b-9d2e-5f1a2b3c4d5e", "label": 1}
    counts = {"type": "object", "properties": {n: {"type": "integer"} for n in ("accepted", "known")} | {"model": {"type": "string"}}}
    truth = {"schema": {"anyOf": [item, many | {"additionalProperties": False}]}, "example": example}
    paths[FEEDBACK] = _post("Ground truth by prediction_id", truth, counts, 400, 404, 409, 413, 415, 422, 503)
    document["paths"] = paths | _open_inference(live) | _feast() | document["paths"]
    return document


def _open_inference(live: list[Predictor]) -> dict[str, Any]:
    """The calls whose bodies the Open Inference Protocol defines."""
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string"},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor}, "parameters": {"type": "object"}},
    }
    response = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": tensor},
        },
    }
    values = {p.contract.model: p.schema.example()["instances"][0] for p in live}
    examples = {p.contract.model: {"value": open_inference.example(p.contract, values[p.contract.model])} for p in live}
    infer = _post("Infer", {"schema": request, "examples": examples}, response, 400, 404, 413, 415, 422, 503, 504)
    infer["post"]["tags"] = ["Open Inference Protocol"]
    place = "/v2/models/{model}/infer"
    versioned = {"post": infer["post"] | {"parameters": [*infer["post"]["parameters"], _path("version")]}}
    return {place: infer, "/v2/models/{model}/versions/{version}/infer": versioned}


def _feast() -> dict[str, Any]:
    """The calls whose bodies Feast's feature server defines."""
    columns = {"type": "object", "additionalProperties": {"type": "array"}}
    wanted = {
        "type": "object",
        "required": ["entities"],
        "properties": {
            "entities": columns,
            "feature_service": {"type": ["string", "null"]},
            "features": {"type": "array", "items": {"type": "string"}},
            "full_feature_names": {"type": "boolean"},
        },
    }
    found = {
        "type": "object",
        "required": ["metadata", "results"],
        "properties": {"metadata": {"type": "object"}, "results": {"type": "array", "items": {"type": "object"}}},
    }
    pushed = {"type": "object", "required": ["pushed"], "properties": {"pushed": {"type": "integer"}}}
    rows = {
        "type": "object",
        "required": ["push_source_name", "df"],
        "properties": {"push_source_name": {"type": "string"}, "df": columns, "to": {"type": "string", "enum": ["online"]}},
    }
    read = _post("Online features, as Feast's feature server gives them", {"schema": wanted}, found, 400, 404, 413, 415, 422, 503, 504)
    push = _post("Events, onto the live stream", {"schema": rows}, pushed, 400, 404, 413, 415, 422, 503)
    for call in (read, push):
        call["post"] |= {"tags": ["Feast feature server"], "parameters": []}
    return {
        "/get-online-features": read,
        "/push": push,
    }
