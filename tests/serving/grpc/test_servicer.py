"""Whatever comes in over gRPC: it is answered, refused by a code and a sentence, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.grpc.servicer import InferenceCalls, handlers
from tests.fuzz import fuzzed, spoilt
from tests.serving.grpc.inference import GRPC, VALID_INFERENCE, Context, pb
from tests.serving.house import House

_CONTENTS = ["bool_contents", "int_contents", "int64_contents", "uint64_contents", "fp32_contents", "fp64_contents", "bytes_contents"]
_VALUES = {
    "bool_contents": st.booleans(), "int_contents": st.integers(-(2**31), 2**31 - 1), "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1), "fp32_contents": st.floats(width=32), "fp64_contents": st.floats(), "bytes_contents": st.binary(max_size=9),
}  # fmt: skip


@st.composite
def inferences(draw: st.DrawFn) -> Any:
    names = draw(st.sampled_from([["product", "store", "price", "asked_at"], ["product", "product"], ["what"], []]))
    request = pb.ModelInferRequest(
        model_name=draw(st.sampled_from(["sells_out", "other", ""])), model_version=draw(st.sampled_from(["", "1", "²", "9" * 5000]))
    )
    for name in names:
        datatype = draw(st.sampled_from(["BYTES", "INT64", "FP64", "FP32", "BOOL", "UINT64", "FP16", "?"]))
        tensor = request.inputs.add(
            name=name, datatype=datatype, shape=draw(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 2), max_size=3))
        )
        filled = draw(st.sampled_from(_CONTENTS))
        getattr(tensor.contents, filled).extend(draw(st.lists(_VALUES[filled], max_size=3)))
        if draw(st.integers(0, 3)) == 0:
            request.raw_input_contents.append(draw(st.binary(max_size=20)))
    if draw(st.booleans()):
        request.outputs.add(name=draw(st.sampled_from(["score", "prediction_id", "else"])))
    return request


@fuzzed
@given(inferences(), st.dictionaries(st.just("x-request-timeout-ms"), st.sampled_from(["5000", "²", "", b"\xff", "nan"])))
def test_fuzz_any_inference_over_grpc_is_answered_or_refused_and_counted(shop: House, request_: Any, metadata: dict[str, Any]) -> None:
    context, before = Context(metadata), shop.calls("grpc infer")
    shop.loop.run_until_complete(InferenceCalls(shop.plane).ModelInfer(request_, context))
    wanted = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert context.code in wanted, context.details
    assert (context.code is grpc.StatusCode.OK) == (not context.details)
    assert shop.calls("grpc infer") == before + 1


@pytest.fixture(scope="module")
def inference(shop: House) -> Iterator[Any]:
    """A function: a call's bytes over a real socket, answered by bytes or by a code and a sentence."""

    async def listen() -> tuple[Any, Any]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handlers(InferenceCalls(shop.plane)),))
        number = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, grpc.aio.insecure_channel(f"127.0.0.1:{number}")

    server, channel = shop.loop.run_until_complete(listen())
    calls = {name: channel.unary_unary(f"/inference.GRPCInferenceService/{name}") for name in GRPC}

    def call(name: str, raw: bytes) -> tuple[Any, str]:
        async def inside() -> tuple[Any, str]:
            try:
                await calls[name](raw, timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or ""
            return grpc.StatusCode.OK, ""

        return shop.loop.run_until_complete(inside())

    yield call
    shop.loop.run_until_complete(channel.close())
    shop.loop.run_until_complete(server.stop(0))


def test_an_inference_comes_over_the_socket_and_bytes_that_are_none_are_refused(shop: House, inference: Any) -> None:
    assert inference("ModelInfer", VALID_INFERENCE) == (grpc.StatusCode.OK, "")
    before = shop.calls("grpc infer")
    for name in GRPC:
        code, said = inference(name, b"\xff\xff\xff")
        assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, f"The bytes are no {name}Request.")
    assert shop.calls("grpc infer") == before + 1


@fuzzed
@given(st.sampled_from([*GRPC, *["ModelInfer"] * 6]), spoilt(VALID_INFERENCE))
def test_fuzz_any_bytes_over_grpc_are_answered_or_refused_and_counted(shop: House, inference: Any, name: str, raw: bytes) -> None:
    before = shop.calls("grpc infer")
    code, said = inference(name, raw)
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, said
    assert (code is grpc.StatusCode.OK) == (not said)
    assert shop.calls("grpc infer") == before + (name == "ModelInfer")
