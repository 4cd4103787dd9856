"""Every trigger, as a member of its kind: what all of them promise, run over each that is in the table."""

from __future__ import annotations

import sys
from typing import Any, get_args, get_origin

import msgspec
import pytest
from pydantic import BaseModel, ValidationError

from feature_repo.spec.retraining import Learning
from feature_repo.triggers.base import DAY_US, Alarm, Facts, Settings, Trigger
from feature_repo.triggers.table import TRIGGERS, Triggers
from infra.timestamps import LAST_US
from training.retraining.triggers import due

each = pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.kind)


def asked_by(trigger: Trigger[Any], **more: Any) -> Triggers:
    return Triggers(**(trigger.example[0] | more))


@each
def test_a_trigger_is_one_class_in_one_file_with_its_settings(trigger: Trigger[Any]) -> None:
    module = sys.modules[type(trigger).__module__]
    own = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Trigger) and one is not Trigger]
    assert own == [type(trigger)]
    assert set(trigger.example[0]) <= set(getattr(module, "Settings", Settings).model_fields)


def test_no_two_triggers_have_a_name_in_common_and_every_setting_is_of_one() -> None:
    kinds = [trigger.kind for trigger in TRIGGERS]
    assert len(set(kinds)) == len(kinds)
    fields = [name for trigger in TRIGGERS for name in vars(sys.modules[type(trigger).__module__])["Settings"].model_fields]
    assert sorted(set(Triggers.model_fields) - {"cooldown_days", "budget", "budget_days"}) == sorted(fields)


@each
def test_it_fires_on_its_example_and_says_why(trigger: Trigger[Any]) -> None:
    settings, facts = trigger.example
    reason = due(Triggers(**settings), facts)
    assert reason is not None
    assert (reason.kind, reason.at_us, reason.held) == (trigger.kind, facts.now_us, "")
    assert reason.text


@each
def test_it_is_silent_where_nothing_has_happened(trigger: Trigger[Any]) -> None:
    quiet = Facts(now_us=400 * DAY_US, known_upto_us=400 * DAY_US - 1, labelled_us=400 * DAY_US)
    assert due(asked_by(trigger), quiet) is None


@each
def test_what_the_spec_does_not_name_does_not_fire(trigger: Trigger[Any]) -> None:
    assert not Triggers().any
    assert (due(Triggers(), trigger.example[1]) is None) == trigger.holds, "only a person is heard without being named"
    assert asked_by(trigger).any == trigger.wanted(asked_by(trigger)) == trigger.holds


@each
def test_cooldown_and_budget_hold_it_unless_it_is_held_by_nothing(trigger: Trigger[Any]) -> None:
    facts = msgspec.structs.replace(trigger.example[1], trained_us=[trigger.example[1].now_us - DAY_US])
    for limits in ({"cooldown_days": 7.0}, {"cooldown_days": 0.0, "budget": 1}):
        reason = due(asked_by(trigger, **limits), facts)
        assert reason is not None
        assert bool(reason.held) == trigger.holds


@each
def test_the_same_facts_give_the_same_answer_and_unknown_ones_break_nothing(trigger: Trigger[Any]) -> None:
    settings, facts = trigger.example
    assert due(Triggers(**settings), facts) == due(Triggers(**settings), facts)
    optional = [field.name for field in msgspec.structs.fields(Facts) if field.default is None or field.name == "known_upto_us"]
    assert {"known_upto_us", "labelled_us", "live", "alarm"} <= set(optional)
    for name in optional:
        due(Triggers(**settings), msgspec.structs.replace(facts, **{name: None}))


@each
def test_its_settings_refuse_what_they_do_not_know(trigger: Trigger[Any]) -> None:
    with pytest.raises(ValidationError):
        asked_by(trigger, nonsense=1)


def numbers(schema: type[BaseModel], *path: str) -> list[tuple[str, ...]]:
    """Where a schema takes a number: paths of fields."""
    found = []
    for name, field in schema.model_fields.items():
        inner = [
            one
            for one in (field.annotation, *(() if get_origin(field.annotation) is dict else get_args(field.annotation)))
            if isinstance(one, type)
        ]
        for one in inner:
            found += numbers(one, *path, name) if issubclass(one, BaseModel) else [(*path, name)] if one in (float, int) else []
    return sorted(set(found))


def said(path: tuple[str, ...], value: float) -> dict[str, Any]:
    for name in reversed(path[1:]):
        value = {name: value}  # type: ignore[assignment]
    return {path[0]: value}


@pytest.mark.parametrize("path", numbers(Learning), ids=".".join)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
def test_no_number_of_the_loop_is_infinite(path: tuple[str, ...], value: float) -> None:
    with pytest.raises(ValidationError, match=r"finite|greater than|less than"):
        Learning.model_validate(said(path, value))


TIMES = [path for path in numbers(Learning) if path[-1].endswith(("days", "hours"))]


@pytest.mark.parametrize("path", TIMES, ids=".".join)
def test_no_time_of_the_loop_is_longer_than_a_century(path: tuple[str, ...]) -> None:
    """Moments end in the year 9999."""
    assert len(TIMES) > 10
    with pytest.raises(ValidationError, match="less than or equal to"):
        Learning.model_validate(said(path, 4_000_000))


def test_a_hold_that_ends_after_all_calendars_is_told() -> None:
    """A prediction may be dated into the year 9999."""
    alarm = Alarm("view guest", "suspicion", LAST_US)
    found = due(Triggers(drift=True), Facts(now_us=LAST_US, known_upto_us=1, labelled_us=2, alarm=alarm))
    assert found is not None
    assert found.held.endswith("until 9999-12-31 23:59")
