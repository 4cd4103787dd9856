"""Every gate, as a member of its kind: what all of them promise, run over each that is in the table."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pytest

from feature_repo.records import release
from infra.settings import Settings
from tests.training.examples import spec
from tests.training.gates.test_challenge import CASE, archived, no_spark, registered
from training.data.training_set import TrainingSet
from training.gates.base import Challenge, Gate, of_version
from training.gates.table import GATES

SAID = spec(learning={"challenge": {"margin": 1, "slice_margin": 1}})
each = pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)


def asked(challenge: Challenge, **bounds: Any) -> Challenge:
    """The same challenge under other bounds."""
    learning = challenge.spec.learning
    changed = learning.model_copy(update={"challenge": learning.challenge.model_copy(update=bounds)})
    return replace(challenge, spec=challenge.spec.model_copy(update={"learning": changed}))


def broken_bound(challenge: Challenge) -> Challenge:
    bound = {"metric": "auc", "on": "test", "measured": 0.5, "passed": False}
    return replace(challenge, made=msgspec.structs.replace(challenge.made, gates=[bound]))


def broken_export(challenge: Challenge) -> Challenge:
    assert challenge.challenger  # verified as it was registered
    own = challenge.folder / "lightgbm.txt"
    own.write_text(lightgbm.Booster(model_file=str(own)).model_to_string(num_iteration=1))
    return challenge


def broken_champion(challenge: Challenge) -> Challenge:
    (challenge.settings.model_root / challenge.spec.name / str(challenge.champion) / "contract.json").write_text("{}")
    return challenge


def odd_slice(challenge: Challenge) -> Challenge:
    return replace(challenge, spec=challenge.spec.model_copy(update={"slices": ["nowhere"]}))


def odd_score(challenge: Challenge) -> Challenge:
    archived(challenge.settings, challenge.made.version, 3)
    challenge.__dict__["challenger"] = _Odd()
    return challenge


class _Odd:
    """A version whose scores are no probabilities."""

    def score(self, table: Any) -> np.ndarray:
        return np.full(table.num_rows, np.nan)


FAILS: dict[str, Callable[[Challenge], Challenge]] = {
    "registered": broken_bound,
    "export": broken_export,
    "latency": lambda challenge: asked(challenge, p99_us=1e-9),
    "size": lambda challenge: asked(challenge, megabytes=1e-9),
    "champion": broken_champion,
    "slices": odd_slice,
    "skew": lambda challenge: challenge,  # nothing that was served is archived
    "log": odd_score,
}
"""For each gate a challenge that it must stop: a gate that stops none is no gate."""


@pytest.fixture(scope="module")
def registered_twice(made: TrainingSet, tracked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A state folder with a live version and another one, and that one's number: trained once for all tests."""
    own = Settings(state=tmp_path_factory.mktemp("twice"))
    shutil.copy(tracked, own.state)
    release.promote(own.model_root, "model", registered(made, own, SAID))
    return own.state, registered(made, own, SAID)


@pytest.fixture
def challenge(registered_twice: tuple[Path, int], tmp_path: Path) -> Challenge:
    """A version against another one, which is live; in a folder that the test may damage."""
    state, version = registered_twice
    own = Settings(state=Path(shutil.copytree(state, tmp_path / "own")))
    return of_version(no_spark, CASE, own, SAID, version)


@each
def test_a_gate_is_one_class_in_one_file(gate: Gate) -> None:
    module = sys.modules[type(gate).__module__]
    own = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Gate) and one is not Gate]
    assert own == [type(gate)]
    assert module.__name__.rpartition(".")[2] == gate.name


def test_no_two_gates_have_a_name_in_common() -> None:
    assert len({gate.name for gate in GATES}) == len(GATES)


@each
def test_there_is_a_challenge_that_it_stops_and_it_says_why(gate: Gate, challenge: Challenge) -> None:
    found = gate.look(FAILS[gate.name](challenge))
    assert found
    assert not any(checked.passed for checked in found)
    assert all(checked.text for checked in found)


@each
def test_it_looks_without_changing_anything_and_finds_the_same_twice(gate: Gate, challenge: Challenge) -> None:
    before = sorted((path, path.read_bytes()) for path in challenge.settings.model_root.rglob("*") if path.is_file())
    first, second = gate.look(challenge), gate.look(challenge)
    assert [(one.name, one.passed) for one in first] == [(one.name, one.passed) for one in second]
    assert sorted((path, path.read_bytes()) for path in challenge.settings.model_root.rglob("*") if path.is_file()) == before


@each
def test_where_nothing_is_live_it_holds_nobody_back(gate: Gate, challenge: Challenge) -> None:
    shutil.rmtree(challenge.settings.model_root / "model" / "1")
    assert all(checked.passed for checked in gate.look(replace(challenge, champion=None)))
