"""What cannot be executed is refused by name before it is applied; a registry that holds such a thing is named, and mended by `apply`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import DefinitionError
from feature_repo.registry.followed import Followed
from feature_repo.registry.plan import applied, make_plan, proposed
from feature_repo.spec.use_case import UseCase
from infra import files
from infra.settings import ROOT, Settings
from streaming.schema.compilation import Applied, check_view, usable
from tests.bikes.edits import rewrite

Edit = Callable[..., UseCase]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("STATE", "REPO", "REGISTRY_URL", "REDIS_CONNECTION", "OFFLINE_ROOT"):
        monkeypatch.setenv(f"HEADRACE_{name}", "")  # and what was there comes back
    made = Settings(state=tmp_path / "state", redis_url="redis://127.0.0.1:1/0")
    made.state.mkdir()
    made.export()
    return made


@pytest.fixture
def edited(own: Settings, tmp_path: Path) -> Edit:
    """The second use case with some of its text replaced."""
    assert own
    folder = tmp_path / "repo"
    shutil.copytree(ROOT / "tests" / "bikes" / "repo", folder)
    text = (folder / "bikes.py").read_text()

    def edit(*replacements: tuple[str, str]) -> UseCase:
        changed = text
        for old, new in replacements:
            assert old in changed, old
            changed = changed.replace(old, new)
        rewrite(folder / "bikes.py", changed)
        return UseCase(folder)

    return edit


TYPO = ('function="sum"', 'function="average"')
CHARGE = 'Field(name="charge", dtype=Float64)'
REFUSED = [
    ([('name="last_km_2h", dtype=Float64', 'name="last_km_2h", dtype=String')], r"last_km_2h \(string\): what a window gives is a number"),
    ([TYPO], r"'rides_by_station'.*'sum_km_2h'.*'average' is not one of"),
    ([(CHARGE, 'Field(name="charge level", dtype=Float64)')], r"'dock': feature 'charge level' is not made of letters"),
    ([(CHARGE, 'Field(name="a,b", dtype=Float64)')], r"'dock': feature 'a,b'"),
    ([(CHARGE, 'Field(name="a`b", dtype=Float64)')], r"'dock': feature 'a`b'"),
    ([(CHARGE, 'Field(name="a.b", dtype=Float64)')], r"'dock': feature 'a.b'"),
    ([(CHARGE, 'Field(name="__row", dtype=Float64)')], r"'dock': feature '__row'"),
    ([(CHARGE, 'Field(name="Free_Bikes", dtype=Float64)')], r"'dock': 'Free_Bikes' and 'free_bikes' are one column"),
    ([('timestamp_field="seen"', 'timestamp_field="se`en"')], r"'dock': column 'se`en' cannot be named in SQL"),
    ([("ttl=timedelta(minutes=25)", "ttl=timedelta(minutes=25), online=False")], r"model 'turned_away'.*reads dock online.*online=False"),
    (
        [
            ("dock_choice = FeatureService", "other = FeatureView(name='dock__free', entities=[station], source=docks, schema=[Field(name='bikes', dtype=Int64)])\nagain = FeatureView(name='dock', entities=[station], source=docks, schema=[Field(name='free__bikes', dtype=Int64), Field(name='free_bikes', dtype=Int64), Field(name='charge', dtype=Float64)])\ndock_choice = FeatureService"),
            ("dock = FeatureView(", "_unused = lambda **_: None\ndock = FeatureView("),
            ("rides_by_station_and_class, dock, wish]", "rides_by_station_and_class, dock, wish])\nboth = FeatureService(name='both', features=[again, other]"),
            ('name="dock",\n', 'name="dock_before",\n'),
        ],
        r"'dock:free__bikes' and 'dock__free:bikes' would both be the column 'dock__free__bikes'",
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("edits", "said"), REFUSED)
def test_what_cannot_be_executed_is_refused_by_name(edited: Edit, edits: list[tuple[str, str]], said: str) -> None:
    case = edited(*edits)
    with proposed(case) as after, pytest.raises(DefinitionError, match=said):
        check_view(after.store, {m.name: m.feature_service for m in case.models.values()})


def test_what_can_be_executed_is_not(edited: Edit) -> None:
    offline = edited(
        ("dock_choice = FeatureService", "spare = FeatureView(name='for_training', entities=[station], source=docks, online=False, schema=[Field(name='état-7d', dtype=Float64)])\ntraining = FeatureService(name='training', features=[spare])\ndock_choice = FeatureService")
    )  # fmt: skip
    with proposed(offline) as after:
        check_view(after.store, {m.name: m.feature_service for m in offline.models.values()})
        compiled, faults = usable(after.store)
    assert not faults
    assert "for_training" not in compiled, "it is not for the online store"


def headrace(own: Settings, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HEADRACE_STATE": str(own.state),
        "HEADRACE_REPO": str(folder),
        "HEADRACE_REDIS_URL": own.redis(),
        "COLUMNS": "200",
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "headrace.py"), *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.integration
def test_by_command_a_typo_is_refused_before_anything_is_applied_and_a_bad_registry_is_mended(own: Settings, edited: Edit) -> None:
    case = edited(TYPO)
    refused = headrace(own, case.folder, "apply")
    assert refused.returncode == 1
    assert "'average' is not one of" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr
    assert not UseCase(case.folder).applied, "nothing was applied"
    apply_definitions(case)  # as older code did, or stock Feast does: the registry holds it now
    compiled, faults = usable(case.store)
    assert "rides_by_station" in faults
    assert "dock" in compiled, "one broken view costs that view only"
    mended = edited()
    done = headrace(own, mended.folder, "apply")
    assert done.returncode == 0, done.stderr
    assert "was applied, and cannot be used" in done.stdout
    mended.store.refresh_registry()
    assert usable(mended.store)[1] == {}
    assert "nothing has changed" in headrace(own, mended.folder, "apply").stdout


REGISTRIES = {
    "file": "registry:\n  registry_type: file\n  path: data/registry.pb",
    "file by path": "registry: registry.pb",
    "sql": "registry:\n  registry_type: sql\n  path: sqlite:///{folder}/own.db",
}
SHIPPED = "registry:\n  registry_type: sql\n  path: ${HEADRACE_REGISTRY_URL}\n  cache_ttl_seconds: 60"


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_plan_writes_nothing_into_the_users_own_registry(own: Settings, edited: Edit, kind: str) -> None:
    case = edited()
    settings = case.folder / "feature_store.yaml"
    text = settings.read_text()
    assert SHIPPED in text
    settings.write_text(text.replace(SHIPPED, REGISTRIES[kind].format(folder=case.folder)))

    def files() -> dict[str, tuple[int, bytes]]:
        kept = [p for p in case.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in kept}

    before = files()
    with applied(UseCase(case.folder)) as now, proposed(now) as after:
        assert {c.name for c in make_plan(now, after, own).changes} >= {"dock", "rides_by_station", "dock_choice"}
    assert files() == before, "there was no registry, and there is none"
    apply_definitions(UseCase(case.folder))
    before = files()
    assert len(before) > 5
    edited(("ttl=timedelta(minutes=25)", "ttl=timedelta(minutes=30)"))
    before |= {str(case.folder / "bikes.py"): files()[str(case.folder / "bikes.py")]}
    with applied(UseCase(case.folder)) as now, proposed(now) as after:
        assert [(c.name, c.text) for c in make_plan(now, after, own).changes] == [("dock", "ttl 0:25:00 -> 0:30:00")]
        assert after.store.get_feature_view("dock").ttl.total_seconds() == 1800
    assert files() == before


def test_what_was_applied_since_a_stream_began_is_told_and_a_registry_that_is_away_is_not(edited: Edit, own: Settings) -> None:
    case = edited()
    apply_definitions(case)
    known = list(usable(case.store)[0].values())
    since = Applied(case, known)
    assert since.changed() == ""
    apply_definitions(edited())
    assert since.changed() == ""
    apply_definitions(edited(('name="rides_by_station_and_class"', 'name="rides_by_station_and_kind"')))
    assert since.changed() == "without rides_by_station_and_class, with rides_by_station_and_kind"
    apply_definitions(edited(('function="sum"', 'function="max"')))
    assert since.changed() == "another rides_by_station"
    assert Applied(UseCase(case.folder, own.state / "nothing.db"), known).changed() == ""


def test_a_stream_is_told_when_none_of_its_views_is_left(edited: Edit) -> None:
    """A registry that is being written may be empty for a moment: it is believed when it is seen again."""
    case = edited()
    apply_definitions(case)
    since = Applied(case, list(usable(case.store)[0].values()))
    assert since.changed() == ""
    store = UseCase(case.folder).store
    for view in store.list_all_feature_views():
        store.registry.delete_feature_view(view.name, store.project)
    assert since.changed() == ""
    assert since.changed() == "without dock and rides_by_station and rides_by_station_and_class"


def test_a_change_in_the_second_of_a_look_is_seen_of_a_registry_on_a_server(edited: Edit) -> None:
    """Its revision is of whole seconds."""

    class OnAServer:
        folder, revisions = Path(), [datetime(2024, 5, 1, 12, 0, s) for s in (0, 0, 0, 0, 7, 7, 7, 7)]

        def revision(self) -> datetime:
            return self.revisions.pop(0)

    looked = Followed(OnAServer())  # type: ignore[arg-type]
    assert [looked.changed() for _ in range(8)] == [True, True, True, False, True, True, True, False]


def test_one_apply_works_at_a_time_and_the_next_waits_for_it(own: Settings, edited: Edit) -> None:
    case = edited()
    with (
        files.alone(own.state / "apply.lock"),
        subprocess.Popen(
            [sys.executable, str(ROOT / "headrace.py"), "--repo", str(case.folder), "--state", str(own.state), "apply"],
            stdout=subprocess.PIPE,
            text=True,
        ) as waits,
    ):
        assert waits.stdout is not None
        assert waits.stdout.readline() == "waiting for another `apply` to end\n"
        time.sleep(1)
        assert waits.poll() is None
        files_before = not (own.state / "registry.db").exists()
        waits.terminate()
    assert files_before
