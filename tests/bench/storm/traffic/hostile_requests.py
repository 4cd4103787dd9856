"""Requests that nobody should send: what each is; all must be refused by a documented 4xx, but for those that may pass."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from tests.bench.storm.traffic.client import request
from tests.bench.storm.world import MODEL

PREDICT, FEEDBACK = f"/v1/models/{MODEL}/predict", f"/v1/models/{MODEL}/feedback"
INFER = f"/v2/models/{MODEL}/infer"


@dataclass(frozen=True)
class Hostile:
    """
    Attributes:
        may_pass: it is odd, and an answer is as good as a refusal.
        piece, pause_s: sent so slowly; what comes of it is the sender's trouble, not an answer to judge.
    """

    kind: str
    sent: bytes
    may_pass: bool = False
    piece: int = 0
    pause_s: float = 0.0


def instance(**fields: Any) -> dict[str, Any]:
    """A request's row that is right, but for what is given."""
    return {"station": 7, "rider_class": "member", "wanted_at": datetime.now(UTC).isoformat(), "party": 2} | fields


def _predict(*instances: Any, headers: dict[str, str] | None = None, **more: Any) -> bytes:
    return request("POST", PREDICT, json.dumps({"instances": list(instances)} | more).encode(), headers)


def _bytes(path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> bytes:
    return request(method, path, body, headers)


def _feedback(number: str, label: Any = 1, **more: Any) -> bytes:
    return request("POST", FEEDBACK, json.dumps({"prediction_id": number, "label": label} | more).encode())


def _features(entities: dict[str, list[Any]], **more: Any) -> bytes:
    body = {"features": ["dock:free_bikes"], "entities": entities} | more
    return request("POST", "/get-online-features", json.dumps(body).encode())


def _push(source: str = "rides", **columns: Any) -> bytes:
    now = datetime.now(UTC).isoformat()
    row = {"ride": [1], "station": [41], "rider_class": ["member"], "began": [now], "reported": [now], "kilometres": [1.0]} | columns
    return request("POST", "/push", json.dumps({"push_source_name": source, "df": row}).encode())


def _infer(shape: list[int], datatype: str = "INT64", data: Any = (7,)) -> bytes:
    inputs = [{"name": "station", "shape": shape, "datatype": datatype, "data": list(data)}]
    return request("POST", INFER, json.dumps({"inputs": inputs}).encode())


def _id(at: datetime) -> str:
    """A prediction's id that was never given out, of a moment."""
    ms = f"{round(at.timestamp() * 1000):012x}"
    tail = uuid.uuid4().hex
    return f"{ms[:8]}-{ms[8:]}-7{tail[:3]}-8{tail[3:6]}-{tail[6:18]}"


@cache
def _bomb() -> bytes:
    return gzip.compress(b'{"instances": [' + b" " * 50_000_000, 9)


def _now() -> datetime:
    return datetime.now(UTC)


_KINDS: list[tuple[str, Callable[[], bytes]]] = [
    ("not JSON", lambda: _bytes(PREDICT, b"{not json")),
    ("no body", lambda: _bytes(PREDICT, b"")),
    ("not UTF-8", lambda: _bytes(PREDICT, b'{"instances": [{"rider_class": "\xff\xfe"}]}')),
    ("deep", lambda: _bytes(PREDICT, b'{"instances": ' + b"[" * 20_000 + b"]" * 20_000 + b"}")),
    ("a deep field", lambda: _bytes(PREDICT, b'{"instances": [{"station": ' + b"[" * 5000 + b"]" * 5000 + b"}]}")),
    ("400 digits", lambda: _predict(instance(party=10**400))),
    ("1e400", lambda: _bytes(PREDICT, json.dumps({"instances": [instance()]}).replace('"party": 2', '"party": 1e400').encode())),
    ("a superscript", lambda: _predict(instance(party="²"))),
    ("a key of 8.9", lambda: _predict(instance(station=8.9))),
    ("a key that is true", lambda: _predict(instance(station=True))),
    ("a key of 2**64 - 1", lambda: _predict(instance(station=2**64 - 1))),
    ("a key that is a list", lambda: _predict(instance(station=[7]))),
    ("a class of rider that is an object", lambda: _predict(instance(rider_class={"a": 1}))),
    ("a field is missing", lambda: _predict({"station": 7})),
    ("no instance", lambda: _predict()),
    ("1,001 instances", lambda: _predict(*([instance()] * 1001))),
    ("5 MB", lambda: _bytes(PREDICT, b'{"instances": [' + b" " * 5_000_000)),
    ("a gzip bomb", lambda: _bytes(PREDICT, _bomb(), {"content-encoding": "gzip"})),
    ("an unknown encoding", lambda: _bytes(PREDICT, b"\x00" * 100, {"content-encoding": "br"})),
    ("a deadline of nan", lambda: _predict(instance(), headers={"x-request-timeout-ms": "nan"})),
    ("a deadline of -1", lambda: _predict(instance(), headers={"x-request-timeout-ms": "-1"})),
    ("now in words", lambda: _predict(instance(), now="soon")),
    ("an unknown model", lambda: _bytes("/v1/models/nobody/predict", b"{}")),
    ("a path that climbs", lambda: _bytes("/v1/models/../../../etc/passwd/predict", b"{}")),
    ("a wrong method", lambda: _bytes(PREDICT, b"", method="PUT")),
    ("an id that is none", lambda: _bytes("/v1/predictions/%00%ff", b"", method="GET")),
    ("no HTTP", lambda: b"HELLO\r\n\r\n"),
    ("a header of 100 kB", lambda: _predict(instance(), headers={"x-long": "a" * 100_000})),
    ("feedback of a stranger", lambda: _feedback(_id(_now()))),
    ("feedback from 9998", lambda: _feedback(_id(_now() + timedelta(days=365 * 200)))),
    ("feedback of all ones", lambda: _feedback("ffffffff-ffff-7fff-8fff-ffffffffffff")),
    ("feedback of a poor id", lambda: _feedback("²")),
    ("a label of 2", lambda: _feedback(_id(_now()), 2)),
    ("a label of 400 digits", lambda: _feedback(_id(_now()), 10**400)),
    ("a truth from the year 9998", lambda: _feedback(_id(_now()), 1, at="9998-01-01T00:00:00Z")),
    ("10,001 truths", lambda: _bytes(FEEDBACK, json.dumps({"items": [{"prediction_id": "x", "label": 1}] * 10_001}).encode())),
    ("deep feedback", lambda: _bytes(FEEDBACK, b'{"items": ' + b"[" * 5000 + b"]" * 5000 + b"}")),
    ("features of station 8.9", lambda: _features({"station": [8.9]})),
    ("features of station true", lambda: _features({"station": [True]})),
    ("features of 2**64", lambda: _features({"station": [2**64]})),
    ("features of 100,000 rows", lambda: _features({"station": [7] * 100_000})),
    ("features that are not", lambda: _features({"station": [7]}, features=["dock:nothing"])),
    ("a service that is not", lambda: _features({"station": [7]}, features=[], feature_service="nobody")),
    ("ragged entities", lambda: _features({"station": [7, 8], "rider_class": ["x"]}, features=["rides_by_station_and_class:rides_30m"])),
    ("push of 2**64 - 1", lambda: _push(station=[2**64 - 1])),
    ("push in ms", lambda: _push(began=[round(_now().timestamp() * 1e3)])),
    ("push from 2031", lambda: _push(began=[(_now() + timedelta(days=1826)).isoformat()], reported=[None])),
    ("push of 400 digits", lambda: _push(kilometres=[10**400])),
    ("push to nobody", lambda: _push("nobody")),
    ("a ragged push", lambda: _push(station=[41, 41])),
    ("a deep push", lambda: _bytes("/push", b'{"df": ' + b"[" * 5000 + b"]" * 5000 + b"}")),
    ("a tensor of 2**62", lambda: _infer([2**62])),
    ("a tensor of -1", lambda: _infer([-1])),
    ("a tensor of an unknown type", lambda: _infer([1], "INT65")),
    ("a ragged tensor", lambda: _infer([3])),
]
_ODD: list[tuple[str, Callable[[], bytes]]] = [
    ("an unknown field", lambda: _predict(instance(surprise=1))),
    ("the year 9999", lambda: _predict(instance(), now="9999-01-01T00:00:00Z")),
    ("a moment before time", lambda: _predict(instance(), now="0001-01-01T00:00:00Z")),
    ("gzip", lambda: _bytes(PREDICT, gzip.compress(json.dumps({"instances": [instance()]}).encode()), {"content-encoding": "gzip"})),
    ("text", lambda: _predict(instance(), headers={"content-type": "text/plain"})),
    ("another host", lambda: _predict(instance(), headers={"host": "evil.example"})),
    ("another origin", lambda: _predict(instance(), headers={"origin": "http://evil.example"})),
    ("a null key", lambda: _predict(instance(station=None))),
    ("1 MB of key", lambda: _predict(instance(rider_class="r" * 1_000_000))),
    ("4 MB of key for features", lambda: _features({"station": [7], "rider_class": ["r" * 4_000_000]}, features=["dock:charge"])),
    ("both lengths", lambda: _predict(instance(), headers={"transfer-encoding": "chunked"})),
]
_SLOW: list[tuple[str, Callable[[], bytes], int, float]] = [
    ("half a header", lambda: b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: " + b"a" * 20, 1, 0.5),
    ("a body byte by byte", lambda: _predict(instance()), 20, 0.5),
    ("a body that never ends", lambda: _bytes(PREDICT, b"{", {"content-length": "100000"}), 1, 0.1),
]
KINDS = len(_KINDS) + len(_ODD) + len(_SLOW)


def hostile(n: int) -> Hostile:
    """The n-th hostile request."""
    n %= KINDS
    if n < len(_KINDS):
        kind, make = _KINDS[n]
        return Hostile(kind, make())
    n -= len(_KINDS)
    if n < len(_ODD):
        kind, make = _ODD[n]
        return Hostile(kind, make(), may_pass=True)
    kind, make, piece, pause_s = _SLOW[n - len(_ODD)]
    return Hostile(kind, make(), may_pass=True, piece=piece, pause_s=pause_s)
