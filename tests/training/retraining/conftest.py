"""A world of its own for every test of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bikes.platform import Bikes
from tests.training.retraining.world import World


@pytest.fixture
def world(bikes: Bikes, tmp_path: Path) -> Iterator[World]:
    made = World(bikes, tmp_path)
    yield made
    made.close()
