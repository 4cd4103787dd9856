"""What a change of definitions would do, before it does it; and what `apply` refuses."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_repo.records import contract
from feature_repo.records.prediction import Prediction
from feature_repo.records.redis_keys import keys_key
from feature_repo.registry.apply import BreakingChangeError, apply_definitions, check_live_models
from feature_repo.registry.plan import make_plan, proposed
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT
from streaming.backfill.estimate import estimate_size
from streaming.backfill.run import plan as plan_backfill
from streaming.online import entity_index, removal
from streaming.online.store import connect
from streaming.schema.feature_view import views
from streaming.status import size
from tests.bikes.edits import rewrite
from tests.bikes.platform import Bikes
from training.evaluation import definition_change


@pytest.fixture
def edited(bikes: Bikes, tmp_path: Path) -> Iterator[Any]:
    """The use case, applied, with its folder's definitions edited afterwards."""
    folder = tmp_path / "repo"
    shutil.copytree(bikes.case.folder, folder)
    case = UseCase(folder)  # the same registry: what is applied is what the live model was trained on

    def edit(*replacements: tuple[str, str]) -> UseCase:
        text = (folder / "bikes.py").read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        rewrite(folder / "bikes.py", text)
        return case

    return edit


def test_no_change_is_no_change(bikes: Bikes, edited: Any) -> None:
    case = edited()
    with proposed(case) as after:
        found = make_plan(case, after, bikes.settings)
    assert not found.changes
    assert not found.broken


WIDER = ('time_window=timedelta(hours=2), name="sum_km_2h"', 'time_window=timedelta(hours=3), name="sum_km_2h"')


def test_a_changed_window_is_named_and_the_live_model_with_it(bikes: Bikes, edited: Any) -> None:
    case = edited(WIDER)
    client = connect(bikes.settings.redis())
    with proposed(case) as after:
        found = make_plan(case, after, bikes.settings)
        texts = [c.text for c in found.changes]
        assert "sum_km_2h: window 2:00:00 -> 3:00:00" in texts
        assert found.backfill == ["rides_by_station"]
        assert texts == ["sum_km_2h: window 2:00:00 -> 3:00:00"], "the one feature that was edited"
        assert found.readers == found.broken == {"turned_away": ["rides_by_station:sum_km_2h"]}, "and only what depends on it"
        view = views(after.store)["rides_by_station"]
        (planned,) = plan_backfill([view], bikes.settings.offline_root, client, None)
        assert planned.rows > 500
        guess = estimate_size(view, bikes.settings.offline_root, planned)
        made = contract.load(bikes.settings.model_root / "turned_away" / str(bikes.contract.version))
        odd = log(bikes)[:1]
        odd[0].request["party"] = "two"
        moved = definition_change.with_and_without(case, after, bikes.settings, made, [*odd, *log(bikes)])
        none = definition_change.with_and_without(case, after, bikes.settings, made, odd)
    assert guess is not None
    held = size(client, view, int(entity_index.count(client, keys_key("bikes", view.name))[0]))  # type: ignore[arg-type]
    assert guess.entities == 6
    assert 0.5 < guess.bytes / held < 2
    assert isinstance(moved, definition_change.Moved)
    assert moved.requests == 40, "what fits no version costs itself"
    assert none == "nothing to compare: of the logged requests, 1 with 'party' is no int64, as version 1 takes it"
    assert [name for name, _ in moved.features] == ["rides_by_station__sum_km_2h"]
    assert 0 <= moved.mean <= moved.largest
    with pytest.raises(BreakingChangeError, match=r"turned_away reads rides_by_station:sum_km_2h.*--allow-breaking"):
        check_live_models(found.broken)


def test_a_renamed_window_keeps_its_tiles(bikes: Bikes, edited: Any) -> None:
    case = edited(("sum_km_2h", "km_of_two_hours"))
    with proposed(case) as after:
        found = make_plan(case, after, bikes.settings)
        before, now = (views(one.store)["rides_by_station"] for one in (case, after))
    (change,) = [c for c in found.changes if c.what == "view"]
    assert change.text.startswith("feature sum_km_2h is renamed to km_of_two_hours; its tiles are kept")
    assert found.backfill == []
    assert now.fingerprint == before.fingerprint
    assert found.broken == {"turned_away": ["rides_by_station:sum_km_2h"]}


def log(bikes: Bikes) -> list[Prediction]:
    """Requests as the log has them, from the test split."""
    import pyarrow.parquet as pq

    found = []
    for i, row in enumerate(pq.read_table(bikes.training_set.path).slice(3000, 40).to_pylist()):
        request = {f.name: row[f.name].isoformat() if f.dtype == "timestamp" else row[f.name] for f in bikes.contract.request}
        at = round(row["asked"].timestamp() * 1e6)
        found.append(Prediction(str(i), "turned_away", bikes.contract.version, at, at, request, [], "", {}, 0.5))
    return found


def test_a_view_a_service_and_code_are_said_as_a_person_would(bikes: Bikes, edited: Any) -> None:
    case = edited(
        ("dock_choice = FeatureService", "spare = FeatureView(name='docks_again', entities=[station], source=docks, ttl=timedelta(hours=1), schema=[Field(name='station', dtype=Int64), Field(name='charge', dtype=Float64)])\ndock_choice = FeatureService"),
        ("ttl=timedelta(minutes=25)", "ttl=timedelta(minutes=30)"),
        ('moment.hour if moment', "moment.hour + 0 if moment"),
        ("rides_by_station_and_class, dock, wish]", "dock, wish]"),
    )  # fmt: skip
    with proposed(case) as after:
        found = make_plan(case, after, bikes.settings)
    said = {(c.what, c.name): c.text for c in found.changes}
    assert said["view", "docks_again"] == "is new: charge"
    assert said["view", "dock"] == "ttl 0:25:00 -> 0:30:00"
    assert said["on-demand view", "wish"] == "its code changes"
    assert said["service", "dock_choice"].startswith("features: without rides_by_station_and_class:")
    assert found.backfill == ["docks_again"]  # a ttl changes what is read, not what is stored
    assert "rides_by_station_and_class:rides_30m" in found.broken["turned_away"]


KILLED = f"""
import os, runpy, signal, sys
from streaming.online import removal
removal.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = [{str(ROOT / "headrace.py")!r}, *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The command, which dies when it is about to remove the first view's values."""


def command(bikes: Bikes, folder: Path, *arguments: str, killed: bool = False) -> subprocess.CompletedProcess[str]:
    import os

    environment = os.environ | {
        "HEADRACE_STATE": str(bikes.settings.state),
        "HEADRACE_REPO": str(folder),
        "HEADRACE_REDIS_URL": bikes.settings.redis(),
        "COLUMNS": "200",
    }
    program = ["-c", KILLED] if killed else [str(ROOT / "headrace.py")]
    return subprocess.run(
        [sys.executable, *program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def test_by_command_a_breaking_change_is_refused_and_nothing_is_half_applied(bikes: Bikes, edited: Any) -> None:
    case = edited(WIDER)
    shown = command(bikes, case.folder, "plan", "--exit-code")
    assert shown.returncode == 2, shown.stderr
    assert "sum_km_2h: window 2:00:00 -> 3:00:00" in shown.stdout
    assert "could no longer be served" in shown.stderr
    refused = command(bikes, case.folder, "apply")
    assert refused.returncode == 1
    assert "--allow-breaking" in refused.stderr
    again = command(bikes, bikes.case.folder, "plan", "--exit-code")  # the registry is what it was
    assert again.returncode == 0, again.stdout
    assert "nothing would change" in again.stdout
    try:
        done = command(bikes, case.folder, "apply", "--allow-breaking")
        assert done.returncode == 0, done.stderr
        assert "headrace backfill --view rides_by_station" in done.stdout.replace("\n", " ")
    finally:
        apply_definitions(bikes.case)
        bikes.case.store.refresh_registry()


@pytest.mark.parametrize("killed", [False, True])
def test_by_command_a_removed_view_takes_its_values_along(bikes: Bikes, edited: Any, killed: bool) -> None:
    """Also where an `apply` was killed between the registry and the store: the next one goes on, and says so."""
    client = connect(bikes.settings.redis())
    bikes.backfill()
    before = entity_index.count(client, keys_key("bikes", "rides_by_station_and_class"))[0]
    assert before
    case = edited(
        ("rides_by_station_and_class = StreamFeatureView(", "_unused = lambda **_: None\nrides_by_station_and_class = _unused("),
        ("rides_by_station, rides_by_station_and_class, dock, wish]", "rides_by_station, dock, wish]"),
    )
    try:
        if killed:
            assert command(bikes, case.folder, "apply", "--allow-breaking", killed=True).returncode == -signal.SIGKILL
            assert entity_index.count(client, keys_key("bikes", "rides_by_station_and_class"))[0] == before
        done = command(bikes, case.folder, "apply", "--allow-breaking")
        assert done.returncode == 0, done.stderr
        assert f"removed from {before} entities" in done.stdout
        assert not entity_index.count(client, keys_key("bikes", "rides_by_station_and_class"))[0]
        assert not (bikes.settings.state / removal.OWED).exists()
        assert entity_index.count(client, keys_key("bikes", "rides_by_station"))[0] == 6
    finally:
        apply_definitions(bikes.case)
        bikes.case.store.refresh_registry()
        bikes.backfill()
