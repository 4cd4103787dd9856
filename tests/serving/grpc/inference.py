"""Inferences over gRPC: a valid one, and the context of a call."""

from __future__ import annotations

from typing import Any

import grpc

from serving.grpc import open_inference_pb2 as _generated
from tests.serving.house import TENSORS

pb: Any = _generated


class Context:
    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata, self.code, self.details = metadata, grpc.StatusCode.OK, ""

    def invocation_metadata(self) -> Any:
        return tuple(self.metadata.items())

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


CONTENTS_OF = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents"}


def asked() -> Any:
    request = pb.ModelInferRequest(model_name="sells_out")
    for tensor in TENSORS["inputs"]:
        given = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        data = [v.encode() if isinstance(v, str) else v for v in tensor["data"]]
        getattr(given.contents, CONTENTS_OF[tensor["datatype"]]).extend(data)
    return request


GRPC = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")


def valid_inference() -> bytes:
    request = pb.ModelInferRequest(model_name="sells_out", model_version="1", id="7")
    contents = {
        "BYTES": "bytes_contents",
        "INT64": "int64_contents",
        "INT32": "int_contents",
        "FP64": "fp64_contents",
        "FP32": "fp32_contents",
    }
    for tensor in TENSORS["inputs"]:
        made = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=[1])
        values = [v.encode() if isinstance(v, str) else v for v in tensor["data"]]
        getattr(made.contents, contents[tensor["datatype"]]).extend(values)
    return bytes(request.SerializeToString())


VALID_INFERENCE = valid_inference()
