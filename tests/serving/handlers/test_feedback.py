"""Feedback: only of what was answered, once, and a correction beside what was known before."""

from __future__ import annotations

import asyncio
import json
import uuid
from itertools import permutations
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.prediction import Label, Prediction, Truths
from feature_repo.records.redis_keys import label_log_key, labels_key, prediction_log_key
from infra.settings import Settings
from serving.handlers.feedback import MAX_TRUTHS, Feedback, _merged
from serving.protocol.problem import Invalid, Malformed, TooLarge
from serving.telemetry.prediction_id import PredictionIds
from tests.fuzz import fuzzed
from tests.serving.shop import IDS, INSTANCE, NOW_US
from tests.serving.shop_server import FEEDBACK, ID, OTHER, PREDICT, Server, problem


def feedback(server: Server, *items: tuple[str, int, str | None]) -> dict[str, int]:
    """Send truths `(id, label, at)`; `{accepted, corrected, known}`."""
    answer = server.post(FEEDBACK, {"items": [{"prediction_id": n, "label": label, "at": at} for n, label, at in items]})
    assert answer.status_code == 200, answer.text
    return {name: n for name, n in answer.json().items() if name != "model"}


def counted(accepted: int = 0, corrected: int = 0, known: int = 0) -> dict[str, int]:
    return {"accepted": accepted, "corrected": corrected, "known": known}


def on_the_log(server: Server) -> list[tuple[str, int, int]]:
    entries = [msgspec.json.decode(f[b"l"], type=Label) for _, f in server.redis.xrange(label_log_key(server.project))]
    return [(one.prediction_id, one.label, one.at_us // 1_000_000 - NOW_US // 1_000_000) for one in entries]


EARLY, LATE, LATER = "2023-11-14T22:13:21Z", "2023-11-14T22:14:20Z", "2023-11-14T22:15:20Z"


def test_a_correction_is_kept_beside_the_first_truth_and_the_latest_holds(server: Server) -> None:
    assert feedback(server, (ID, 1, EARLY)) == counted(accepted=1)
    assert feedback(server, (ID, 0, LATER)) == counted(accepted=1, corrected=1)
    assert feedback(server, (ID, 1, EARLY), (ID, 0, LATER)) == counted(known=1), "the same feedback again"
    assert feedback(server, (ID, 1, None)) == counted(known=1), "sent again without its moment: the same truth, not a correction"
    assert feedback(server, (ID, 0, None)) == counted(known=1)
    assert on_the_log(server) == [(ID, 1, 1), (ID, 0, 120)]
    (kept,) = server.redis.hgetall(labels_key(server.project, "sells_out")).values()
    truths = msgspec.json.decode(kept, type=Truths)
    assert (truths.label, truths.at_us, truths.all[0]) == (0, NOW_US + 120_000_000, (1, NOW_US + 1_000_000))
    moments = (NOW_US, NOW_US + 1_000_000, NOW_US + 119_000_000, NOW_US + 120_000_000)
    assert [truths.known_at(us) for us in moments] == [None, 1, 1, 0]


def test_truths_come_in_any_order_and_twice_and_end_the_same(server: Server) -> None:
    told = [(ID, 1, EARLY), (ID, 0, LATE), (ID, 1, LATER), (OTHER, 0, LATE)]
    seen = set()
    for order in permutations(told):
        for one in (*order, *order):
            feedback(server, one)
        kept = server.redis.hgetall(labels_key(server.project, "sells_out"))
        seen.add(tuple((k, msgspec.json.decode(v)["label"]) for k, v in sorted(kept.items())))
        server.redis.delete(labels_key(server.project, "sells_out"), label_log_key(server.project))
    assert seen == {tuple(sorted([(ID.encode(), 1), (OTHER.encode(), 0)]))}


def test_two_labels_of_one_moment_are_a_conflict_and_nothing_is_kept(server: Server) -> None:
    truth = {"prediction_id": ID, "label": 1, "at": EARLY}
    server.post(FEEDBACK, truth)
    refused = problem(server.post(FEEDBACK, {"items": [{"prediction_id": OTHER, "label": 0}, {**truth, "label": 0}]}), 409)
    assert (refused["errors"][0]["row"], refused["errors"][0]["field"]) == (1, "label")
    refused = problem(server.post(FEEDBACK, {"items": [{"prediction_id": OTHER, "label": 0}, {"prediction_id": OTHER, "label": 1}]}), 409)
    assert refused["errors"][0]["row"] == 1
    assert server.redis.hlen(labels_key(server.project, "sells_out")) == 1
    assert len(on_the_log(server)) == 1


def test_only_so_many_truths_of_one_prediction_are_kept(server: Server) -> None:
    for i in range(MAX_TRUTHS):
        feedback(server, (ID, i % 2, f"2023-11-14T22:13:{20 + i}Z"))
    problem(server.post(FEEDBACK, {"prediction_id": ID, "label": MAX_TRUTHS % 2, "at": LATER}), 409)


def test_feedback_in_bulk_counts_each_prediction_once(server: Server) -> None:
    items = [{"prediction_id": number, "label": i % 2} for i, number in enumerate(IDS.make("sells_out", NOW_US, 1_200))]
    assert server.post(FEEDBACK, {"items": items + items[:5]}).json() == {"model": "sells_out"} | counted(accepted=1_200)
    assert server.post(FEEDBACK, {"items": items}).json() == {"model": "sells_out"} | counted(known=1_200)


def test_of_two_requests_at_once_neither_loses_its_truth(server: Server) -> None:
    async def scenario(client: httpx.AsyncClient) -> list[Any]:
        bodies = [{"prediction_id": ID, "label": i % 2, "at": f"2023-11-14T22:13:{20 + i}Z"} for i in range(8)]
        return await asyncio.gather(*(client.post(FEEDBACK, content=msgspec.json.encode(b)) for b in bodies))

    answers = server.run(scenario)
    kept = msgspec.json.decode(server.redis.hget(labels_key(server.project, "sells_out"), ID), type=Truths)
    accepted = sum(a.json().get("accepted", 0) for a in answers if a.status_code == 200)
    assert {a.status_code for a in answers} <= {200, 503}
    assert len(kept.all) == accepted == len(on_the_log(server))


def test_a_truth_is_taken_only_for_a_prediction_that_this_model_answered(server: Server) -> None:
    """Also before the log has it, and long after it left the log: the id says so itself."""
    answered = server.post(PREDICT, {"instances": [INSTANCE]}).json()["predictions"][0]["prediction_id"]
    assert feedback(server, (answered, 1, None)) == counted(accepted=1)
    server.redis.delete(prediction_log_key(server.project))
    assert feedback(server, (answered, 0, LATER)) == counted(accepted=1, corrected=1)
    unknown = [
        PredictionIds(bytes(32)).make("sells_out", NOW_US)[0],  # of another key
        IDS.make("another_model", NOW_US)[0],
        answered[:-1] + ("0" if answered[-1] != "0" else "1"),
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "e677d21f-dc00-7000-8000-000000000000",  # the year 9998
    ]
    for number in unknown:
        refused = problem(
            server.post(FEEDBACK, {"items": [{"prediction_id": OTHER, "label": 1}, {"prediction_id": number, "label": 1}]}), 422
        )
        assert [(e["row"], e["field"]) for e in refused["errors"]] == [(1, "prediction_id")]
    assert server.redis.hlen(labels_key(server.project, "sells_out")) == 1


def test_predictions_from_before_ids_carried_a_proof_are_known_by_the_log(server: Server) -> None:
    def old(model: str, role: str = "champion") -> str:
        at_ms = IDS.since_ms - 60_000
        number = PredictionIds(bytes(32)).make(model, at_ms * 1000)[0]
        one = Prediction(number, model, 1, at_ms * 1000, at_ms * 1000, {}, [], "", {}, 0.5, role)
        server.redis.xadd(prediction_log_key(server.project), {"p": msgspec.json.encode(one)}, id=f"{at_ms}-*")
        return number

    assert feedback(server, (old("sells_out"), 1, None)) == counted(accepted=1)
    never = PredictionIds(bytes(32)).make("sells_out", (IDS.since_ms - 60_000) * 1000)[0]
    for number in (never, old("another_model"), old("sells_out", "shadow")):
        problem(server.post(FEEDBACK, {"prediction_id": number, "label": 1}), 422)


_moments = st.none() | st.floats() | st.integers() | st.sampled_from([EARLY, "9999-12-31", "", 1e300, 10**400, True, [], "2031-01-01"])
_truths = st.fixed_dictionaries(
    {
        "prediction_id": st.sampled_from([ID, OTHER]) | st.text(max_size=40),
        "label": st.integers(0, 1) | st.booleans() | st.floats() | st.none(),
    },
    optional={"at": _moments, "because": st.text(max_size=3)},
)
_right = st.builds(
    dict, prediction_id=st.sampled_from([ID, OTHER]), label=st.integers(0, 1), at=st.sampled_from([None, EARLY, LATE, 1.7e9])
)
_bodies = (
    st.binary(max_size=60)
    | st.sampled_from([b"[" * 100_000, b'{"items":' * 5_000, b'{"items":[]}', b"\xff", b"1" * 400])
    | st.builds(lambda items: json.dumps({"items": items}).encode(), st.lists(_truths | _right, max_size=4))
    | st.builds(lambda item: json.dumps(item).encode(), _truths | _right)
)


@fuzzed
@given(_bodies)
def test_fuzz_a_body_is_truths_or_refused_with_a_reason(body: bytes) -> None:
    decoder = Feedback(None, "shop", lambda: NOW_US, Settings(), IDS)
    try:
        items = decoder._items(body, NOW_US)
    except (Malformed, Invalid, TooLarge):
        return
    for number in {item.number for item in items}:
        found = _merged(None, [item for item in items if item.number == number], NOW_US)
        if isinstance(found, Truths):
            assert msgspec.json.decode(msgspec.json.encode(found), type=Truths) == found
            assert all(label in (0, 1) and at <= NOW_US + 300_000_000 for label, at in found.all)
            assert [at for _, at in found.all] == sorted(at for _, at in found.all)
        else:
            assert found


@pytest.mark.parametrize(
    ("truth", "field"),
    [
        ({"prediction_id": "mine", "label": 1}, "prediction_id"),
        ({"prediction_id": str(uuid.UUID(int=5)), "label": 1}, "prediction_id"),
        ({"label": 1}, "prediction_id"),
        ({"prediction_id": ID, "label": 2}, "label"),
        ({"prediction_id": ID, "label": 0.5}, "label"),
        ({"prediction_id": ID}, "label"),
        ({"prediction_id": ID, "label": 1, "at": "soon"}, "at"),
        ({"prediction_id": ID, "label": 1, "at": "2023-11-14T22:18:21Z"}, "at"),
        ({"prediction_id": ID, "label": 1, "at": 1e300}, "at"),
        ({"prediction_id": ID, "label": 1, "at": 1_700_000_000_000}, "at"),
        ({"prediction_id": ID, "label": 10**400}, "label"),
        ({"prediction_id": ID, "label": 1, "because": "x"}, "because"),
        ([1], None),
    ],
)
def test_bad_feedback_is_refused_by_field(server: Server, truth: Any, field: str | None) -> None:
    assert problem(server.post(FEEDBACK, truth), 422)["errors"][0].get("field") == field
    assert not server.redis.exists(labels_key(server.project, "sells_out"))
