"""Trainings in their own process, really killed: no version is half there, none is made twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from feature_repo.records import contract, release
from infra.settings import Settings
from tests.bikes.platform import Bikes
from training.data.column_moments import micros
from training.retraining.autopilot import TrainingStopped
from training.retraining.trainer_process import Trainer
from training.retraining.triggers import Reason

AT_US = 1_615_680_000_000_000  # 2021-03-14
REASON = Reason("request", "the test", AT_US)
DAY_US = 86_400_000_000
LEFT_OUT = [(AT_US - 6 * DAY_US, AT_US - 5 * DAY_US), (AT_US - 900 * DAY_US, AT_US - 899 * DAY_US)]
"""One in the data of the training, one long before them."""
LEARNING = """
learning:
  retraining: {valid_days: 2, test_days: 2}
  challenge: {metric: brier, margin: 1, slice_margin: 1, skew_rows: 0}
"""


@pytest.fixture
def own(bikes: Bikes, tmp_path: Path) -> Settings:
    """A state folder of its own with the second use case's data and its live version."""
    shutil.copytree(bikes.settings.offline_root, tmp_path / "state" / "offline")
    shutil.copy(bikes.settings.state / "registry.db", tmp_path / "state" / "registry.db")
    folder = tmp_path / "state" / "models" / "turned_away" / "1"
    shutil.copytree(bikes.settings.model_root / "turned_away" / str(bikes.contract.version), folder)
    release.promote(tmp_path / "state" / "models", "turned_away", 1)
    shutil.copytree(bikes.case.folder, tmp_path / "repo")
    spec = tmp_path / "repo" / "models" / "turned_away.yaml"
    spec.write_text(spec.read_text() + LEARNING)
    return bikes.settings.model_copy(update={"state": tmp_path / "state", "repo": tmp_path / "repo"})


def versions(own: Settings) -> list[int]:
    root = own.model_root / "turned_away"
    found = sorted(int(p.name) for p in root.iterdir() if p.name.isdigit())
    for version in found:
        contract.load(root / str(version))  # whole, or not there
    return found


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while it was looked at, or nobody has waited for it yet
            if "retrain" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_killed_training_leaves_nothing_and_the_next_one_makes_the_version_once(own: Settings) -> None:
    stop = threading.Event()
    trainer = Trainer(own, "turned_away", stop)
    threading.Timer(4, stop.set).start()
    with pytest.raises(TrainingStopped):
        trainer(REASON, AT_US, LEFT_OUT)
    assert not children()
    assert versions(own) == [1]

    stop.clear()
    killed = threading.Timer(6, lambda: [os.killpg(p.pid, signal.SIGKILL) for p in children()[:1]])
    killed.start()
    trainer(REASON, AT_US, LEFT_OUT)  # whether the kill came before or after the version was there
    killed.join()
    gates = trainer(REASON, AT_US, LEFT_OUT)
    assert gates is not None, trainer.log.read_text()[-2000:]
    assert gates.passed, gates
    assert {c.name for c in gates.checks} >= {"export", "latency", "size", "champion", "slices", "skew", "log"}
    assert versions(own) == [1, 2]
    made = contract.load(own.model_root / "turned_away" / "2")
    assert made.provenance["trigger"] == REASON.id
    assert made.split["test"] == ["2021-03-12", "2021-03-14"]
    said = made.training_set
    assert said["left_out"] == [list(LEFT_OUT[0])], "what no split touches is not worth a word"
    assert said["left_out_rows"] > 0
    assert made.provenance["left_out"] == f"{said['left_out_rows']:,} examples of 2021-03-08 00:00 to 2021-03-09 00:00"
    rows = pq.read_table(own.state / "training_sets" / "turned_away" / said["path"])
    assert not [at for at in micros(rows, made.spec["spine"]["timestamp"]).tolist() if LEFT_OUT[0][0] <= at <= LEFT_OUT[0][1]]
    began = time.monotonic()
    assert trainer(REASON, AT_US, LEFT_OUT) == gates, "asked again, what the gates found stands: a measured latency is not drawn twice"
    assert versions(own) == [1, 2], "asked again, it is the same version"
    assert time.monotonic() - began < 60
