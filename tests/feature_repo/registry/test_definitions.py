"""What a feature means is read from the registry it is asked of, as it is now."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feast.infra.registry import proto_registry_utils

from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import definitions_of
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT, Settings


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    for name in ("STATE", "REPO", "REGISTRY_URL", "REDIS_CONNECTION", "OFFLINE_ROOT"):
        monkeypatch.setenv(f"HEADRACE_{name}", "")  # and what was there comes back
    Settings(state=tmp_path, redis_url="redis://127.0.0.1:1/0").export()
    shutil.copytree(ROOT / "tests" / "bikes" / "repo", tmp_path / "repo")
    made = UseCase(tmp_path / "repo")
    apply_definitions(made)
    return made


def test_a_snapshot_in_the_place_of_an_older_one_is_not_taken_for_it(case: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast's own cache goes by the snapshot's address; found as two registries of one process answering for each other."""
    registry: Any = case.store.registry
    monkeypatch.setattr(proto_registry_utils, "id", lambda _: 7, raising=False)  # each lies where the one before it lay
    for minutes in range(30, 34):
        before = definitions_of(case.store, "dock_choice")
        view = case.store.get_feature_view("dock")
        view.ttl = timedelta(minutes=minutes)
        registry.apply_feature_view(view, case.project)
        registry.refresh()
        assert definitions_of(case.store, "dock_choice")["dock:charge"] != before["dock:charge"]
