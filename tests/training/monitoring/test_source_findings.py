"""What is proven of a source, and another unit, is in the journal though nothing drifts: once for each finding, however often one looks."""

from __future__ import annotations

import msgspec
import pytest

from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.redis_keys import clock_key
from feature_repo.records.source_report import OddSource, SourceReport, report_path
from streaming import clock
from tests.training.retraining.world import MODEL, START_US, World
from training.monitoring.source_findings import new_findings

pytestmark = pytest.mark.integration
UNIT = OddSource("docks", "unit", "charge", "unusual", START_US, "charge leaps from 1 to 100", ["station 7, charge = 100"])


def found(world: World, upto_us: int, *odd: OddSource, unreadable: tuple[str, ...] = ()) -> None:
    path = report_path(world.settings.state, world.project)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(SourceReport(upto_us, [], list(odd), dict.fromkeys(unreadable, "a list is no key"))))


def told(world: World) -> list[Decision]:
    world.pilot().step()
    return [d for d in Journal(world.settings.state, MODEL).read() if d.step.startswith("source")]


def test_a_finding_is_written_down_once_and_again_when_it_comes_back(world: World) -> None:
    world.serve()
    assert told(world) == []
    found(
        world, 100, UNIT, msgspec.structs.replace(UNIT, source="others"), msgspec.structs.replace(UNIT, kind="nulls", column="free_bikes")
    )
    (one,) = told(world)
    assert (one.step, one.facts) == ("source", {"rows": "station 7, charge = 100"})
    assert "docks: unusual since" in one.text
    assert "charge leaps from 1 to 100" in one.text
    found(world, 200, msgspec.structs.replace(UNIT, text="charge leaps from 1 to 101", since_us=START_US + 3_600_000_000))
    assert len(told(world)) == 1, "the same, looked at again"
    found(world, 250, unreadable=("docks",))
    assert len(told(world)) == 1, "what cannot be read is not over"
    found(world, 300, unreadable=("others",))
    assert [d.step for d in told(world)] == ["source", "source over"]
    found(world, 400, UNIT)
    assert [d.step for d in told(world)] == ["source", "source over", "source"]
    assert [d.step for d in told(world)] == ["source", "source over", "source"]


def test_what_lies_beyond_a_rehearsals_clock_is_not_written_down(world: World) -> None:
    world.serve()
    clock.set_rehearsal(world.client, world.project, 50)
    try:
        found(world, 100, UNIT)
        assert told(world) == []
        clock.set_rehearsal(world.client, world.project, 100)
        assert [d.step for d in told(world)] == ["source"]
    finally:
        world.client.delete(clock_key(world.project))


def test_a_report_that_is_none_is_named_and_the_step_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.serve()
    found(world, 100, UNIT)
    report_path(world.settings.state, world.project).write_text("{")
    assert told(world) == []
    assert "what the sources did is not known" in caplog.text


def test_a_feature_service_that_the_registry_lacks_does_not_end_the_loop(world: World, caplog: pytest.LogCaptureFixture) -> None:
    found(world, 100, UNIT)
    spec = world.case.models[MODEL].model_copy(update={"feature_service": "renamed"})
    with caplog.at_level("WARNING"):
        assert new_findings(world.client, world.settings, world.case, spec, []) == []
    assert "renamed" in caplog.text
