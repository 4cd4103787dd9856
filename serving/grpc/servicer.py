"""The Open Inference Protocol over gRPC: a server of our own in each replica, in terms of the data plane."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError

from serving.grpc import open_inference_pb2 as _generated
from serving.handlers import open_inference
from serving.handlers.data_plane import DataPlane
from serving.handlers.open_inference import SCORE, Inference, Request, Tensor, Wanted
from serving.protocol.limits import Limits
from serving.protocol.problem import Invalid, Late, Malformed, NotFound, Problem, TooLarge, Unavailable

pb: Any = _generated
log = logging.getLogger(__name__)
TIMEOUT = "x-request-timeout-ms"
_CODES: dict[type[Problem], Any] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    Malformed: grpc.StatusCode.INVALID_ARGUMENT,
    TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Late: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@contextlib.asynccontextmanager
async def listening(plane: DataPlane) -> AsyncIterator[None]:
    """Answer gRPC as well, where `HEADRACE_GRPC` asks for it.

    A server of our own in each replica: Ray's binds every interface and knows no admission. The replicas of a checkout share the port
    (SO_REUSEPORT, which the kernel grants to processes of one user only), and the kernel spreads connections over them.

    Raises:
        OSError: the port is taken by another program.
    """
    own = plane.settings
    if not own.grpc:
        yield
        return
    from infra.ports import port

    # longer messages than a body may be are refused before they are decoded
    limits = [("grpc.max_receive_message_length", plane.limits.body), ("grpc.so_reuseport", 1)]
    server = grpc.aio.server(options=limits, maximum_concurrent_rpcs=4 * own.max_at_once)
    server.add_generic_rpc_handlers((handlers(InferenceCalls(plane)),))
    host = f"[{own.host}]" if ":" in own.host else own.host
    number = own.grpc_port or port(own.state, "grpc")
    try:
        server.add_insecure_port(f"{host}:{number}")
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {host}:{number}: {error}") from None
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=5)


class _Unreadable:
    """Stands for a message that is none."""


def handlers(calls: InferenceCalls) -> Any:
    """The service's calls as gRPC takes them. Bytes that are no such message are refused as everything else is, and counted: gRPC itself
    would call them a fault of the server, and write a traceback."""

    def parser(kind: Any) -> Callable[[bytes], Any]:
        def parse(raw: bytes) -> Any:
            try:
                return kind.FromString(raw)
            except DecodeError:
                return _Unreadable()

        return parse

    def guarded(name: str) -> Callable[[Any, Any], Awaitable[Any]]:
        call, answer = getattr(calls, name), getattr(pb, f"{name}Response")

        async def answered(request: Any, context: Any) -> Any:
            if not isinstance(request, _Unreadable):
                return await call(request, context)
            problem = Malformed(f"The bytes are no {name}Request.")
            if name == "ModelInfer":
                calls.plane().metrics.answered("grpc infer", _code(problem).name)
            return _refuse(context, problem, answer())

        return answered

    made = {
        name: grpc.unary_unary_rpc_method_handler(
            guarded(name), request_deserializer=parser(getattr(pb, f"{name}Request")), response_serializer=lambda m: m.SerializeToString()
        )
        for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    }
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", made)


class InferenceCalls:
    """The service's calls, in terms of a data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def plane(self) -> DataPlane:
        return self._plane

    async def ServerLive(self, request: Any, _: Any = None) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, _: Any = None) -> Any:
        try:
            await self.plane().ready()
        except Problem:
            return pb.ServerReadyResponse(ready=False)
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, _: Any = None) -> Any:
        try:
            self.plane().tensors(request.name, request.version or None)
        except Problem:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, _: Any = None) -> Any:
        return pb.ServerMetadataResponse(name="headrace", version="1", extensions=open_inference.EXTENSIONS)

    async def ModelMetadata(self, request: Any, grpc_context: Any) -> Any:
        try:
            found = self.plane().tensors(request.name, request.version or None)
        except Problem as problem:
            return _refuse(grpc_context, problem, pb.ModelMetadataResponse())
        kind = pb.ModelMetadataResponse.TensorMetadata
        tensors = {side: [kind(**t) for t in found[side]] for side in ("inputs", "outputs")}
        return pb.ModelMetadataResponse(name=found["name"], versions=found["versions"], platform=found["platform"], **tensors)

    async def ModelInfer(self, request: Any, grpc_context: Any) -> Any:
        started = time.perf_counter()
        plane, code = self.plane(), grpc.StatusCode.CANCELLED
        try:
            response = await self._infer(plane, request, _timeout(grpc_context), started)
            code = grpc.StatusCode.OK
        except Problem as problem:
            code, response = _code(problem), _refuse(grpc_context, problem, pb.ModelInferResponse())
        except Exception as error:
            log.error("ModelInfer failed", exc_info=error)
            failure = Problem("The server failed on this request; its log says why.")
            code, response = _code(failure), _refuse(grpc_context, failure, pb.ModelInferResponse())
        finally:
            plane.metrics.answered("grpc infer", code.name)
        return response

    async def _infer(self, plane: DataPlane, request: Any, timeout_ms: str | None, started: float) -> Any:
        answer, asked = await plane.infer(
            request.model_name, request.model_version or None, lambda c: _read(request, c, plane.limits), timeout_ms, started
        )
        response = pb.ModelInferResponse(model_name=answer.model, model_version=str(answer.model_version), id=request.id)
        for name in asked.outputs:
            response.outputs.add(name=name, datatype=open_inference.OUTPUTS[name], shape=[len(answer.predictions)])
            if name == SCORE:
                response.raw_output_contents.append(np.array([p.score for p in answer.predictions], "<f8").tobytes())
            else:
                ids = (p.prediction_id.encode() for p in answer.predictions)
                response.raw_output_contents.append(b"".join(len(i).to_bytes(4, "little") + i for i in ids))
        return response


def _timeout(context: Any) -> str | None:
    """The caller's deadline; metadata of a name that ends in -bin are bytes, and are not asked for."""
    given = dict(context.invocation_metadata() or ()).get(TIMEOUT)
    return given.decode("latin-1") if isinstance(given, bytes) else given


def _code(problem: Problem) -> Any:
    return next((code for kind, code in _CODES.items() if isinstance(problem, kind)), grpc.StatusCode.INTERNAL)


def _refuse(context: Any, problem: Problem, empty: Any) -> Any:
    context.set_code(_code(problem))
    context.set_details(problem.detail)
    return empty


def _read(request: Any, contract: Any, limits: Limits) -> Inference:
    """
    Raises:
        Malformed: binary contents that are not one per tensor.
        Invalid: tensors that are not this model's.
        TooLarge: more bytes or rows than are taken at once.
    """
    if request.ByteSize() > limits.body:
        raise TooLarge(f"The request is larger than {limits.body} bytes: send less in one request.")
    raws = list(request.raw_input_contents)
    if raws and len(raws) != len(request.inputs):
        raise Malformed(f"{len(raws)} raw_input_contents for {len(request.inputs)} inputs.")
    tensors = []
    for tensor in request.inputs:
        data = None
        if not raws:
            name = _CONTENTS.get(tensor.datatype)
            values = list(getattr(tensor.contents, name)) if name else []
            data = [v.decode(errors="replace") for v in values] if tensor.datatype == "BYTES" else values
        tensors.append(Tensor(tensor.name, list(tensor.shape), tensor.datatype, data))
    wanted = [Wanted(output.name) for output in request.outputs]
    return open_inference.read(Request(tensors, request.id, {}, wanted), raws or [None] * len(tensors), contract, limits)
