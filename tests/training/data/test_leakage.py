"""The leakage check: clean on what is clean, and it finds what leaks - label, wrong timestamp, missing created column, on-demand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import DefinitionError
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT, Settings
from streaming.offline.ingest import make_tables
from tests.bikes.platform import Bikes
from training.data.leakage import LeakageError, LeakCheck, find_leaks


@pytest.fixture
def changed(bikes: Bikes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], LeakCheck]:
    """Checks a copy of the use case whose definitions were edited."""

    def run(edit: Callable[[str], str]) -> LeakCheck:
        folder = tmp_path / "repo"
        shutil.copytree(bikes.case.folder, folder)
        source = folder / "bikes.py"
        text = edit(source.read_text())
        assert text != source.read_text()
        source.write_text(text)
        monkeypatch.setenv("HEADRACE_REGISTRY_URL", f"sqlite:///{tmp_path / 'registry.db'}")
        case = UseCase(folder)
        apply_definitions(case)
        return find_leaks(case, bikes.settings, moments=2, examples=60)

    return run


def leaking(checked: LeakCheck) -> set[str]:
    return {leak.feature for leak in checked.leaks}


def test_the_second_use_case_does_not_leak(bikes: Bikes) -> None:
    checked = find_leaks(bikes.case, bikes.settings, moments=2, examples=60)
    assert not checked.leaks
    assert not checked.untested
    assert min(checked.perturbed.values()) > 100
    assert {"dock__charge", "rides_by_station__sum_km_2h", "wish__riders"} <= checked.features


def test_a_missing_created_column_is_found(changed: Any) -> None:
    checked = changed(lambda text: text.replace(', created_timestamp_column="reported"', ""))
    assert {"rides_by_station__rides_2h", "rides_by_station_and_class__rides_30m"} <= leaking(checked)
    assert not {f for f in leaking(checked) if f.startswith("dock")}
    one = checked.leaks[0]
    assert one.before != one.after
    assert 0 < one.moved <= one.examples


LABELLED = """
outcomes = SparkSource(name="outcomes_table", path="requests", file_format="parquet", timestamp_field="asked")
outcome = FeatureView(
    name="outcome",
    entities=[station],
    source=outcomes,
    ttl=timedelta(0),
    schema=[Field(name="station", dtype=Int64), Field(name="turned_away", dtype=Int64)],
)
"""


def test_a_label_as_a_feature_is_found_even_if_no_service_uses_it(changed: Any) -> None:
    checked = changed(lambda text: text + LABELLED)
    assert leaking(checked) == {"outcome__turned_away"}


def test_a_wrong_timestamp_column_is_found(changed: Any) -> None:
    """Requests by the moment they were wanted for, which lies before the moment they were asked at... of others; ended rides as begun ones."""
    wrong = LABELLED.replace('timestamp_field="asked"', 'timestamp_field="wanted_at"').replace("turned_away", "party")
    checked = changed(lambda text: text + wrong)
    assert "outcome__party" in leaking(checked)


def test_a_label_that_comes_in_by_the_request_is_found(changed: Any) -> None:
    def edit(text: str) -> str:
        text = text.replace(
            'Field(name="party", dtype=Int64)]', 'Field(name="party", dtype=Int64), Field(name="turned_away", dtype=Int64)]'
        )
        return re.sub(r'"riders": \[?[^\n]*', '"riders": [None if x is None else int(x) for x in inputs["turned_away"]],', text, count=1)

    checked = changed(edit)
    assert leaking(checked) == {"wish__riders"}


def test_the_flights_do_not_leak(state: Settings, spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "feature_repo" / "flights"
    own = state.model_copy(update={"repo": folder, "state": tmp_path})
    monkeypatch.setenv("HEADRACE_REGISTRY_URL", own.registry_url)
    monkeypatch.setenv("HEADRACE_OFFLINE_ROOT", str(own.offline_root))
    case = UseCase(folder)
    make_tables(case, own, spark)
    apply_definitions(case)
    checked = find_leaks(case, own, moments=1, examples=100)
    assert not checked.leaks
    assert len(checked.features) > 50
    assert checked.perturbed["departures_by_origin"] > 1000


def test_a_use_case_without_a_model_is_told_what_is_missing(state: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(ROOT / "tests" / "bikes" / "repo", folder, ignore=shutil.ignore_patterns("models"))
    with pytest.raises(LeakageError, match=r"no model yet \(models/\*\.yaml\)"):
        find_leaks(UseCase(folder), state)


def test_a_feature_service_that_is_not_applied_is_named(state: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(ROOT / "tests" / "bikes" / "repo", folder)
    with pytest.raises(DefinitionError, match=r"is not applied in project .*: run `headrace apply`"):
        find_leaks(UseCase(folder, tmp_path / "registry.db"), state)
