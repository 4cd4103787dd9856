"""What the tests of training share: a training set, a tracking store that has its tables already, and a world of its own for each test of the
loop.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.bikes.platform import Bikes
from tests.training import examples
from tests.training.retraining.world import World
from training.data.training_set import TrainingSet


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return examples.make(tmp_path_factory.mktemp("set") / "set.parquet")


@pytest.fixture(scope="package")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store as the first training leaves it, without a run: MLflow takes a second for its tables."""
    from training.registration import tracking

    own = Settings(state=tmp_path_factory.mktemp("tracked"))
    tracking.client(own).search_experiments()
    return own.state / "mlflow.db"


@pytest.fixture
def own(tmp_path: Path, tracked: Path) -> Settings:
    shutil.copy(tracked, tmp_path)
    return Settings(state=tmp_path)


@pytest.fixture
def world(bikes: Bikes, tmp_path: Path) -> Iterator[World]:
    made = World(bikes, tmp_path)
    yield made
    made.close()
