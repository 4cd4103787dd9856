"""A version made again is the same to the byte; and what changed meanwhile is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feature_repo.records import contract
from feature_repo.records.contract import ContractError
from streaming.versions import data_version, table_version
from tests.bikes.platform import Bikes
from tests.training.data.test_manifest import add
from training.registration.reproduce import make_again


@pytest.fixture
def own(bikes: Bikes, tmp_path: Path) -> Any:
    """The second use case's tables and training sets, copied, so that rows can be slipped in."""
    shutil.copytree(bikes.settings.offline_root, tmp_path / "offline")
    shutil.copytree(bikes.settings.state / "training_sets", tmp_path / "training_sets")
    config = bikes.case.store.config.offline_store
    before, config.root = config.root, str(tmp_path / "offline")
    yield bikes.settings.model_copy(update={"state": tmp_path})
    config.root = before


def test_the_same_data_and_spec_make_the_same_version(bikes: Bikes, own: Any) -> None:
    import datetime as dt

    said: list[str] = []
    found = make_again(lambda: bikes.spark, bikes.case, own, bikes.contract, said.append)
    assert found.same
    assert set(found.hashes) == {"training set", "lightgbm.txt", "model.onnx"}
    assert not found.environment
    assert said[0].startswith("joining")

    began = dt.datetime(2021, 3, 5, 10, 0, tzinfo=dt.UTC)
    add(own.offline_root / "rides", "2021-03-05", {"began": began, "reported": began, "kilometres": 1e6})
    (own.state / "training_sets" / "turned_away" / str(bikes.contract.training_set["path"])).unlink()
    old = make_again(lambda: bikes.spark, bikes.case, own, bikes.contract, said.append)
    assert old.same, "the version of the tables that it was made of is still there"
    assert (old.data_version, old.restored, found.restored) == (1, True, False)

    newest = data_version.recorded(own.offline_root)
    other = make_again(lambda: bikes.spark, bikes.case, own, bikes.contract, said.append, newest)
    assert not other.same
    assert other.data_version == 2
    assert [line.split(":")[0] for line in other.changed] == ["rides 2021-03-05"]
    assert len(list((own.state / "training_sets" / "turned_away").glob("*.parquet"))) == 1, "what was made to be compared is gone"

    (own.offline_root / "rides" / table_version.manifest_name(1)).unlink()
    gone = make_again(lambda: bikes.spark, bikes.case, own, bikes.contract, said.append)
    assert (gone.same, gone.data_version) == (False, 0)


def test_what_cannot_be_made_again_is_said(bikes: Bikes, own: Any) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(ContractError) as error:
            make_again(lambda: bikes.spark, bikes.case, own, msgspec.structs.replace(bikes.contract, **changes), lambda _: None)
        return str(error.value)

    assert "train it again" in refused(spec={})
    feature = next(iter(bikes.contract.definitions))
    assert feature in refused(definitions={**bikes.contract.definitions, feature: "another"})
    elsewhere = msgspec.structs.replace(bikes.contract, code={**bikes.contract.code, "lightgbm": "0.1"})
    found = make_again(lambda: bikes.spark, bikes.case, own, elsewhere, lambda _: None)
    assert found.same
    assert found.environment["lightgbm"][0] == "0.1"
    assert contract.MODEL in found.hashes
