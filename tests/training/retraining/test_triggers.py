"""The five triggers, and what holds them."""

from __future__ import annotations

from typing import Any

import pytest

from feature_repo.metrics.base import Estimate
from feature_repo.triggers.base import DAY_US, Alarm, Facts
from feature_repo.triggers.quality import QualityDrop
from feature_repo.triggers.table import Triggers
from training.retraining.triggers import due, held_by_fault

NOW = 400 * DAY_US
ALL = Triggers(schedule_days=30, new_labels=1000, quality=QualityDrop(metric="auc", drop=0.02), drift=True, cooldown_days=7, budget=2)


def facts(**changes: Any) -> Facts:
    return Facts(**({"now_us": NOW, "known_upto_us": NOW - DAY_US, "labelled_us": NOW} | changes))


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"known_upto_us": NOW - 30 * DAY_US}, "schedule", "30.0 days"),
        ({"new_labels": 1000}, "new_data", "1,000 new examples"),
        ({"live": Estimate(0.70, 0.69, 0.719), "baseline": 0.74}, "quality", "live auc is 0.7000"),
        ({"alarm": Alarm("population change: temp", "change", NOW - DAY_US, 2)}, "drift", "temp"),
        ({"request": "the boss"}, "request", "the boss"),
    ],
)
def test_each_trigger_fires_and_says_why(changes: dict[str, Any], kind: str, says: str) -> None:
    reason = due(ALL, facts(**changes))
    assert reason is not None
    assert (reason.kind, reason.held) == (kind, "")
    assert says in reason.text
    if kind != "request":
        assert due(Triggers(), facts(**changes)) is None, "what the spec does not name does not fire"


@pytest.mark.parametrize(
    "changes",
    [
        {"known_upto_us": NOW - 29 * DAY_US},
        {"new_labels": 999},
        {"live": Estimate(0.70, 0.68, 0.721), "baseline": 0.74},  # worse, but not surely by more than allowed
        {"live": Estimate(0.70, 0.69, 0.719)},
        {},
    ],
)
def test_below_its_bound_none_does(changes: dict[str, Any]) -> None:
    assert due(ALL, facts(**changes)) is None


def test_a_metric_that_falls_when_it_is_good_drops_upwards() -> None:
    asked = Triggers(quality=QualityDrop(metric="log_loss", drop=0.02))
    assert due(asked, facts(live=Estimate(0.5, 0.49, 0.51), baseline=0.46)) is not None
    assert due(asked, facts(live=Estimate(0.4, 0.39, 0.41), baseline=0.46)) is None


def test_cooldown_and_budget_hold_all_but_a_person() -> None:
    fires = {"new_labels": 5000}
    assert due(ALL, facts(**fires, trained_us=[NOW - 6 * DAY_US])).held.startswith("cooldown until")  # type: ignore[union-attr]
    assert due(ALL, facts(**fires, trained_us=[NOW - 7 * DAY_US])).held == ""  # type: ignore[union-attr]
    spent = due(ALL, facts(**fires, trained_us=[NOW - 300 * DAY_US, NOW - 20 * DAY_US]))
    assert spent is not None
    assert "budget of 2" in spent.held
    assert due(ALL, facts(**fires, trained_us=[NOW - 366 * DAY_US, NOW - 20 * DAY_US])).held == ""  # type: ignore[union-attr]
    asked = due(ALL, facts(request="", trained_us=[NOW - 1, NOW - 2, NOW - 3]))
    assert asked is not None
    assert asked.held == ""


@pytest.mark.parametrize("fires", [{"known_upto_us": 0}, {"new_labels": 5000}, {"alarm": Alarm("temp", "change", NOW, 2)}])
def test_where_nothing_is_labelled_since_no_data_is_wait(fires: dict[str, Any]) -> None:
    for labelled in (None, 0, fires.get("known_upto_us", NOW - DAY_US)):
        found = due(ALL, facts(**fires, labelled_us=labelled))
        assert found is not None
        assert "no truth has become known" in found.held
    unsaid = due(ALL, facts(**(fires | {"known_upto_us": None})))
    assert unsaid is None or "does not say" in unsaid.held


def test_a_training_counted_by_another_clock_blocks_nothing() -> None:
    found = due(ALL, facts(new_labels=5000, trained_us=[NOW + 4711 * DAY_US] * 3))
    assert found is not None
    assert found.held == ""


@pytest.mark.parametrize(
    ("kind", "days", "by_fault"), [("suspicion", 1, True), ("suspicion", 8, False), ("proof", 8, True), ("change", 1, False)]
)
def test_only_a_suspected_or_proven_fault_counts_as_held_by_one(kind: Any, days: int, by_fault: bool) -> None:
    alarm = Alarm("a fault", kind, NOW - days * DAY_US, 2)
    for trained in ([], [NOW - DAY_US]):  # a cooldown neither makes nor hides it
        assert held_by_fault(ALL, facts(alarm=alarm, trained_us=trained)) is by_fault
    assert not held_by_fault(Triggers(new_labels=1000), facts(alarm=alarm)), "a trigger that nobody asked for holds nothing"
