"""Whatever comes in over HTTP: it is answered, refused by a sentence that says why, and counted."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records import contract as contracts
from feature_repo.records import release
from infra.settings import Settings
from serving.http.app import door
from serving.protocol.limits import Limits
from tests.fuzz import fuzzed
from tests.infra.test_files import BREAKS
from tests.serving.hostile import HEADERS, NAMES, bodies, packed
from tests.serving.house import (
    ASKED,
    DOCKS,
    FEEDBACK,
    INFER,
    PREDICT,
    PUSHED,
    READ,
    REFUSED,
    SERVICE,
    TENSORS,
    TRUTH,
    House,
    check_refusal,
    forget_pushed,
)
from tests.serving.shop import IDS, INSTANCE, NOW_US, loader, make_contract, write_version


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


def test_what_the_fuzzer_changes_is_answered_as_it_is(shop: House, bikes_house: House) -> None:
    truth = TRUTH | {"prediction_id": IDS.make("sells_out", NOW_US)[0]}
    for path, body in ((PREDICT, ASKED), (FEEDBACK, truth), (FEEDBACK, {"items": [truth]}), (INFER, TENSORS)):
        assert shop.post(path, body).status_code == 200
    for path, body in (("/get-online-features", READ), ("/get-online-features", SERVICE), ("/push", PUSHED), ("/push", DOCKS)):
        answer = bikes_house.post(path, body)
        assert answer.status_code == 200, answer.text
    forget_pushed(bikes_house)


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
