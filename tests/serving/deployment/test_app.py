"""The real thing: Ray Serve behind its HAProxy, Feast's own Redis layout written by stock Feast, the online reader, ONNX Runtime."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import numpy as np
import psutil
import pytest

from feature_repo.records import release
from feature_repo.records.prediction import Prediction
from feature_repo.records.redis_keys import labels_key, prediction_log_key
from infra.ports import port
from infra.settings import ROOT, Settings
from infra.supervision import launch
from serving.deployment import leftovers
from serving.deployment.app import run
from serving.deployment.environment import ServeError, configure
from serving.deployment.haproxy import connections, read, running
from serving.grpc import open_inference_pb2 as _generated
from tests.serving.clients import Clients
from tests.serving.served import INPUTS, MARK, NOW, PREDICT, REPO, Served, served
from tests.serving.shop import INSTANCE, WEIGHTS, write_version

pytestmark = [pytest.mark.integration, pytest.mark.timed]
pb: Any = _generated
__all__ = ["served"]


def test_a_prediction_goes_through_haproxy_reader_and_model(served: Served) -> None:
    response = served.predict(INSTANCE, {**INSTANCE, "product": "salt"}, {**INSTANCE, "product": "unheard"}, features=True)
    assert response.status_code == 200, response.text
    tea, salt, unheard = response.json()["predictions"]
    assert tea["score"] == np.dot([3.0, 40.0, 2.5 / 2.0, 2.0, 22.0], WEIGHTS)
    assert tea["statuses"]["fresh"] == 3
    assert tea["features"]["stock"] == {"value": 40.0, "status": "fresh", "age_s": 1800.0}
    assert salt["statuses"]["not_fresh"] == {"count_1h": "stale", "stock": "null", "mean_price": "stale"}
    assert salt["score"] == np.dot([-1.0, -1.0, -1.0, -1.0, 22.0], WEIGHTS)  # stale is null to the model, NaN counts as -1 in it
    assert salt["features"]["mean_price"]["value"] == 5.0
    assert unheard["statuses"]["missing"] == 3
    assert unheard["score"] == salt["score"]


def test_what_was_answered_is_in_the_stream_and_takes_feedback(served: Served) -> None:
    answer = served.predict(INSTANCE).json()["predictions"][0]
    for _ in range(600):
        entries = served.redis.xrevrange(prediction_log_key("shop"), count=5)
        logged = {p.id: p for p in (msgspec.json.decode(fields[b"p"], type=Prediction) for _, fields in entries)}
        if answer["prediction_id"] in logged:
            break
        time.sleep(0.05)
    assert logged[answer["prediction_id"]].score == answer["score"]
    assert logged[answer["prediction_id"]].at_us == int(NOW.timestamp() * 1e6)
    truth = msgspec.json.encode({"prediction_id": answer["prediction_id"], "label": 1})
    assert served.client.post("/v1/models/sells_out/feedback", content=truth).json()["accepted"] == 1
    assert served.redis.hexists(labels_key("shop", "sells_out"), answer["prediction_id"])


def test_contributions_come_along_when_asked_for(served: Served) -> None:
    (answer,) = served.predict(INSTANCE, explain=True, headers={"X-Request-Timeout-Ms": "20000"}).json()["predictions"]
    assert len(answer["contributions"]) == 5


def test_everything_listens_on_loopback_as_far_as_http_goes(served: Served) -> None:
    haproxies = served.processes("haproxy")
    assert haproxies
    assert {c.laddr.ip for p in haproxies for c in p.net_connections("inet") if c.status == "LISTEN"} == {"127.0.0.1"}


def test_a_second_run_of_the_same_checkout_is_refused(served: Served) -> None:
    with pytest.raises(ServeError, match="serves already"):
        run(served.settings)


def test_a_redis_that_hangs_costs_the_deadline_then_all_is_well_again(served: Served) -> None:
    served.redis.client_pause(4000)
    started = time.perf_counter()
    response = served.predict(INSTANCE, headers={"X-Request-Timeout-Ms": "200"})
    assert time.perf_counter() - started < 3, "the deadline of 0.2 s, not the pause of 4"
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"] == "urn:headrace:problem:unavailable"
    time.sleep(5)
    assert served.predict(INSTANCE).status_code == 200


def test_tritons_grpc_client(served: Served, client_python: Path) -> None:
    import json

    command = [
        str(client_python),
        str(ROOT / "tests" / "clients" / "triton_grpc.py"),
        f"127.0.0.1:{port(served.settings.state, 'grpc')}",
        "sells_out",
    ]
    done = subprocess.run([*command, json.dumps([INSTANCE] * 2)], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["nothing_ready"]) == (True, True, True, False)
    assert seen["inputs"]["product"] == "BYTES"
    answer = served.client.post(PREDICT, content=msgspec.json.encode({"instances": [INSTANCE] * 2})).json()
    assert seen["score"] == [p["score"] for p in answer["predictions"]]
    assert (seen["id"], len(set(seen["ids"]))) == ("mine", 2)
    assert "INVALID_ARGUMENT" in seen["refusal"][0]
    assert "is missing" in seen["refusal"][1]
    assert "NOT_FOUND" in seen["unknown"][0]


def test_whatever_listens_is_on_loopback_or_asks_for_the_token(served: Served) -> None:
    """Every listening socket of the whole process tree. docs/howto/secrets-and-ports.md names the one that is not on loopback."""
    open_to_all, guarded = set(), set()
    for process in served.everything():
        for one in process.net_connections("inet"):
            if one.status != psutil.CONN_LISTEN:
                continue
            address = ipaddress.ip_address(one.laddr.ip)
            mapped = getattr(address, "ipv4_mapped", None) or address
            if not mapped.is_loopback:
                open_to_all.add((process.name(), one.laddr.port))
            if "ServeReplica" in process.name():
                guarded.add(one.laddr.port)
    assert {name[:17] for name, _ in open_to_all} <= {"ray::ServeReplica"}, open_to_all
    for _, number in open_to_all:
        with grpc.insecure_channel(f"127.0.0.1:{number}") as stranger:
            call = stranger.unary_unary("/ray.serve.ASGIService/HandleRequestWithRejection")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, refused.value.details()


def test_grpc_is_admitted_like_http(served: Served) -> None:
    """Redis stands still for a moment: what comes meanwhile over gRPC is taken up to the limit, and refused beyond it."""
    request = pb.ModelInferRequest(model_name="sells_out")
    for name, datatype, contents in [
        ("product", "BYTES", {"bytes_contents": [b"tea"]}),
        ("store", "INT64", {"int64_contents": [7]}),
        ("price", "FP64", {"fp64_contents": [2.5]}),
        ("asked_at", "BYTES", {"bytes_contents": [INSTANCE["asked_at"].encode()]}),
    ]:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[1])
        for kind, values in contents.items():
            getattr(tensor.contents, kind).extend(values)
    served.redis.client_pause(400)
    with grpc.insecure_channel(f"127.0.0.1:{port(served.settings.state, 'grpc')}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        patient = (("x-request-timeout-ms", "5000"),)
        waiting = [call.future(request, timeout=30, metadata=patient) for _ in range(200)]
        codes = Counter(one.code() for one in waiting)  # waits
    assert codes[grpc.StatusCode.OK] >= served.settings.max_at_once / 2, codes
    assert codes[grpc.StatusCode.UNAVAILABLE] > 0, codes
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_more_than_can_be_in_flight_is_refused_by_the_ingress_at_once(served: Served) -> None:
    """Redis stands still for a moment: what comes meanwhile is taken up to the limit, and refused beyond it."""
    body = msgspec.json.encode({"instances": [INSTANCE], "now": NOW.isoformat()})

    async def flood() -> list[tuple[httpx.Response, float]]:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=served.client.base_url, timeout=20, limits=limits) as client:

            async def one() -> tuple[httpx.Response, float]:
                began = time.perf_counter()
                answer = await client.post(PREDICT, content=body, headers={"X-Request-Timeout-Ms": "5000"})
                return answer, time.perf_counter() - began

            return await asyncio.gather(*(one() for _ in range(150)))

    served.redis.client_pause(400)
    answers = asyncio.run(flood())
    refused = [(a, took) for a, took in answers if a.status_code == 503]
    assert {a.status_code for a, _ in answers} == {200, 503}
    assert len(answers) - len(refused) >= served.settings.max_at_once
    for answer, _ in refused:
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:headrace:problem:unavailable"
    time.sleep(0.2)
    assert served.predict(INSTANCE).status_code == 200


@pytest.mark.parametrize("what", ["haproxy", "ray::ServeReplica", "ray::HAProxyManager", "ray::ServeController"])
def test_what_dies_is_missed_for_at_most_three_seconds_and_answered_for(served: Served, what: str) -> None:
    """Promptly, with 503 and when to come back: never 404, never 500, and no client hangs."""
    body = msgspec.json.encode({"instances": [INSTANCE], "now": NOW.isoformat()})
    for turn in range(2 if what in ("haproxy", "ray::ServeReplica") else 1):  # what replaced it, too
        before = served.processes(what)
        with Clients(str(served.client.base_url) + PREDICT, body) as clients:
            time.sleep(1)
            since = time.monotonic()
            for process in before if what == "haproxy" else [before[turn % len(before)]]:
                with contextlib.suppress(psutil.NoSuchProcess):  # one that was replaced before
                    process.kill()
            time.sleep(5)
        bad = [(round(a.at - since, 2), a.status, round(a.took_s, 2), a.retry_after) for a in clients.answers if a.status != 200]
        assert clients.recovered_s(since) <= 3.0, bad
        listens = what in ("haproxy", "ray::HAProxyManager")  # its death cuts connections
        cut = [at for at, status, _, _ in bad if status == 0]
        # a replica may die after the head of an answer and before its end: that cannot be asked again
        assert listens or (len(cut) <= 1 and all(at < 0.5 for at in cut)), bad
        assert {status for _, status, _, _ in bad} <= {503, 0}, bad
        assert all(again for _, status, _, again in bad if status == 503), bad
        assert max(a.took_s for a in clients.answers) < 4.0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(served.processes(what)) < len(before):
            time.sleep(0.2)
        assert len(served.processes(what)) >= len(before), "nothing took its place"
        ingress = read(leftovers.scratch(served.settings))
        while time.monotonic() < deadline and not ((now := running(ingress)) and now[1].endswith("/a")):
            time.sleep(0.2)  # Ray Serve's own serves again, and none that stands in
        time.sleep(2)


def test_a_driver_that_dies_takes_nothing_with_it(served: Served) -> None:
    """What it deployed goes on answering; the next driver takes that over at once, and ends it when it is told to."""
    body = msgspec.json.encode({"instances": [INSTANCE], "now": NOW.isoformat()})
    replicas = served.processes("ray::ServeReplica")
    with Clients(str(served.client.base_url) + PREDICT, body) as clients:
        served.process.kill()
        served.process.wait()
        launch.end(launch.marked(MARK))  # as the supervisor does, before it starts a service again
        began = time.monotonic()
        served.start()
        took_s = time.monotonic() - began
        time.sleep(1)
    assert {a.status for a in clients.answers} == {200}, Counter(a.status for a in clients.answers)
    assert served.processes("ray::ServeReplica") == replicas, f"it was started anew, in {took_s:.1f} s"


def test_slow_clients_keep_nobody_out(served: Served) -> None:
    """Thousands of half headers, and more open bodies than predictions are worked on at once: each is told 408, others see nothing.

    Of large bodies, which go on to a replica as they come, a quarter of what it works on at once is let in, and the others are told 503.
    """
    host, number = served.settings.host, port(served.settings.state, "http")
    body = msgspec.json.encode({"instances": [INSTANCE], "now": NOW.isoformat()})
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    full = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1]
    large = f"{head}Content-Length: 3000000\r\n\r\n".encode() + b" " * 40_000  # more than the ingress waits for: goes on to a replica
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    half = min(4200, connections() - 600)
    with contextlib.ExitStack() as held:
        slow = []
        for begun in [head.encode()] * half + [full] * 200 + [large] * 200:
            one = held.enter_context(socket.create_connection((host, number), timeout=15))
            one.sendall(begun)
            slow.append(one)
        with Clients(str(served.client.base_url) + PREDICT, body) as clients:
            told = [one.recv(4096) for one in slow[half - 10 :]]
    assert all(b"application/problem+json" in answer.lower() for answer in told[10:]), told
    found = Counter(answer[9:12] for answer in told[:210])
    assert found == {b"408": 210}
    assert Counter(answer[9:12] for answer in told[210:]) == {b"408": 16, b"503": 184}
    assert {a.status for a in clients.answers} == {200}, Counter(a.status for a in clients.answers)
    assert max(a.took_s for a in clients.answers) < 1.0


def test_a_promotion_under_load_fails_no_request(served: Served) -> None:
    write_version(served.settings.model_root, 2, inputs=INPUTS, definitions=served.definitions)
    release.promote(served.settings.model_root, "sells_out", 2)
    seen = []
    for _ in range(6000):
        response = served.predict(INSTANCE)
        seen.append((response.status_code, response.json().get("model_version")))
        if seen[-1][1] == 2:
            break
        time.sleep(0.005)
    assert {status for status, _ in seen} == {200}
    assert seen[-1][1] == 2


def test_a_contract_over_other_definitions_is_refused_by_feature_and_the_old_one_answers(served: Served) -> None:
    live = served.client.get("/v1/models").json()["models"][0]["live_version"]
    write_version(served.settings.model_root, 3, inputs=INPUTS, definitions=served.definitions | {"shelf:stock": "older"})
    release.promote(served.settings.model_root, "sells_out", 3)
    for _ in range(600):
        (summary,) = served.client.get("/v1/models").json()["models"]
        if summary["reason"]:
            break
        time.sleep(0.1)
    assert "changed: shelf:stock" in summary["reason"]
    assert served.predict(INSTANCE).json()["model_version"] == live
    release.promote(served.settings.model_root, "sells_out", live)


def test_ray_must_not_be_there_before_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys)
    with pytest.raises(ServeError, match="imported before"):
        configure(Settings(repo=REPO, state=tmp_path))


def test_a_stop_ends_every_process_and_flushes_the_log(served: Served) -> None:
    tree = served.everything() - {psutil.Process(served.process.pid)}
    last = [served.predict(INSTANCE).json()["predictions"][0]["prediction_id"] for _ in range(5)]
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert not alive
    mark = str(leftovers.scratch(served.settings))
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if any(mark in part for part in p.info["cmdline"] or [])]
    entries = served.redis.xrevrange(prediction_log_key("shop"), count=50)
    logged = {msgspec.json.decode(fields[b"p"], type=Prediction).id for _, fields in entries}
    assert set(last) <= logged
