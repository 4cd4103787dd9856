"""Whatever lies in Redis beside the features - entries of the prediction log, truths, verdicts, tallies, cursors: a broken one costs itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.records import release
from feature_repo.records.prediction import Mark, Prediction, Truths, known_truths, logged
from feature_repo.records.redis_keys import drift_key, equality_key, labels_key, prediction_log_key, quality_key, watch_key
from feature_repo.records.replica_tally import Count, Tally
from infra import files
from infra.settings import Settings
from infra.supervision import beat
from serving import status
from serving.batch.rerun import RerunError, find
from serving.monitoring.watch import Watch, _cursors
from serving.monitoring.window import Row
from serving.telemetry.metrics import drift_gauges, quality_gauges, readable
from serving.telemetry.prediction_log import _is_prediction
from streaming.online.store import connect, noted_id
from tests.fuzz import NUMBERS, fuzzed
from tests.serving.hostile import bodies
from tests.serving.house import House, check_refusal
from tests.serving.shop import IDS, NOW_US, loader, make_contract, write_key, write_version
from training.retraining.server_metrics import Counters, Unknown, since

NUMBER = IDS.make("sells_out", NOW_US)[0]
CONTRACT = make_contract()
WIDTH = len(CONTRACT.inputs)
PREDICTION = Prediction(
    NUMBER,
    "sells_out",
    1,
    NOW_US,
    NOW_US,
    {"store": 1, "product": "tea"},
    [1.5] * WIDTH,
    "f" * WIDTH,
    {"sales": Mark(NOW_US, 1, None)},
    0.25,
)
ENTRY = msgspec.to_builtins(PREDICTION)
TRUTHS = {"label": 1, "at_us": NOW_US, "before": [[0, NOW_US - 5]]}
BEAT = {"at_us": NOW_US - 7_000_000, "pid": 7, "every_s": 5.0, "up_s": 60.0, "failing": ""}
TALLY = msgspec.to_builtins(Tally("here/7", NOW_US, NOW_US, [1.0, 5.0], {"sells_out": {1: Count(5, 6, 1, [3, 4, 6], 2, 1)}}))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("log")
    (folder / "repo").mkdir()
    (folder / "repo" / "feature_store.yaml").write_text("project: shop_of_entries\n")
    own = Settings(repo=folder / "repo", state=folder / "state", redis_url=redis_url, log_retention=1000)
    write_key(own.state)
    write_version(own.model_root, 1)
    release.promote(own.model_root, "sells_out", 1)
    house = House(own, loader())
    yield house
    house.close()


@pytest.fixture(scope="module")
def redis(redis_url: str) -> Iterator[Any]:
    made = connect(redis_url)
    yield made
    made.close()


def log_of(redis: Any, *entries: bytes) -> None:
    key = prediction_log_key("shop_of_entries")
    with redis.pipeline(transaction=False) as pipe:
        pipe.delete(key)
        for place, raw in enumerate(entries):
            pipe.xadd(key, {"p": raw}, id=f"{NOW_US // 1000}-{place + 1}")
        pipe.execute()


@fuzzed
@given(bodies(ENTRY), bodies(TRUTHS))
def test_fuzz_a_prediction_is_shown_as_it_was_logged_or_refused(shop: House, redis: Any, entry: bytes, truth: bytes) -> None:
    log_of(redis, entry, msgspec.json.encode(PREDICTION))  # behind one that is broken lies the one that is asked for
    redis.hset(labels_key("shop_of_entries", "sells_out"), NUMBER, truth)
    response = shop.call("GET", f"/v1/predictions/{NUMBER}")
    check_refusal(response, 404)
    if response.status_code == 404:
        assert find(redis, "shop_of_entries", NUMBER) != PREDICTION, "another of that id stands before"
    else:
        assert find(redis, "shop_of_entries", NUMBER).id == NUMBER


@pytest.mark.parametrize("changed", [{"statuses": "?" * WIDTH}, {"values": []}, {"at_us": 10**18}, {"marks": {"sales": [2**70, 1, None]}}])
def test_an_entry_that_is_none_of_its_version_is_no_500(shop: House, redis: Any, changed: dict[str, Any]) -> None:
    log_of(redis, json.dumps(ENTRY | changed).encode())
    refused = shop.call("GET", f"/v1/predictions/{NUMBER}")
    assert refused.status_code == 404, refused.text
    log_of(redis, b"[" * 100_000 + NUMBER.encode())
    with pytest.raises(RerunError, match="no prediction"):
        find(redis, "shop_of_entries", NUMBER)


@fuzzed
@given(bodies(ENTRY))
def test_fuzz_an_entry_is_a_prediction_or_none(raw: bytes) -> None:
    """As the watch, the proof, the what-if and the archive read it; and a line of a spool that a dead replica left."""
    read = []
    for kind in (Prediction, Row):
        try:
            read.append(logged({b"p": raw}, kind))
        except ValueError:
            continue
    assert _is_prediction(raw) == any(isinstance(one, Prediction) for one in read)
    for one in read:
        assert msgspec.json.decode(msgspec.json.encode(one), type=type(one)).id == one.id  # type: ignore[attr-defined]


@fuzzed
@given(st.dictionaries(st.sampled_from([b"stream", b"watch-m", b"serve/1", b"\xff"]), bodies(BEAT), min_size=1))
def test_fuzz_parts_are_judged_by_what_is_a_beat(found: dict[bytes, bytes]) -> None:
    now_us, beats = beat.parse((str(NOW_US).encode(), [part for pair in found.items() for part in pair]))
    for part in beat.judge(now_us, beats):
        assert part.state in ("well", "failing", "silent")


@fuzzed
@given(bodies(TRUTHS))
def test_fuzz_a_truth_is_one_or_none(raw: bytes) -> None:
    found = known_truths(raw)
    assert found is None or (isinstance(found, Truths) and found.label in (0, 1) and all(abs(at) < 2**60 for _, at in found.all))


@fuzzed
@given(
    st.dictionaries(
        st.sampled_from([b"cursor:1", b"cursor:x", b"cursor:\xff", b"cursor:", b"skipped", b"\xff"]), NUMBERS | st.binary(max_size=30)
    )
)
def test_fuzz_the_place_of_a_watch_is_a_place_or_none(state: dict[bytes, bytes]) -> None:
    found = _cursors(state)
    assert all(isinstance(version, int) and noted_id(at) for version, at in found.items())


def test_a_watch_begins_beside_whatever_lies_in_its_place(redis: Any, tmp_path: Path) -> None:
    """And takes truths that are none for not known, entries that are none for skipped."""
    own = Settings(state=tmp_path)
    redis.hset(watch_key("shop_of_entries", "m"), mapping={"cursor:x": "1-1", "cursor:1": "yesterday", "skipped": "some"})
    redis.hset(equality_key("shop_of_entries", "m"), mapping={"compared": "\xff", "unequal": "1.5"})
    redis.hset(labels_key("shop_of_entries", "m"), mapping={"a": "{", "b": b"\xff", "c": '{"label":1,"at_us":5}', "d": "[" * 100_000})
    log_of(redis, b"\xff", b"[" * 100_000, b'{"id":"\xff"}')
    watch = Watch(redis, own, "shop_of_entries", "m", 10, 5)
    watch.join()
    assert (watch.cursors, watch.skipped, watch._truths(["a", "b", "c", "d"])) == ({}, 0, {"c": 1.0})
    assert watch.poll(None)
    assert watch.skipped == 3
    redis.delete(prediction_log_key("shop_of_entries"))


_SAID = bodies(
    {
        "version": 1,
        "drift": True,
        "features": [{"name": "a", "statistic": 0.5, "p": 0.01, "drift": True}],
        "score": {"name": "score", "drift": False},
    },
    {
        "versions": [{"version": 1, "role": "answered", "predictions": 5, "labels": 4, "metrics": {"auc": {"value": 0.5}}}],
        "delay_s": {"p50": 1.5},
    },
)


@fuzzed
@given(_SAID)
def test_fuzz_a_scrape_outlives_whatever_is_said_of_drift_and_quality(raw: bytes) -> None:
    for gauges in (drift_gauges, quality_gauges):
        for family in gauges(readable(["m"], [raw], gauges)):
            for sample in family.samples:
                float(sample.value)


@settings(max_examples=50)
@given(raw=_SAID)
def test_a_scrape_with_whatever_lies_in_redis_is_answered(shop: House, redis: Any, raw: bytes) -> None:
    with redis.pipeline(transaction=False) as pipe:
        pipe.set(drift_key("shop_of_entries", "sells_out"), raw)
        pipe.set(quality_key("shop_of_entries", "sells_out"), raw)
        pipe.hset(equality_key("shop_of_entries", "sells_out"), mapping={"compared": raw[:30], "unequal": raw[-30:]})
        pipe.execute()
    assert shop.call("GET", "/metrics").status_code == 200


@fuzzed
@given(_SAID)
def test_fuzz_a_verdict_and_the_quality_are_shown_as_they_were_written_or_not_there(shop: House, redis: Any, raw: bytes) -> None:
    redis.mset({drift_key("shop_of_entries", "sells_out"): raw, quality_key("shop_of_entries", "sells_out"): raw})
    for path in ("drift", "quality"):
        response = shop.call("GET", f"/v1/models/sells_out/{path}")
        check_refusal(response, 404)
        if response.status_code == 200:
            assert response.content == raw
            assert isinstance(response.json(), dict)
    with contextlib.suppress(*status.NO_FIGURE):
        assert status.measured(files.parse(raw, dict[str, Any])).startswith("  version")


@fuzzed
@given(st.lists(bodies(TALLY), min_size=1, max_size=2))
def test_fuzz_tallies_are_counted_or_unknown(raws: list[bytes]) -> None:
    lying = SimpleNamespace(hgetall=lambda _: {str(i).encode(): raw for i, raw in enumerate(raws)})
    before = {"0": {1: Count(5, 6, 1, [3, 4, 6], 2, 1)}}
    try:
        counted, bounds = Counters(lying, "p", "sells_out").read(NOW_US)
        assert len(counted) == len(raws)
        assert isinstance(bounds, list)
        since(counted, before)
    except Unknown:
        return
