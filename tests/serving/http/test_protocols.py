"""The protocols of others, spoken with their own published clients, over a live use case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.handlers import open_inference
from serving.protocol.problem import Invalid, Malformed
from tests.serving.shop import INSTANCE, make_contract

pytestmark = pytest.mark.integration
CLIENTS = Path(__file__).parents[2] / "clients"
MODEL = "turned_away"
WANTED = "2021-03-13T00:10:00Z"
ROWS: list[dict[str, Any]] = [
    {"station": 7, "rider_class": "member", "wanted_at": WANTED, "party": 2},
    {"station": 3, "rider_class": "casual", "wanted_at": WANTED, "party": 1},
]


def speak(python: Path | str, script: str, *arguments: str) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(CLIENTS / script), *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT"))
    return found


def scores(server: str) -> list[float]:
    answer = httpx.post(f"{server}/v1/models/{MODEL}/predict", json={"instances": ROWS})
    assert answer.status_code == 200, answer.text
    return [p["score"] for p in answer.json()["predictions"]]


def test_tritons_http_client(server: str, client_python: Path) -> None:
    seen = speak(client_python, "triton_http.py", server.removeprefix("http://"), MODEL, json.dumps(ROWS))
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["nothing_ready"]) == (True, True, True, False)
    assert seen["server"]["name"] == "headrace"
    assert {i["name"]: i["datatype"] for i in seen["metadata"]["inputs"]} == {
        "station": "INT64", "rider_class": "BYTES", "wanted_at": "BYTES", "party": "INT64",
    }  # fmt: skip
    expected = scores(server)
    for way in ("json", "binary", "column"):
        assert seen[way]["score"] == expected
        assert seen[way]["id"] == "mine"
        page = httpx.get(f"{server}/v1/predictions/{seen[way]['ids'][1]}").json()
        assert page["request"] == ROWS[1]
    status, message = seen["refusal"]
    assert status == "422" or "422" in str(status)
    assert "no input of this model" in message


def test_mlservers_types_and_its_infer_command(server: str, client_python: Path, tmp_path: Path) -> None:
    metadata = httpx.get(f"{server}/v2/models/{MODEL}").json()
    tensors = [{**t, "shape": [2], "data": [r[t["name"]] for r in ROWS]} for t in metadata["inputs"]]
    seen = speak(client_python, "mlserver_infer.py", server.removeprefix("http://"), MODEL, json.dumps({"inputs": tensors}), str(tmp_path))
    expected = scores(server)
    assert seen["inputs"] == ["station", "rider_class", "wanted_at", "party"]
    assert seen["score"] == expected
    assert len(seen["batch"]) == 2
    for line in seen["batch"]:
        outputs = {o["name"]: o["data"] for o in json.loads(line)["outputs"]}
        assert outputs["score"] == expected


def test_feasts_remote_online_store_reads_what_was_pushed(server: str, bikes: Any, streaming: Any) -> None:
    streaming()
    now = datetime.now(UTC)
    df = {"station": [7, 3], "seen": [now.isoformat()] * 2, "free_bikes": [11, None], "charge": [0.5, 0.25]}
    pushed = httpx.post(f"{server}/push", json={"push_source_name": "docks", "df": df, "to": "online"})
    assert (pushed.status_code, pushed.json()) == (200, {"pushed": 2})
    entities = {"station": [7, 3, 424242], "rider_class": ["member", "casual", "member"], "wanted_at": [WANTED] * 3, "party": [2, 1, 1]}
    body = {"feature_service": "dock_choice", "entities": entities, "full_feature_names": True}
    deadline = time.monotonic() + 180
    while True:
        answer = httpx.post(f"{server}/get-online-features", json=body).json()
        columns = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
        if columns["dock__charge"]["statuses"][0] == "PRESENT" or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert columns["dock__free_bikes"]["values"] == [11, None, None]
    assert columns["dock__free_bikes"]["statuses"] == ["PRESENT", "NULL_VALUE", "NOT_FOUND"]
    assert columns["dock__charge"]["values"] == [0.5, 0.25, None]
    assert columns["wish__spare"]["values"] == [9, None, None]
    rows = [dict(zip(entities, values, strict=True)) for values in zip(*entities.values(), strict=True)]
    registry = str(bikes.settings.registry or bikes.settings.state / "registry.db")
    registry = registry if "://" in registry else f"sqlite:///{registry}"
    seen = speak(sys.executable, "feast_remote.py", server, registry, "bikes", "dock_choice", json.dumps(rows))
    assert seen["dock__charge"] == [0.5, 0.25, None]
    assert seen["dock__free_bikes"] == [11, None, None]
    assert seen["station"] == [7, 3, 424242]
    assert seen["wish__spare"] == [9, None, None]
    assert seen["wish__hour"] == [0, 0, 0]


def docks(**changes: Any) -> dict[str, Any]:
    """A push of one report of a dock, with something wrong."""
    row = {"station": 1, "seen": "2021-03-01T00:00:00Z", "free_bikes": 1, "charge": 0.5} | changes
    return {"push_source_name": "docks", "df": {name: [value] for name, value in row.items()}}


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/push", {"push_source_name": "nobody", "df": {"a": [1]}}, 404, "rides"),
        ("/push", {"push_source_name": "docks", "df": {"station": [1], "seen": ["x"], "free_bikes": [1], "charge": [1]}}, 422, "'x'"),
        ("/push", docks(station=2**64 - 1), 422, "station is 18446744073709551615, not int64"),
        ("/push", docks(seen=1_700_000_000_000_000_000), 422, "milliseconds?"),
        ("/push", docks(seen="2131-01-01T00:00:00Z"), 422, "ahead of the clock"),
        ("/push", docks(free_bikes=2**63), 422, "free_bikes"),
        ("/push", docks(charge=[[]]), 422, "charge"),
        ("/push", {"push_source_name": "docks", "df": {"station": [1, 2], "seen": [1]}}, 422, "same length"),
        ("/push", {"push_source_name": "docks", "df": {}, "to": "offline"}, 422, "headrace ingest"),
        ("/get-online-features", {"entities": {"station": [1]}, "features": ["dock:nothing"]}, 404, "dock:nothing"),
        ("/get-online-features", {"entities": {"station": [1]}, "feature_service": "nothing"}, 404, "nothing"),
        ("/get-online-features", {"entities": {}, "features": ["dock:charge"]}, 422, "station"),
        ("/get-online-features", {"entities": {"station": ["a"]}, "features": ["dock:charge"]}, 422, "int64"),
        (f"/v2/models/{MODEL}/infer", {"inputs": []}, 422, "station"),
        (f"/v2/models/{MODEL}/versions/99/infer", {"inputs": []}, 404, "99"),
        ("/v2/models/nothing/infer", {"inputs": []}, 404, "nothing"),
    ],
)
def test_what_does_not_fit_is_said_with_its_name(server: str, path: str, body: Any, status: int, word: str) -> None:
    answer = httpx.post(f"{server}{path}", json=body)
    assert answer.status_code == status, answer.text
    assert word in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    if path.startswith("/v2"):
        assert answer.json()["error"] == answer.json()["detail"]


def test_a_client_generated_from_the_openapi_document(server: str, client_python: Path, tmp_path: Path) -> None:
    seen = speak(client_python, "generated.py", server, MODEL, json.dumps({"instances": ROWS}), str(tmp_path))
    assert seen["score"] == scores(server)
    assert "WARNING" not in seen["warnings"], seen["warnings"]


def test_a_fuzzer_finds_no_5xx_and_no_undocumented_answer(server: str, client_python: Path, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            str(client_python.with_name("st")), "run", f"{server}/openapi.json", "--url", server, "--checks", checks, "--max-examples", "25",
            "--phases", "examples,coverage,fuzzing", "--seed", "1", "--request-timeout", "10", "--no-color",
            # a deadline of a millisecond is answered with a documented 503; here every answer is wanted
            "-H", "X-Request-Timeout-Ms: 5000",
        ],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def body(**changes: Any) -> bytes:
    made = open_inference.example(make_contract(), INSTANCE)
    return json.dumps(made | changes).encode()


def test_the_example_is_an_inference() -> None:
    asked = open_inference.decode(body(), None, make_contract())
    assert asked.instances == [INSTANCE]
    assert asked.outputs == {"score": False, "prediction_id": False}


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        ({"shape": [2]}, "has 1 values; its shape says 2"),
        ({"shape": [1, 2, 3]}, "must be"),
        ({"datatype": "COMPLEX"}, "does not know"),
        ({"data": None}, "no data"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensor: dict[str, Any], word: str) -> None:
    inputs = open_inference.example(make_contract(), INSTANCE)["inputs"]
    inputs[0] = inputs[0] | tensor
    with pytest.raises(Invalid, match=word) as refused:
        open_inference.decode(body(inputs=inputs), None, make_contract())
    assert refused.value.errors[0].field == inputs[0]["name"]


@pytest.mark.parametrize("length", ["x", "100000"])
def test_a_json_length_that_is_none_is_malformed(length: str) -> None:
    with pytest.raises(Malformed, match="Inference-Header-Content-Length"):
        open_inference.decode(body(), length, make_contract())


def test_binary_data_that_is_cut_short_is_malformed() -> None:
    inputs = open_inference.example(make_contract(), INSTANCE)["inputs"]
    inputs[0] |= {"data": None, "parameters": {"binary_data_size": 999}}
    with pytest.raises(Malformed, match="999 bytes"):
        open_inference.decode(body(inputs=inputs), str(len(body(inputs=inputs))), make_contract())
