"""Policies on a made-up stream with one great change: what each would have done, decided by the loop's own code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.records.contract import Input, RequestField
from feature_repo.records.verdict import FeatureVerdict, OutlierVerdict, Span, Triage, Verdict
from feature_repo.spec.model import ModelSpec
from serving.monitoring.rehearsal import Rehearsal
from serving.monitoring.triage.calendar import PLAIN
from serving.simulation.year_report import policies_tables
from tests.training.examples import SPEC
from training.data.training_set import TrainingSet
from training.retraining.backtest import NEVER_HELD, REFIT, Outcome, live_through

START = datetime(2020, 1, 1, tzinfo=UTC)
DAYS, FIRST, CHANGE, PER_DAY = 80, 40, 55, 100
LEARNING: dict[str, Any] = {
    "triggers": {"drift": True, "hold_days": 7, "cooldown_days": 7},
    "retraining": {"train_days": 20, "valid_days": 5, "test_days": 5},
}


def us(day: float) -> int:
    return int((START + timedelta(days=day)).timestamp() * 1e6)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """From the day of the change on, the label follows the other input."""
    rng = np.random.default_rng(3)
    n = DAYS * PER_DAY
    day = np.arange(n) / PER_DAY
    x, z = rng.normal(size=n), rng.normal(size=n) + np.where(day >= CHANGE, 1.5, 0)
    label = (np.where(day < CHANGE, x, z) + 0.5 * rng.normal(size=n) > 0.5).astype(int)
    at = [START + timedelta(days=float(d)) for d in day]
    table = pa.table(
        {
            "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            "id": np.arange(n),
            "region": ["north"] * n,
            "label": label,
            "known": pa.array([a + timedelta(hours=5) for a in at], pa.timestamp("us", "UTC")),
            "view__x": x,
            "other__z": z,
        }
    )
    path: Path = tmp_path_factory.mktemp("stream") / "set.parquet"
    pq.write_table(table, path)
    inputs = [Input("view__x", "view:x", "feature", "double"), Input("other__z", "other:z", "feature", "double")]
    return TrainingSet(path, "h" * 64, n, inputs, [RequestField("id", "entity", "int64", 1)], {"view:x": "a"}, "d", "project")


def lived(stream: TrainingSet, verdict: Callable[..., Verdict], margin: float = 1.0) -> dict[str, Outcome]:
    learning = {**LEARNING, "challenge": {"margin": margin}}
    spec = ModelSpec.model_validate({**SPEC, "learning": learning, "watch": {"window": 300, "step": 100}, "gates": []})
    return {o.policy: o for o in live_through(spec, stream, us(FIRST), us(DAYS), verdict, stages_days=2)}


def says(cause: Any, proof: bool = False, since: float = CHANGE) -> Callable[..., Verdict]:
    """A watch that alarms from a day on, until the next version, and always takes it for the same."""

    def verdict(model: Any, number: int, rows: Any, moments: Any, truth: Any) -> Verdict:
        at = int(moments[-1])
        alarm = at >= us(since) and number == 1
        quiet = FeatureVerdict("score", 1.0, 0.0, 0.0, 0.0, False)
        retrain = cause in ("population change", "concept change", "unclear")
        triage = Triage(cause, "other: z moved", ["other"], [], retrain, proof) if alarm else None
        span = Span(len(moments), int(moments[0]), at)
        return Verdict(f"{number}@{at}", "m", number, at, span, alarm, [], quiet, OutlierVerdict(0, 0.01, 1, False), "scipy", triage=triage)

    return verdict


def days(outcome: Outcome) -> list[float]:
    return [(datetime.fromisoformat(t.day).replace(tzinfo=UTC) - START) / timedelta(days=1) for t in outcome.trainings]


def test_a_change_that_is_called_one_trains_at_once(stream: TrainingSet) -> None:
    found = lived(stream, says("population change"))
    assert CHANGE <= days(found["on drift"])[0] <= CHANGE + 3
    assert found["on drift"].held_days == 0
    assert found["never"].trainings == []


def test_a_change_that_is_always_called_a_fault_is_held_for_hold_days_and_no_longer(stream: TrainingSet) -> None:
    found = lived(stream, says("pipeline fault"))
    assert CHANGE + 7 <= days(found["on drift"])[0] <= CHANGE + 10
    assert 6 <= found["on drift"].held_days <= 9
    assert days(found[NEVER_HELD])[0] <= CHANGE + 3
    assert found[NEVER_HELD].held_days == 0


def test_a_proven_fault_is_held_as_long_as_it_stands(stream: TrainingSet) -> None:
    found = lived(stream, says("pipeline fault", proof=True))
    assert found["on drift"].trainings == []
    assert found["on drift"].held_days >= DAYS - CHANGE - 2


def test_of_the_days_held_those_are_dear_on_which_another_policy_answered_better(stream: TrainingSet) -> None:
    found = lived(stream, says("pipeline fault", proof=True, since=FIRST + 1), margin=0.1)
    held = found["on drift"]
    assert held.held_days >= DAYS - FIRST - 2
    assert 10 <= held.dear_days <= DAYS - CHANGE + 3, "none before the world changed: there was nothing to gain"
    assert found[NEVER_HELD].dear_days == 0
    totals, *months = policies_tables(list(found.values()))
    assert str(held.dear_days) in totals.columns[8]._cells
    assert [m.columns[0].header for m in months] == ["AUC", "log loss", "calibration error"]
    assert list(months[1].columns[1]._cells) == [f"{m.log_loss:.4f}" for m in found["never"].months]


def test_a_quiet_watch_trains_nothing_and_the_calendar_goes_on(stream: TrainingSet) -> None:
    found = lived(stream, says("population change", since=DAYS + 1))
    assert found["on drift"].trainings == []
    assert len(found["monthly"].trainings) == 1
    assert [t.kind for t in found[REFIT].trainings] == [REFIT] * len(found[REFIT].trainings)
    assert len(found[REFIT].trainings) == (DAYS - FIRST) // 7
    assert found[REFIT].total["log_loss"] < found["never"].total["log_loss"], "new leaves help, though the trees are the old ones"


def test_with_the_watch_s_own_verdicts_the_change_is_seen_and_nothing_before_it(stream: TrainingSet) -> None:
    rehearsal = Rehearsal("scipy", PLAIN, {"view": ("a",), "other": ("b",)})
    alarms: list[float] = []

    def verdict(model: Any, number: int, rows: Any, moments: Any, truth: Any) -> Verdict:
        found = rehearsal.verdict(model, number, rows, moments, truth)
        if found.triage is not None:
            alarms.append((int(moments[-1]) - us(0)) / 86_400e6)
        return found

    found = lived(stream, verdict)
    assert min(alarms) >= CHANGE
    assert min(alarms) <= CHANGE + 4
    assert days(found["on drift"])[0] <= CHANGE + 7 + 4
