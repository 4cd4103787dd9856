from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from feature_repo.records import contract as contracts
from feature_repo.records import release
from feature_repo.records.contract import Null
from feature_repo.records.prediction import Prediction
from feature_repo.records.redis_keys import drift_key, prediction_log_key
from serving.handlers.data_plane import DataPlane
from serving.models import repository
from serving.protocol.limits import Limits
from serving.telemetry.prediction_id import PredictionIds
from tests.serving.shop import INSTANCE, NOW_US, Rows, shelves, with_null
from tests.serving.shop_server import FEEDBACK, ID, PREDICT, Server, problem

VERDICT = {
    "model": "sells_out",
    "version": 1,
    "at_us": NOW_US,
    "window": {"rows": 500},
    "drift": True,
    "features": [{"name": "stock", "p_value": 0.001, "effect": 0.4, "drift": True}],
    "score": {"name": "score", "p_value": 0.5, "effect": 0.01, "drift": False},
    "label": {"name": "label", "p_value": 0.5, "effect": 0.1, "drift": False},
    "outliers": {"share": 0.02, "alarm": False},
}


@pytest.fixture
def server(tmp_path: Path, redis_url: str) -> Server:
    server = Server(tmp_path, redis_url)
    server.version()
    return server


def test_a_prediction_is_answered_and_logged(server: Server) -> None:
    response = server.post(PREDICT, {"instances": [INSTANCE, INSTANCE]})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["model"], answer["model_version"], len(answer["predictions"])) == ("sells_out", 1, 2)
    logged = [msgspec.json.decode(fields[b"p"], type=Prediction) for _, fields in server.redis.xrange(prediction_log_key(server.project))]
    assert [(p.id, p.score, p.at_us) for p in logged] == [(p["prediction_id"], p["score"], NOW_US) for p in answer["predictions"]]


def test_now_is_taken_where_the_profile_allows_it(server: Server) -> None:
    server.post(PREDICT, {"instances": [INSTANCE], "now": "2013-10-01T00:00:00Z"})
    ((_, fields),) = server.redis.xrange(prediction_log_key(server.project))
    assert msgspec.json.decode(fields[b"p"], type=Prediction).at_us == 1_380_585_600_000_000


def test_now_is_refused_elsewhere(tmp_path: Path, redis_url: str) -> None:
    server = Server(tmp_path, redis_url, request_now=False)
    server.version()
    assert problem(server.post(PREDICT, {"instances": [INSTANCE], "now": 1}), 422)["errors"][0]["field"] == "now"


@pytest.mark.parametrize(
    ("content", "status"),
    [("application/json", 200), ("application/json; charset=utf-8", 200), ("application/vnd.shop+json", 200), ("text/plain", 415)],
)
def test_json_is_taken_under_its_own_content_types_and_not_as_a_page_would_send_it(server: Server, content: str, status: int) -> None:
    assert server.post(PREDICT, {"instances": [INSTANCE]}, content_type=content).status_code == status


@pytest.mark.parametrize(("name", "value", "status"), [("origin", "http://evil.example", 403), ("host", "evil.example", 421)])
def test_a_page_of_another_site_is_refused_at_every_door(server: Server, name: str, value: str, status: int) -> None:
    for path in (PREDICT, "/push", "/get-online-features", "/v1/models/sells_out/feedback", "/v2/models/sells_out/infer"):
        problem(server.post(path, {"instances": [INSTANCE]}, **{name: value}), status)


@pytest.mark.parametrize(
    ("body", "status", "row", "field"),
    [
        (b"{", 400, None, None),
        (b"", 400, None, None),
        ({"instances": [INSTANCE, {**INSTANCE, "store": "x"}]}, 422, 1, "store"),
        ({"instances": [{**INSTANCE, "colour": 1}]}, 422, 0, "colour"),
        ({"instances": [INSTANCE], "loud": 1}, 422, None, "loud"),
        ({"instances": []}, 422, None, "instances"),
        ({"instances": [INSTANCE], "explain": True}, 422, None, "explain"),
        ({"instances": [INSTANCE] * 1001}, 413, None, None),
        (b" " * (Limits.body + 1), 413, None, None),
    ],
)
def test_a_bad_body_gets_a_problem_with_row_and_field(server: Server, body: Any, status: int, row: int | None, field: str | None) -> None:
    answer = problem(server.post(PREDICT, body), status)
    first = answer.get("errors", [{}])[0]
    assert (first.get("row"), first.get("field")) == (row, field)


def test_a_body_without_a_declared_length_is_limited_as_well(server: Server) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * (Limits.body // 10)

    problem(server.run(lambda client: client.post(PREDICT, content=endless())), 413)


def test_an_unknown_model_is_told_which_there_are(server: Server) -> None:
    for method, path in (("POST", "predict"), ("POST", "feedback"), ("GET", "drift"), ("GET", "")):
        response = server.run(lambda client, m=method, p=path: client.request(m, f"/v1/models/other/{p}".rstrip("/"), content=b"{}"))
        assert problem(response, 404)["models"] == ["sells_out"]


def test_the_frameworks_own_errors_are_problems(server: Server) -> None:
    problem(server.get("/nowhere"), 404)
    response = server.get(PREDICT)
    problem(response, 405)
    assert response.headers["allow"] == "POST"
    problem(server.post("/v1/models", b""), 405)


def test_a_failure_of_ours_is_a_500_that_says_nothing_inside(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(DataPlane, "catalogue", broken)
    response = server.get("/v1/models")
    problem(response, 500)
    assert "secret" not in response.text


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf"])
def test_a_deadline_that_is_none_is_refused(server: Server, value: str) -> None:
    problem(server.post(PREDICT, {"instances": [INSTANCE]}, x_request_timeout_ms=value), 422)


@pytest.mark.parametrize(
    ("name", "kind", "call"),
    [
        ("labels:sells_out", "hash", "feedback"),
        ("label-log", "stream", "feedback"),
        ("predictions", "stream", "old feedback"),
        ("predictions", "stream", "passport"),
        ("drift:sells_out", "string", "drift"),
        ("quality:sells_out", "string", "quality"),
    ],
)
def test_a_key_that_somebody_else_has_written_is_named_with_what_it_is(server: Server, name: str, kind: str, call: str) -> None:
    key = f"headrace:{{{server.project}}}:{name}"
    there = "list"
    server.redis.rpush(key, "somebody else's")
    before = PredictionIds(bytes(32), NOW_US // 1000 - 1_000_000).make("sells_out", NOW_US - 900_000_000, 1)[0]
    answer = {
        "feedback": lambda: server.post(FEEDBACK, {"prediction_id": ID, "label": 1}),
        "old feedback": lambda: server.post(FEEDBACK, {"prediction_id": before, "label": 1}),
        "passport": lambda: server.get(f"/v1/predictions/{ID}"),
        "drift": lambda: server.get("/v1/models/sells_out/drift"),
        "quality": lambda: server.get("/v1/models/sells_out/quality"),
    }[call]()
    said = problem(answer, 503)["detail"]
    assert f"refuses: {key} is a {there} and not a {kind}: rename or remove it" in said
    assert "does not answer" not in said
    assert answer.headers["retry-after"]
    server.redis.delete(key)


def test_a_lost_store_is_a_prompt_503(server: Server) -> None:
    server.reader.down = True
    response = server.post(PREDICT, {"instances": [INSTANCE]})
    problem(response, 503)
    assert response.headers["retry-after"] == "1"
    server.reader.down, server.reader.delay_s = False, 30
    problem(server.post(PREDICT, {"instances": [INSTANCE]}, x_request_timeout_ms="50"), 503)
    assert server.reader.timeouts[-1] == pytest.approx(0.05, abs=0.01)


def test_contributions_name_the_strongest_inputs(server: Server) -> None:
    server.version(2, booster=True)
    answer = server.post(PREDICT, {"instances": [INSTANCE], "explain": True}).json()
    contributions = answer["predictions"][0]["contributions"]
    assert len(contributions) == 5
    assert contributions[0]["name"] == "mean_price"
    sizes = [abs(c["contribution"]) for c in contributions]
    assert sizes == sorted(sizes, reverse=True)
    assert answer["predictions"][0]["score"] == server.post(PREDICT, {"instances": [INSTANCE]}).json()["predictions"][0]["score"]


def test_a_reject_policy_reaches_the_caller(server: Server) -> None:
    server.version(2, inputs=with_null("stock", Null("reject")))
    answer = problem(server.post(PREDICT, {"instances": [INSTANCE, {**INSTANCE, "product": "salt"}]}), 422)
    assert answer["errors"] == [{"row": 1, "field": "stock", "message": "is null, and this model refuses to score without it"}]


def test_drift_is_the_watchs_verdict_or_not_found(server: Server) -> None:
    problem(server.get("/v1/models/sells_out/drift"), 404)
    server.redis.set(drift_key(server.project, "sells_out"), msgspec.json.encode(VERDICT))
    assert server.get("/v1/models/sells_out/drift").json() == VERDICT


def without_replica(text: str) -> str:
    """A scrape as it would be of a replica without a name. Every sample has one."""
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert {'replica="' in line for line in samples} == {True}
    return re.sub(r'replica="[^"]+",?', "", text).replace(",}", "}").replace("{}", "")


def test_metrics_carry_requests_latency_log_and_drift(server: Server) -> None:
    server.redis.set(drift_key(server.project, "sells_out"), msgspec.json.encode(VERDICT))

    async def scenario(client: httpx.AsyncClient) -> str:
        await client.post(PREDICT, content=msgspec.json.encode({"instances": [INSTANCE]}))
        await client.post(PREDICT, content=b"{")
        await client.post("/v1/models/invented/predict", content=b"{}")
        return (await client.get("/metrics")).text

    told = server.run(scenario)
    text = without_replica(told)
    for line in (
        'headrace_requests_total{model="sells_out",status="200",version="1"} 1.0',
        'headrace_requests_total{model="sells_out",status="400",version="1"} 1.0',
        'headrace_requests_total{model="(unknown)",status="404",version=""} 1.0',
        'headrace_request_ms_count{model="sells_out",version="1"} 1.0',
        'headrace_read_ms_count{model="sells_out",version="1"} 1.0',
        'headrace_score_ms_count{model="sells_out",version="1"} 1.0',
        'headrace_model_live{model="sells_out",version="1"} 1.0',
        "headrace_log_dropped_total 0.0",
        'headrace_drift{model="sells_out",version="1"} 1.0',
        'headrace_feature_drift_effect{feature="stock",model="sells_out"} 0.4',
        'headrace_feature_drift{feature="(score)",model="sells_out"} 0.0',
        'headrace_feature_drift_effect{feature="(label)",model="sells_out"} 0.1',
        'headrace_outlier_share{model="sells_out"} 0.02',
    ):
        assert line in text, line
    assert "invented" not in text


def test_the_catalogue_and_a_models_page_say_how_to_ask(server: Server) -> None:
    server.version(3, promote=False)
    (summary,) = server.get("/v1/models").json()["models"]
    assert summary.pop("traffic")["champion"] == {"version": 1, "share": 1.0}
    assert summary == {"name": "sells_out", "status": "live", "live_version": 1, "versions": [1, 3], "reason": None}
    page = server.get("/v1/models/sells_out").json()
    assert page["contract"]["feature_service"] == "sells_out"
    assert page["request_schema"]["properties"]["instances"]["items"]["required"] == list(INSTANCE)
    assert server.post(PREDICT, page["example"]).status_code == 200


def test_the_openapi_page_has_a_working_example_for_every_model(server: Server) -> None:
    document = server.get("/openapi.json").json()
    example = document["paths"]["/v1/models/{model}/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]["sells_out"]
    assert server.post(PREDICT, example["value"]).status_code == 200
    assert (
        server.post(PREDICT, document["paths"][PREDICT]["post"]["requestBody"]["content"]["application/json"]["example"]).status_code == 200
    )
    assert {"Answer", "Problem"} <= set(document["components"]["schemas"])
    assert server.get("/docs").status_code == 200


def test_an_altered_model_is_refused_with_its_reason_and_the_others_answer(server: Server) -> None:
    other = server.settings.model_root / "other" / "1"
    other.mkdir(parents=True)
    contract = contracts.load(server.settings.model_root / "sells_out" / "1")
    (other / "model.onnx").write_bytes((server.settings.model_root / "sells_out" / "1" / "model.onnx").read_bytes())
    contracts.write(other, msgspec.structs.replace(contract, model="other"))
    release.promote(server.settings.model_root, "other", 1)
    (other / "model.onnx").write_bytes(b"tampered")

    async def scenario(client: httpx.AsyncClient) -> tuple[httpx.Response, ...]:
        body = msgspec.json.encode({"instances": [INSTANCE]})
        refused = await client.post("/v1/models/other/predict", content=body)
        return refused, await client.post(PREDICT, content=body), await client.get("/v1/models"), await client.get("/readyz")

    refused, answered, catalogue, ready = server.run(scenario)
    assert "model.onnx is not the file that was registered" in problem(refused, 503)["detail"]
    assert answered.status_code == ready.status_code == 200
    assert [m["status"] for m in catalogue.json()["models"]] == ["refused", "live"]


def test_a_new_champion_takes_over_without_a_failed_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "POLL_S", 0.05)
    readers: list[Rows] = []

    def reader() -> Rows:
        readers.append(shelves())
        return readers[-1]

    async def scenario() -> list[tuple[int, int]]:
        body = msgspec.json.encode({"instances": [INSTANCE]})
        seen = []
        async with server.client(reader) as client:
            server.version(2)
            for _ in range(6000):
                response = await client.post(PREDICT, content=body)
                seen.append((response.status_code, response.json()["model_version"]))
                if seen[-1][1] == 2:
                    break
                await asyncio.sleep(0.005)
            live = without_replica((await client.get("/metrics")).text)
            assert 'headrace_model_live{model="sells_out",version="1"} 0.0' in live
            assert 'headrace_model_live{model="sells_out",version="2"} 1.0' in live
            assert not readers[0].closed, "requests under way may still read"
        return seen

    seen = asyncio.run(scenario())
    assert {status for status, _ in seen} == {200}
    assert [version for _, version in seen] == sorted(version for _, version in seen)
    assert seen[-1][1] == 2


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_answering(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "POLL_S", 0.02)
    folder = server.version(2, promote=False)
    release.promote(server.settings.model_root, "sells_out", 1)

    async def scenario(client: httpx.AsyncClient) -> tuple[dict[str, Any], httpx.Response]:
        (folder / "model.onnx").write_bytes(b"tampered")
        path = server.settings.model_root / "sells_out" / release.RELEASE
        path.with_name(".other").write_bytes(msgspec.json.encode(release.Release(2)))
        os.replace(path.with_name(".other"), path)
        for _ in range(1500):
            await asyncio.sleep(0.02)
            (summary,) = (await client.get("/v1/models")).json()["models"]
            if summary["reason"]:
                break
        return summary, await client.post(PREDICT, content=msgspec.json.encode({"instances": [INSTANCE]}))

    summary, answer = server.run(scenario)
    assert (summary["status"], summary["live_version"]) == ("degraded", 1)
    assert "model.onnx" in summary["reason"]
    assert answer.json()["model_version"] == 1


def test_ready_means_models_and_redis(server: Server, tmp_path: Path) -> None:
    assert server.get("/healthz").status_code == 200
    assert server.get("/readyz").status_code == 200
    (tmp_path / "no").mkdir()
    away = Server(tmp_path / "no", "redis://127.0.0.1:1/0")
    assert "no model has a champion" in problem(away.get("/readyz"), 503)["detail"]
    assert "No model has a champion here yet" in problem(away.post(PREDICT, {"instances": [INSTANCE]}), 503)["detail"]
    away.version()
    assert "online store" in problem(away.get("/readyz"), 503)["detail"]
    problem(away.get("/v1/models/sells_out/drift"), 503)
    problem(away.post(FEEDBACK, {"prediction_id": ID, "label": 1}), 503)
    assert away.get("/metrics").status_code == 200
