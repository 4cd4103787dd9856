"""Whatever comes in over HTTP or gRPC: it is answered, refused by a sentence that says why, and counted."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.records import contract as contracts
from feature_repo.records import release
from feature_repo.records.redis_keys import events_key
from infra.settings import Settings
from serving.grpc import open_inference_pb2 as _generated
from serving.grpc.servicer import InferenceCalls, handlers
from serving.handlers import open_inference
from serving.handlers.data_plane import DataPlane
from serving.handlers.feast import key_of
from serving.http.app import Front, build_app, door
from serving.protocol.limits import Limits, natural
from serving.protocol.problem import Invalid
from streaming.online.store import connect
from tests.fuzz import fuzzed, spoilt
from tests.infra.test_files import BREAKS
from tests.serving.hostile import HEADERS, NAMES, bodies, packed
from tests.serving.shop import IDS, INSTANCE, NOW_US, loader, make_contract, write_key, write_version

pb: Any = _generated
PREDICT, FEEDBACK, INFER = "/v1/models/sells_out/predict", "/v1/models/sells_out/feedback", "/v2/models/sells_out/infer"
ASKED = {"instances": [INSTANCE, INSTANCE], "explain": False, "features": True, "now": 1_700_000_000}
TRUTH = {"prediction_id": IDS.make("sells_out", NOW_US)[0], "label": 1, "at": "2023-11-14T22:00:00Z"}
TENSORS = open_inference.example(make_contract(), INSTANCE)
REFUSED = {400, 404, 405, 409, 413, 415, 422}


class House:
    """The application over real Redis, called in this process from plain functions.

    Args:
        loads: how models are loaded; None: as they are in production.
    """

    def __init__(self, settings: Settings, loads: Any = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.plane = DataPlane(settings, lambda: NOW_US, loads)
        app = build_app(self.plane)
        self._life = app.router.lifespan_context(app)
        self.front = Front(app, self.plane)
        self.loop.run_until_complete(self._life.__aenter__())

    def call(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> httpx.Response:
        async def inside() -> httpx.Response:
            transport = httpx.ASGITransport(self.front, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, content=body, headers=headers)

        return self.loop.run_until_complete(inside())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.call("POST", path, content, {k.replace("_", "-"): v for k, v in headers.items()})

    def counted(self, name: str = "headrace_calls_total", **labels: str) -> float:
        families = text_string_to_metric_families(self.plane.metrics.text().decode())
        samples = [s for family in families for s in family.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def calls(self, door: str = "") -> int:
        """What `counted` says of calls, without the scrape, which takes ten times as long as a refusal."""
        return sum(n for (one, _), n in self.plane.metrics._answered.items() if door in ("", one))

    def close(self) -> None:
        self.loop.run_until_complete(self._life.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "repo").mkdir()
    (folder / "repo" / "feature_store.yaml").write_text("project: shop_of_doors\n")
    settings = Settings(repo=folder / "repo", state=folder / "state", redis_url=redis_url, log_retention=1000)
    write_key(settings.state)
    write_version(settings.model_root, 1)
    release.promote(settings.model_root, "sells_out", 1)
    house = House(settings, loader())
    yield house
    house.close()


def check_refusal(response: httpx.Response, *allowed: int) -> None:
    assert response.status_code in (200, *allowed), (response.status_code, response.text[:500])
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]
        assert len(response.content) < 100_000, "a refusal repeats what was sent"


@pytest.mark.parametrize(("path", "valid"), [(PREDICT, ASKED), (FEEDBACK, TRUTH), (FEEDBACK, {"items": [TRUTH]}), (INFER, TENSORS)])
@fuzzed
@given(data=st.data())
def test_fuzz_any_body_and_header_is_answered_or_refused_and_counted(shop: House, path: str, valid: Any, data: st.DataObject) -> None:
    body, headers = data.draw(bodies(valid)), data.draw(HEADERS)
    if data.draw(st.booleans()):
        body, headers["content-encoding"] = packed(body), b"gzip"
    before = shop.calls()
    response = shop.call("POST", path, body, headers)
    check_refusal(response, *REFUSED, *([503] if "x-request-timeout-ms" in headers else []))
    assert shop.calls() == before + 1


@fuzzed
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    st.sampled_from(
        [
            "/v1/models/{}", "/v1/models/{}/predict", "/v1/models/{}/drift", "/v1/models/{}/quality", "/v1/predictions/{}", "/v2/models/{}",
            "/v2/models/sells_out/versions/{}", "/v2/models/sells_out/versions/{}/ready", "/v2/models/sells_out/versions/{}/infer", "/{}", "/push/{}",
        ]
    ),
    NAMES,
)  # fmt: skip
def test_fuzz_any_path_is_answered_or_refused_and_counted(shop: House, method: str, path: str, name: str) -> None:
    before = shop.calls()
    response = shop.call(method, path.format(quote(name, safe="")) + "?" + quote(name), b"{}")
    assert response.status_code in {200, 307, *REFUSED}, response.text[:300]
    assert shop.calls() == before + 1


class _Context:
    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata, self.code, self.details = metadata, grpc.StatusCode.OK, ""

    def invocation_metadata(self) -> Any:
        return tuple(self.metadata.items())

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


_CONTENTS = ["bool_contents", "int_contents", "int64_contents", "uint64_contents", "fp32_contents", "fp64_contents", "bytes_contents"]
_CONTENTS_OF = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents"}
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
    context, before = _Context(metadata), shop.calls("grpc infer")
    shop.loop.run_until_complete(InferenceCalls(shop.plane).ModelInfer(request_, context))
    wanted = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert context.code in wanted, context.details
    assert (context.code is grpc.StatusCode.OK) == (not context.details)
    assert shop.calls("grpc infer") == before + 1


def asked() -> Any:
    request = pb.ModelInferRequest(model_name="sells_out")
    for tensor in TENSORS["inputs"]:
        given = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        data = [v.encode() if isinstance(v, str) else v for v in tensor["data"]]
        getattr(given.contents, _CONTENTS_OF[tensor["datatype"]]).extend(data)
    return request


def test_predictions_over_http_and_grpc_are_admitted_from_one_budget(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at once, however they are shared out between the doors; then 503 and UNAVAILABLE, and each place is given back."""
    monkeypatch.setattr(shop.plane.admission, "most", 3)
    body = msgspec.json.encode({"instances": [INSTANCE]})

    async def over_http(path: str, body: bytes) -> int:
        transport = httpx.ASGITransport(shop.front, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post(path, content=body)
            assert answer.status_code != 503 or answer.headers["retry-after"] == "1"
            return answer.status_code

    async def over_grpc() -> int:
        context = _Context({})
        await InferenceCalls(shop.plane).ModelInfer(asked(), context)
        return {grpc.StatusCode.OK: 200, grpc.StatusCode.UNAVAILABLE: 503}[context.code]

    async def all_at_once() -> list[int]:
        doors = [over_http(PREDICT, body), over_grpc(), over_http(INFER, msgspec.json.encode(TENSORS))]
        return await asyncio.gather(*doors, *(over_grpc() for _ in range(4)), *(over_http(PREDICT, body) for _ in range(4)))

    found = shop.loop.run_until_complete(all_at_once())
    assert sorted(found) == [200] * 3 + [503] * 8
    assert shop.plane.admission.at_work == 0
    for call in (over_grpc(), over_http(PREDICT, body), over_http(PREDICT, b"{"), over_http(INFER, b"{}")):
        assert shop.loop.run_until_complete(call) in (200, 400, 422)
        assert shop.plane.admission.at_work == 0


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"instances":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested deeper"),
        (b'{"instances":[],"zzz":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested deeper"),
        (b'{"instances":[{"product":"tea","store":' + b"9" * 400 + b',"price":1,"asked_at":1}]}', 422, "between"),
        (b'{"instances":[{"product":"tea","store":1,"price":' + b"9" * 400 + b',"asked_at":1}]}', 422, "float64"),
        (msgspec.json.encode({"instances": [{**INSTANCE, "product": "x" * 5000}]}), 422, "at most 4096"),
        (msgspec.json.encode({"instances": [{**INSTANCE, "asked_at": "x" * 5000}]}), 422, "at most 4096"),
        (msgspec.json.encode({"instances": [INSTANCE] * 1001}), 413, "at most 1000"),
        (b" " * (Limits.body + 1), 413, "larger than 4194304 bytes"),
    ],
)
def test_a_body_beyond_a_limit_is_refused_by_a_sentence_that_says_the_limit(shop: House, body: bytes, status: int, said: str) -> None:
    before = shop.counted("headrace_requests_total", model="sells_out", status=str(status))
    response = shop.post(PREDICT, body)
    assert (response.status_code, said in response.text) == (status, True), response.text[:300]
    assert len(response.content) < 10_000
    assert shop.counted("headrace_requests_total", model="sells_out", status=str(status)) == before + 1


def test_a_gzip_body_is_read_and_another_packing_is_415(shop: House) -> None:
    body = msgspec.json.encode({"instances": [INSTANCE]})
    plain = shop.post(PREDICT, body).json()["predictions"][0]["score"]
    assert shop.post(PREDICT, gzip.compress(body), content_encoding="gzip").json()["predictions"][0]["score"] == plain
    twice = gzip.compress(body[:20]) + gzip.compress(body[20:])
    assert shop.post(PREDICT, twice, content_encoding="GZip").status_code == 200
    refused = shop.post(PREDICT, body, content_encoding="br")
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip")
    for broken in (body, gzip.compress(body)[:-5], gzip.compress(body) + b"more", b""):
        assert shop.post(PREDICT, broken, content_encoding="gzip").status_code == 400


@pytest.mark.parametrize("path", [PREDICT, FEEDBACK, INFER, "/get-online-features", "/push"])
def test_a_gzip_body_that_grows_beyond_the_limit_is_not_unpacked(shop: House, path: str) -> None:
    bomb = gzip.compress(b" " * 100_000_000, 9)
    before = time.process_time()
    assert shop.post(path, bomb, content_encoding="gzip").status_code == 413
    assert time.process_time() - before < 1


def test_what_ends_in_no_answer_is_counted_too(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaves() -> Any:
        return {"type": "http.disconnect"}

    async def nobody(message: Any) -> None:
        raise AssertionError(message)

    for path, label in ((PREDICT, "predict"), (FEEDBACK, "feedback")):
        before = shop.counted(door=label, status="499")
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": "", "scheme": "http"}
        sent: list[Any] = []

        async def keep(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        shop.loop.run_until_complete(shop.front(scope, leaves, nobody if label == "predict" else keep))
        assert shop.counted(door=label, status="499") == before + 1
    assert shop.counted("headrace_requests_total", model="sells_out", status="499") >= 1

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    predictor = shop.plane.models.predictor("sells_out")[1]
    monkeypatch.setattr(predictor, "predict", broken)
    assert shop.post(PREDICT, {"instances": [INSTANCE]}).status_code == 500
    assert shop.counted(door="predict", status="500") == 1
    assert shop.counted("headrace_requests_total", model="sells_out", status="500") == 1
    assert shop.post(INFER, TENSORS).status_code == 500
    assert shop.counted(door="infer", status="500") == 1


def test_the_scrape_says_what_was_counted(shop: House) -> None:
    shop.post(PREDICT, b"{")
    assert shop.calls() == shop.counted() > 0
    assert shop.calls("predict") == shop.counted(door="predict") > 0


def test_labels_of_what_is_counted_are_few_whatever_is_called() -> None:
    paths = [
        "/",
        "",
        "/v1",
        "/v1/models/x/predict",
        "/v2/models/x/versions/1/infer",
        "/v1/predictions/x",
        "/metrics",
        "/metrics/x",
        "/healthz",
        "/%00",
    ]
    assert {door(p) for p in paths} == {"(unknown)", "models", "predict", "infer", "prediction", "metrics", "probe"}


@pytest.mark.parametrize("text", ["²", "٣", "", "-1", "1.0", "1_0", "9" * 19, " 1"])
def test_a_digit_of_another_script_is_no_number(text: str) -> None:
    assert natural(text) is None


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=1)))
def test_a_key_is_the_entity_that_was_asked_for_or_it_is_refused(value: Any) -> None:
    for dtype, bits in (("int32", 31), ("int64", 63)):
        try:
            found = key_of(value, dtype, "station", 0)
        except Invalid:
            continue
        if value is None:
            assert found is None
            continue
        assert not isinstance(value, bool)
        assert (int(value) if isinstance(value, str) else value) == found
        assert -(2**bits) <= found < 2**bits


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(8.9, "int64"), (True, "int64"), ("8.9", "int64"), ("²", "int64"), (2**31, "int32"), (True, "string"), ([], "string")],
)
def test_a_key_of_another_kind_is_refused_by_its_row_and_name(value: Any, dtype: str) -> None:
    with pytest.raises(Invalid, match=r"row 4, entities\.station") as refused:
        key_of(value, dtype, "station", 4)
    assert (refused.value.errors[0].row, refused.value.errors[0].field) == (4, "entities.station")


@pytest.fixture(scope="module")
def bikes_house(bikes: Any) -> Iterator[House]:
    house = House(bikes.settings)
    yield house
    house.close()


READ = {"entities": {"station": [7, 3, None]}, "features": ["dock:charge", "rides_by_station:rides_2h"], "full_feature_names": True}
SERVICE = {
    "feature_service": "dock_choice",
    "entities": {"station": [7], "rider_class": ["member"], "wanted_at": [1615593000], "party": [2]},
}
MOMENT = "2021-03-13T05:00:00Z"
RIDES = {"ride": [1, 2], "station": [7, 3], "rider_class": ["member", None], "began": [MOMENT, 1615593000.5], "reported": [MOMENT] * 2}
PUSHED = {"push_source_name": "rides", "df": RIDES | {"kilometres": [1.5, None]}, "to": "online"}
DOCKS = {"push_source_name": "docks", "df": {"station": [7], "seen": [MOMENT], "free_bikes": [3], "charge": [0.5]}}


def test_what_the_fuzzer_changes_is_answered_as_it_is(shop: House, bikes_house: House) -> None:
    truth = TRUTH | {"prediction_id": IDS.make("sells_out", NOW_US)[0]}
    for path, body in ((PREDICT, ASKED), (FEEDBACK, truth), (FEEDBACK, {"items": [truth]}), (INFER, TENSORS)):
        assert shop.post(path, body).status_code == 200
    for path, body in (("/get-online-features", READ), ("/get-online-features", SERVICE), ("/push", PUSHED), ("/push", DOCKS)):
        answer = bikes_house.post(path, body)
        assert answer.status_code == 200, answer.text
    forget_pushed(bikes_house)


def forget_pushed(house: House) -> None:
    client = connect(house.plane.settings.redis())
    client.delete(events_key("bikes"))
    client.close()


def test_features_are_read_by_the_key_that_was_sent_and_limits_are_said(bikes_house: House) -> None:
    path, features = "/get-online-features", ["dock:charge"]
    good = bikes_house.post(path, {"entities": {"station": [7, "7", 7.0]}, "features": features})
    assert good.status_code == 200, good.text
    assert len({str(v) for v in good.json()["results"][1]["values"]}) == 1
    for bad in (8.9, True, "8.9", [7], 2**70):
        refused = bikes_house.post(path, {"entities": {"station": [7, bad]}, "features": features})
        assert refused.status_code == 422, (bad, refused.text)
    for body, status, said in (
        ({"entities": {"station": [7] * 1001}, "features": features}, 413, "at most 1000"),
        ({"entities": {"station": [7], "note": ["x" * 5000]}, "features": features}, 422, "at most 4096"),
        ({"entities": {"station": [7], "note": [1]}, "features": features * 2}, 422, "twice"),
        ({"entities": {str(i): [7] for i in range(2000)} | {"station": [7]}, "features": features}, 413, "at most 1000"),
    ):
        refused = bikes_house.post(path, body)
        assert (refused.status_code, said in refused.text) == (status, True), refused.text[:300]


@fuzzed
@given(bodies(READ, SERVICE))
def test_fuzz_any_read_of_features_is_answered_or_refused_and_counted(bikes_house: House, body: bytes) -> None:
    before = bikes_house.calls()
    check_refusal(bikes_house.call("POST", "/get-online-features", body), *REFUSED)
    assert bikes_house.calls() == before + 1


@fuzzed
@given(bodies(PUSHED, DOCKS), st.integers(0, 99))
def test_fuzz_any_push_is_taken_or_refused_and_counted(bikes_house: House, body: bytes, often: int) -> None:
    """What is taken can be read: nothing of it is rejected by the stream."""
    before = bikes_house.calls("push")
    response = bikes_house.call("POST", "/push", body)
    check_refusal(response, *REFUSED)
    assert bikes_house.calls("push") == before + 1
    if response.status_code == 200 and not often:
        forget_pushed(bikes_house)


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


@pytest.mark.parametrize("how", [*BREAKS, "exchanged"])
def test_a_broken_model_is_refused_by_name_and_the_others_go_on(tmp_path: Path, redis_url: str, how: str) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "feature_store.yaml").write_text("project: shop_of_the_broken\n")
    settings = Settings(repo=tmp_path / "repo", state=tmp_path / "state", redis_url=redis_url)
    root = settings.model_root
    folder = write_version(root, 1, model="other")
    folder.parent.rename(root / "other")
    release.promote(root, "other", 1)
    write_version(root, 1)
    release.promote(root, "sells_out", 1)
    if how == "exchanged":
        mine = root / "other" / "1"
        contracts.write(
            mine, make_contract(1, model="other", label="another", files={contracts.MODEL: contracts.sha256(mine / contracts.MODEL)})
        )
    else:
        BREAKS[how](root / "other" / release.RELEASE)
    house = House(settings, loader())
    try:
        assert house.post(PREDICT, {"instances": [INSTANCE]}).status_code == 200
        refused = house.post(PREDICT.replace("sells_out", "other"), {"instances": [INSTANCE]})
        said = "not the contract that was released" if how == "exchanged" else "release.json cannot be read"
        assert (refused.status_code, said in refused.json()["detail"]) == (503, True), refused.text
        assert house.call("GET", "/readyz").status_code == 200
    finally:
        house.close()
