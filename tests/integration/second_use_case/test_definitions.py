"""What the use case declares, and that nobody else knows its field."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from feature_repo.records import contract
from feature_repo.registry.definitions import definitions_of
from infra.settings import ROOT
from streaming.aggregation.windows import MINUTE, Layout
from tests.bikes.platform import Bikes


def test_a_changed_definition_is_refused_by_the_features_name(bikes: Bikes) -> None:
    applied = definitions_of(bikes.case.store, bikes.spec.feature_service)
    contract.check_definitions(bikes.contract, applied)
    with pytest.raises(contract.ContractError, match=r"changed: dock:charge"):
        contract.check_definitions(bikes.contract, applied | {"dock:charge": "0" * 16})


def test_a_tampered_contract_is_refused(bikes: Bikes, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    shutil.copytree(bikes.settings.model_root / "turned_away" / str(bikes.contract.version), folder)
    contract.load(folder)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b" ")
    with pytest.raises(contract.ContractError, match=r"model\.onnx"):
        contract.load(folder)


def test_layouts_of_the_use_case_are_what_it_declares(bikes: Bikes) -> None:
    view = bikes.views["rides_by_station_and_class"]
    assert isinstance(view.layout, Layout)
    hops = {a.name: a.hop_us for a in view.layout.aggregations}
    assert hops == {"rides_30m": MINUTE, "mean_km_6h": 5 * MINUTE}


def test_only_a_use_case_knows_its_domain() -> None:
    words = ("flight", "airport", "carrier", "tailnum")
    for folder in ("infra", "streaming", "training", "serving", "headrace.py", "headrace"):
        paths = [ROOT / folder] if (ROOT / folder).is_file() else sorted((ROOT / folder).rglob("*.py"))
        for path in paths:
            found = [w for w in words if w in path.read_text().lower()]
            assert not found, f"{path.name} knows {found}"
