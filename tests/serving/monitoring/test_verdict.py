"""Verdicts as others read them, and their history: each is there once, and stands."""

from __future__ import annotations

import json

import msgspec

from feature_repo.records import release
from feature_repo.records.redis_keys import drift_key, equality_key, prediction_log_key, watch_key
from feature_repo.records.verdict import history, history_path
from infra.settings import Settings
from serving.monitoring.hours import HOUR_US
from tests.serving.monitoring.pump import MODEL, Log, daily, once, register, rows


def test_the_verdict_is_the_json_that_others_read(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(400, 1, shift=2.0))
    once(settings, project)
    verdict = json.loads(log.client.get(drift_key(project, MODEL)))  # type: ignore[arg-type]
    assert {"model", "version", "at_us", "window", "drift", "features", "score", "outliers", "detector"} <= verdict.keys()
    assert set(verdict["window"]) == {"rows", "from_us", "to_us", "core"}
    assert {"name", "p_value", "effect", "null_rate", "reference_null_rate", "drift"} <= verdict["features"][0].keys()
    assert {"share", "nominal", "alarm"} <= verdict["outliers"].keys()
    assert verdict["detector"] == "scipy"


def test_a_verdict_written_just_before_a_kill_is_not_written_twice(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(400, 1))
    once(settings, project)
    before = history(settings, MODEL)
    # As after a kill between the history file and Redis, in the middle of another line:
    log.client.delete(watch_key(project, MODEL))
    log.client.xgroup_destroy(prediction_log_key(project), f"watch:{MODEL}")
    with history_path(settings, MODEL).open("ab") as file:
        file.write(b'{"id":"1@')
    once(settings, project)
    assert history(settings, MODEL) == before
    assert history_path(settings, MODEL).read_bytes().count(b"\n") == 1


def test_a_verdict_in_the_history_stands_though_the_equality_check_goes_on(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, *daily(120, 0))
    matrix, _ = daily(4, 3)
    matrix[:, 1] *= 30
    log.write(matrix, apart_us=HOUR_US // 4)
    once(settings, project, window=len(matrix), step=100)
    (before,) = history(settings, MODEL)
    for key in (watch_key(project, MODEL), drift_key(project, MODEL)):
        log.client.delete(key)
    log.client.xgroup_destroy(prediction_log_key(project), f"watch:{MODEL}")  # as after a kill between history and Redis
    log.client.hset(equality_key(project, MODEL), mapping={"compared": 10, "unequal": 10})
    once(settings, project, window=len(matrix), step=100)
    assert history(settings, MODEL) == [before]
    assert log.latest() == before


def test_the_live_versions_verdict_is_the_one_shown(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    register(settings, 2, rows(3000, 0))
    release.promote(settings.model_root, MODEL, 1)
    log.write(rows(400, 1))
    log.write(rows(400, 2), version=2)
    once(settings, project)
    latest = log.latest()
    assert latest is not None
    assert latest.version == 1
    assert [v.version for v in history(settings, MODEL)] == [1, 2]


def test_a_history_that_was_written_before_a_cause_was_renamed_is_read(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(400, 1, shift=0.8))
    once(settings, project)
    path = history_path(settings, MODEL)
    kept = msgspec.json.decode(path.read_bytes())
    kept["features"][0]["cause"] = "stuck"
    path.write_bytes(msgspec.json.encode(kept) + b"\n")
    assert history(settings, MODEL)[0].features[0].cause == "stuck"
