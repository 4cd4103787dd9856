"""Applications that the tests of serving share: the made-up shop's, and the bikes'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from feature_repo.records import release
from infra.settings import Settings
from tests.serving.house import House
from tests.serving.shop import loader, write_key, write_version


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "repo").mkdir()
    (folder / "repo" / "feature_store.yaml").write_text("project: shop_of_doors\n")
    settings = Settings(repo=folder / "repo", state=folder / "state", redis_url=redis_url, log_retention=1000)
    write_key(settings.state)
    write_version(settings.model_root, 1)
    release.promote(settings.model_root, "sells_out", 1)
    house = House(settings, loader())
    yield house
    house.close()


@pytest.fixture(scope="package")
def bikes_house(bikes: Any) -> Iterator[House]:
    house = House(bikes.settings)
    yield house
    house.close()
