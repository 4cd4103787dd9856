"""Nothing that is used here reports to its maker, or writes below the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import ROOT

pytestmark = pytest.mark.integration

SCORES = """
import numpy as np
from onnx import TensorProto, helper
from feature_repo.records.onnx_session import INPUT, OUTPUT, session
ends = [[helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1])] for name in (INPUT, OUTPUT)]
graph = helper.make_graph([helper.make_node("Identity", [INPUT], [OUTPUT])], "g", *ends)
made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
session(made.SerializeToString()).run([OUTPUT], {INPUT: np.zeros((1, 1))})
"""
TRACKS = """
import sys
from infra.settings import Settings
from training.registration import tracking
tracking.start(Settings(state=sys.argv[1]), "m")
"""


def run(code: str, home: Path, *argv: str) -> list[str]:
    """Run code with an empty home folder, as a person would: outside of any test and of CI. What lies in the home folder then."""
    home.mkdir()
    switches = ("CI", "PYTEST", "ORT_", "MLFLOW_", "DO_NOT_TRACK", "FEAST_", "RAY_", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(switches)}
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=ROOT, env=environment | {"HOME": str(home)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_who_scores_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    assert run(SCORES, tmp_path / "home") == []


def test_the_same_without_our_switch_does_leave_something(tmp_path: Path) -> None:
    """Else the test above could not fail; where this one fails, the library no longer reports, and both may go."""
    asks = SCORES.replace("import numpy as np", "import os, infra; del os.environ['ORT_DISABLE_TELEMETRY']\nimport numpy as np", 1)
    assert any("onnxruntime" in name for name in run(asks, tmp_path / "home"))


def test_who_tracks_a_training_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    assert run(TRACKS, tmp_path / "home", str(tmp_path / "state")) == []
