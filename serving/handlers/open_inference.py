"""The Open Inference Protocol, version 2: a model's request fields as named tensors, its scores as another; JSON or binary.

Source: the protocol's REST specification (KServe, `open-inference-protocol`), and its binary tensor data extension (Triton). A field is
one tensor of shape `[rows]` or `[rows, 1]`. What a tensor cannot say is said so: NaN is null for a number, an empty string for an entity
or a moment that is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from feature_repo.records.contract import Contract, RequestField
from serving.protocol.answer import Answer
from serving.protocol.body import read_json
from serving.protocol.limits import Limits, natural
from serving.protocol.problem import FieldError, Invalid, Malformed, TooLarge
from serving.protocol.request import shown

DATATYPES = {
    "string": "BYTES",
    "int64": "INT64",
    "int32": "INT32",
    "float64": "FP64",
    "float32": "FP32",
    "bool": "BOOL",
    "timestamp": "BYTES",
}
_NUMPY = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
SCORE, NUMBER = "score", "prediction_id"
OUTPUTS = {SCORE: "FP64", NUMBER: "BYTES"}
EXTENSIONS = ("binary_tensor_data",)


class Tensor(msgspec.Struct):
    """`data` is flat or one list per row."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Request(msgspec.Struct):
    """An inference request, as JSON has it."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []


@dataclass(frozen=True)
class Inference:
    """
    Attributes:
        instances: as for a predict request.
        id: the caller's; given back.
        outputs: name → whether it is wanted in binary.
    """

    instances: list[dict[str, Any]]
    id: str | None
    outputs: dict[str, bool]


def metadata(contract: Contract, versions: list[int]) -> dict[str, Any]:
    """The model's tensors."""
    return {
        "name": contract.model,
        "versions": [str(v) for v in versions],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": f.name, "datatype": DATATYPES[f.dtype], "shape": [-1]} for f in contract.request],
        "outputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUTS.items()],
    }


def example(contract: Contract, values: dict[str, Any]) -> dict[str, Any]:
    """A request that is answered, from the example of a predict request's instance."""
    return {
        "id": "1",
        "inputs": [{"name": f.name, "shape": [1], "datatype": DATATYPES[f.dtype], "data": [values[f.name]]} for f in contract.request],
    }


def decode(body: bytes, json_length: str | None, contract: Contract, limits: Limits | None = None) -> Inference:
    """Read an inference request.

    Args:
        json_length: header `Inference-Header-Content-Length`: where the JSON ends and binary tensors begin.

    Raises:
        Malformed: not JSON, or binary data that is cut short.
        Invalid: tensors that are not this model's, each by its name.
        TooLarge: more rows than are taken at once.
    """
    length: int | None = len(body)
    if json_length is not None:
        length = natural(json_length)
        if length is None or length > len(body):
            raise Malformed(f"Inference-Header-Content-Length is {shown(json_length)}, the body has {len(body)} bytes.")
    asked: Request = read_json(body[:length], Request, "inputs")
    raws: list[bytes | None] = []
    at = length or 0
    for tensor in asked.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            raws.append(None)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or at + size > len(body):
            raise Malformed(f"tensor {shown(tensor.name)}: the body ends before its {shown(size)} bytes of binary data do.")
        raws.append(body[at : at + size])
        at += size
    return read(asked, raws, contract, limits)


def read(asked: Request, raws: list[bytes | None], contract: Contract, limits: Limits | None = None) -> Inference:
    """The instances that a request's tensors are.

    Args:
        raws: per tensor its binary data; None where it has values.

    Raises:
        Invalid: tensors that are not this model's, each by its name.
        TooLarge: more rows than are taken at once.
    """
    limits = limits or Limits()
    fields = {f.name: f for f in contract.request}
    columns: dict[str, list[Any]] = {}
    faults = []
    for tensor, raw in zip(asked.inputs, raws, strict=True):
        if tensor.name not in fields:
            faults.append(FieldError(f"is no input of this model; it takes {', '.join(fields)}", field=tensor.name[:100]))
            continue
        if tensor.name in columns:
            faults.append(FieldError("is given twice", field=tensor.name))
            continue
        if (rows := max(tensor.shape, default=0)) > limits.rows:
            raise TooLarge(f"tensor {tensor.name!r} has {shown(rows)} rows; at most {limits.rows} are taken: split the request.")
        try:
            columns[tensor.name] = _values(tensor, raw, fields[tensor.name])
        except ValueError as error:
            faults.append(FieldError(str(error), field=tensor.name))
    faults += [FieldError("is missing", field=name) for name in fields if name not in columns and not any(f.field == name for f in faults)]
    if not faults and len({len(c) for c in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        faults.append(FieldError(f"have different numbers of rows: {lengths}", field="inputs"))
    binary = asked.parameters.get("binary_data_output") is True
    wanted = {o.name: o.parameters.get("binary_data", binary) is True for o in asked.outputs} or dict.fromkeys(OUTPUTS, binary)
    faults += [FieldError(f"is no output of this model; it gives {', '.join(OUTPUTS)}", field=n[:100]) for n in wanted if n not in OUTPUTS]
    if faults:
        raise Invalid(f"tensor {faults[0].field!r}: {faults[0].message}.", faults)
    rows = len(next(iter(columns.values()), []))
    return Inference([{name: columns[name][i] for name in fields} for i in range(rows)], asked.id, wanted)


def _values(tensor: Tensor, raw: bytes | None, field: RequestField) -> list[Any]:
    """A tensor's values as a predict request has them.

    Raises:
        ValueError: shape, datatype or data do not fit each other.
    """
    shape = [n for n in tensor.shape if n != 1] or [1]
    if len(shape) > 1 or shape[0] < 0:
        raise ValueError(f"has shape {shown(tensor.shape)}; it must be [rows] or [rows, 1]")
    if tensor.datatype != "BYTES" and tensor.datatype not in _NUMPY:
        raise ValueError(f"has datatype {shown(tensor.datatype)}, which the protocol does not know")
    rows = math.prod(tensor.shape)
    if raw is None:
        values = _flat(tensor.data)
    elif tensor.datatype == "BYTES":
        values = _strings(raw)
    elif len(raw) != rows * np.dtype(_NUMPY[tensor.datatype]).itemsize:
        raise ValueError(f"has {len(raw)} bytes of binary data, which are not {rows} of {tensor.datatype}")
    else:
        values = np.frombuffer(raw, dtype=_NUMPY[tensor.datatype]).tolist()
    if len(values) != rows:
        raise ValueError(f"has {len(values)} values; its shape says {rows}")
    return [_value(value, field) for value in values]


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError("has no data")
    return [value for row in data for value in row] if data and all(isinstance(row, list) for row in data) else data


def _strings(raw: bytes) -> list[str]:
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise ValueError("has a string that ends before its length says")
        found.append(raw[at + 4 : end].decode())
        at = end
    return found


def _value(value: Any, field: RequestField) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        if value != value:
            return None
        raise ValueError("has an infinite value; it must be finite")
    if value == "" and (field.kind == "entity" or field.dtype == "timestamp"):
        return None
    if isinstance(value, float) and field.dtype.startswith("int") and value.is_integer():
        return int(value)  # clients whose tensors are all floats
    if field.dtype == "bool" and isinstance(value, int) and value in (0, 1):
        return bool(value)
    return value


def encode(answer: Answer, asked: Inference) -> tuple[bytes, int | None]:
    """The response, and where its JSON ends if binary tensors follow."""
    rows = len(answer.predictions)
    outputs: list[dict[str, Any]] = []
    tail = []
    for name, binary in asked.outputs.items():
        output: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": [rows]}
        values: list[Any] = [p.score if name == SCORE else p.prediction_id for p in answer.predictions]
        if binary:
            parts = [np.float64(v).tobytes() if name == SCORE else len(v).to_bytes(4, "little") + v.encode() for v in values]
            tail.append(b"".join(parts))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    response: dict[str, Any] = {"model_name": answer.model, "model_version": str(answer.model_version), "outputs": outputs}
    if asked.id is not None:
        response["id"] = asked.id
    head = msgspec.json.encode(response)
    return head + b"".join(tail), len(head) if tail else None
