"""Too little to judge is not a failure, and is said; enough to judge and no verdict is one."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT, Settings
from serving.simulation.demo import Demo, _no_verdict
from serving.simulation.stages import StageFailed
from training.data.leakage import LeakCheck


def test_a_short_demo_without_a_full_window_says_so_and_does_not_fail() -> None:
    said = _no_verdict(900, 5000)
    assert "900" in said
    assert "5,000" in said


def test_a_full_window_without_a_verdict_is_a_failure() -> None:
    with pytest.raises(StageFailed, match="no verdict"):
        _no_verdict(5000, 5000)


def test_services_that_are_kept_are_said_to_be_without_an_autopilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody trains then, and a word on an alarm is heard by nobody."""

    def stop() -> None:
        raise StageFailed("no further here")

    case = UseCase(ROOT / "feature_repo" / "flights")
    for keep in (True, False):
        out = StringIO()
        demo = Demo(Settings(state=tmp_path), case, "arrival_delay", 1, 30, Console(file=out, width=200), {})
        monkeypatch.setattr(demo, "_stages", stop)
        demo.run(keep, None)
        assert ("no autopilot is among them" in out.getvalue()) is keep
        assert ("`./headrace autopilot arrival_delay`" in out.getvalue()) is keep


def test_no_leak_is_said_only_of_what_could_have_moved() -> None:
    checked = LeakCheck(features={"a__x", "a__y", "b__x"}, untested={"b": "no row was unknown"})
    assert checked.tested == {"a__x", "a__y"}
    assert not LeakCheck(features={"a__x"}, untested={"a": "outside the store"}).tested
