"""What training and the loop read of what others wrote - the prediction log, the watch's verdict - whatever it is: a broken one costs itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.prediction import Mark, Prediction, drift_key, stream_key
from streaming.store import connect
from tests.fuzz import fuzzed
from tests.serving.hostile import bodies
from training import facts, whatif
from training.skew import read_log

MODEL, AT_US = "sells_out", 1_700_000_000_000_000


def prediction(i: int) -> Prediction:
    marks = {"sales": Mark(AT_US, 1, None)}
    return Prediction(f"id{i}", MODEL, 1, AT_US, AT_US, {"store": i, "product": "tea"}, [1.5, None], "fn", marks, 0.25)


ENTRY = msgspec.to_builtins(prediction(0))
VERDICT = {
    "id": "1@1700000000000-5",
    "features": [{"name": "sales__count_1h", "drift": True, "p_value": 0.001}, {"name": "shelf__stock", "drift": False}],
    "triage": {"cause": "population change", "retrain": True, "views": []},
}


@pytest.fixture(scope="module")
def redis(redis_url: str) -> Iterator[Any]:
    made = connect(redis_url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def project(redis: Any) -> Iterator[str]:
    name = f"readers_{uuid.uuid4().hex[:8]}"
    yield name
    redis.delete(stream_key(name), drift_key(name, MODEL))


def write_log(redis: Any, project: str, fields: list[dict[bytes, bytes]]) -> None:
    with redis.pipeline(transaction=False) as pipe:
        pipe.delete(stream_key(project))
        for one in fields:
            pipe.xadd(stream_key(project), one)
        pipe.execute()


@fuzzed
@given(st.lists(bodies(ENTRY) | st.none(), max_size=3))
def test_fuzz_the_log_is_read_beside_whatever_lies_in_it(redis: Any, project: str, raws: list[bytes | None]) -> None:
    """As the skew proof and the what-if read it: what is no prediction is passed over, every other is read."""
    good = [prediction(1), prediction(2)]
    broken = [{b"other": b"1"} if raw is None else {b"p": raw} for raw in raws]
    entries = [{b"p": msgspec.json.encode(one)} for one in good]
    write_log(redis, project, [entries[0], *broken, entries[1]])
    for found in (read_log(redis, project, MODEL), whatif.last_requests(redis, project, MODEL, 10)):
        assert [one for one in found if one.id in ("id1", "id2")] == good
        assert len(found) <= 2 + len(raws)
        assert all(isinstance(one, Prediction) for one in found)


def test_how_many_entries_are_none_is_said(redis: Any, project: str, caplog: pytest.LogCaptureFixture) -> None:
    garbage = [b"\xff", b"[" * 100_000, b'{"id":"\xff"}', b"", json.dumps(ENTRY | {"at_us": 10**18}).encode()]
    write_log(redis, project, [*({b"p": raw} for raw in garbage), {b"p": msgspec.json.encode(prediction(1))}])
    for read in (lambda: read_log(redis, project, MODEL, 1), lambda: whatif.last_requests(redis, project, MODEL, 10)):
        caplog.clear()
        assert read() == [prediction(1)]
        assert [r.getMessage().partition(" of ")[0] for r in caplog.records] == ["5 entries"]
        assert "passed over" in caplog.text


@fuzzed
@given(bodies(VERDICT))
def test_fuzz_what_lies_in_the_verdicts_place_is_one_or_calls_for_nothing(redis: Any, project: str, raw: bytes) -> None:
    redis.set(drift_key(project, MODEL), raw)
    identity, text = facts.verdict(redis, project, MODEL)
    assert isinstance(identity, str)
    assert not text or text.partition(": ")[2]


def test_a_verdict_calls_for_a_training_and_another_thing_in_its_place_does_not(redis: Any, project: str) -> None:
    key = drift_key(project, MODEL)
    redis.set(key, msgspec.json.encode(VERDICT))
    assert facts.verdict(redis, project, MODEL) == ("1@1700000000000-5", "population change: sales__count_1h")
    redis.delete(key)
    redis.rpush(key, "x")
    assert facts.verdict(redis, project, MODEL) == ("", "")
    redis.delete(key)
    assert facts.verdict(redis, project, MODEL) == ("", "")
