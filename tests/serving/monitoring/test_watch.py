"""The watch on a prediction log in a real Redis: verdicts, restarts, bad entries, versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.records.redis_keys import equality_key, prediction_log_key, watch_key
from feature_repo.records.verdict import history
from infra.settings import Settings
from serving.monitoring import watch
from tests.serving.monitoring.pump import MODEL, NAMES, Log, once, register, rows

pytestmark = pytest.mark.integration


def test_unchanged_traffic_gets_a_verdict_per_step_and_none_calls_drift(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(700, 1))
    assert once(settings, project) == {"predictions": 700, "verdicts": 4, "drift": 0, "skipped": 0}
    verdicts = history(settings, MODEL)
    assert [v.at_us for v in verdicts] == [399_000_000, 499_000_000, 599_000_000, 699_000_000]
    assert log.latest() == verdicts[-1]
    assert verdicts[-1].window.rows == 400
    assert (verdicts[-1].window.from_us, verdicts[-1].window.to_us) == (300_000_000, 699_000_000)
    assert [f.name for f in verdicts[-1].features] == NAMES
    assert verdicts[-1].features[2].reference_null_rate == pytest.approx(0.1, abs=0.03)


def test_drift_is_called_names_the_input_and_comes_within_a_window(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(400, 1))
    log.write(rows(400, 2, shift=0.8))
    once(settings, project)
    verdicts = history(settings, MODEL)
    assert [v.drift for v in verdicts] == [False, *[True] * 4]
    assert [f.name for f in verdicts[-1].features if f.drift] == ["pressure"]
    assert not verdicts[-1].score.drift


def test_a_restart_at_any_point_changes_no_verdict(settings: Settings, project: str, log: Log, tmp_path: Path) -> None:
    """The same log, read in one go and by a watcher stopped after every few entries, gives the same verdicts on the same entries."""
    register(settings, 1, rows(3000, 0))
    straight = settings.model_copy(update={"state": tmp_path / "straight"})
    register(straight, 1, rows(3000, 0))
    log.write(rows(900, 1, shift=0.2))
    client = log.client
    smallest, watch.BATCH = watch.BATCH, 70
    try:
        while True:  # each turn is a process that dies with entries taken and not acknowledged
            dying = watch.Watch(client, settings, project, MODEL, 400, 100)
            alive = [dying.poll(None) for _ in range(8)]
            if not all(alive):
                break
        assert log.pending() == 0
        client.delete(watch_key(project, MODEL))
        client.xgroup_destroy(prediction_log_key(project), f"watch:{MODEL}")
        once(straight, project)
    finally:
        watch.BATCH = smallest
    assert [v.id for v in history(settings, MODEL)] == [v.id for v in history(straight, MODEL)]
    assert history(settings, MODEL) == history(straight, MODEL)


def test_bad_entries_are_counted_once_and_the_rest_is_judged(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    key = prediction_log_key(project)
    log.write(rows(200, 1))
    for fields in ({"p": b"not json"}, {"q": b"{}"}, {"p": b'{"model": "pump"}'}, {"p": b"\xff\xfe"}):
        log.client.xadd(key, fields)  # type: ignore[arg-type]
    log.write(rows(5, 2)[:, 1:])  # an input short
    log.write(rows(30, 3), model="another")
    log.write(rows(200, 4))
    assert once(settings, project) == {"predictions": 405, "verdicts": 1, "drift": 0, "skipped": 9}
    assert once(settings, project) == {"predictions": 0, "verdicts": 0, "drift": 0, "skipped": 9}
    assert log.pending() == 0


def test_entries_trimmed_before_they_were_judged_are_counted(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(300, 1))
    dying = watch.Watch(log.client, settings, project, MODEL, 400, 100)
    dying.poll(None)
    dying.poll(None)
    log.client.xtrim(prediction_log_key(project), maxlen=250, approximate=False)
    log.write(rows(200, 2))
    assert once(settings, project)["skipped"] == 50
    assert history(settings, MODEL)[0].window.rows == 400
    assert log.pending() == 0


def test_a_new_version_is_judged_against_its_own_reference(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    register(settings, 2, rows(3000, 5, shift=2.0))
    log.write(rows(400, 1))
    log.write(rows(400, 2, shift=2.0), version=2)
    once(settings, project)
    verdicts = history(settings, MODEL)
    assert [(v.version, v.drift) for v in verdicts] == [(1, False), (2, False)]
    assert verdicts[1].window.from_us == 400_000_000  # nothing of version 1 in it


def test_predictions_of_a_version_without_a_contract_are_counted_not_fatal(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(10, 1), version=9)
    log.write(rows(400, 2))
    assert once(settings, project) == {"predictions": 410, "verdicts": 1, "drift": 0, "skipped": 10}


def test_once_judges_what_is_left_over_but_not_twice(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(130, 1))
    assert once(settings, project)["verdicts"] == 1
    assert once(settings, project)["verdicts"] == 0
    assert history(settings, MODEL)[0].window.rows == 130


def test_once_says_nothing_on_less_than_a_step(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(99, 1))
    assert once(settings, project)["verdicts"] == 0
    assert log.latest() is None


def test_an_empty_log_is_no_error(settings: Settings, project: str, log: Log) -> None:
    assert once(settings, project) == {"predictions": 0, "verdicts": 0, "drift": 0, "skipped": 0}


def test_alibi_detect_gives_the_same_verdicts_on_the_log(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, rows(3000, 0))
    log.write(rows(400, 1, shift=0.8))
    alibi = settings.model_copy(update={"detector": "alibi"})
    assert once(alibi, project)["drift"] == 1
    verdict = history(settings, MODEL)[0]
    assert verdict.detector == "alibi"
    assert [f.name for f in verdict.features if f.drift] == ["pressure"]


@pytest.mark.parametrize(("raw", "shown"), [(b'["17: v:flow of pump 3"]', ["17: v:flow of pump 3"]), (b'[{"ours": 1}]', []), (b"\xff", [])])
def test_values_that_stock_feast_reads_differently_are_named_in_the_verdict(
    settings: Settings, project: str, log: Log, raw: bytes, shown: list[str]
) -> None:
    register(settings, 1, rows(3000, 0))
    own = watch.Watch(log.client, settings, project, MODEL, 400, 100)
    own.join()
    log.client.hset(equality_key(project, MODEL), mapping={"compared": 327, "unequal": 8, "last": raw})
    log.write(rows(400, 1))
    while own.poll(None):
        pass
    triage = history(settings, MODEL)[0].triage
    assert triage is not None
    assert (triage.cause, triage.proof) == ("training/serving skew", True)
    assert [(one.text, one.rows) for one in triage.evidence] == [("stock Feast reads 8 of 327 served values differently", shown)]
