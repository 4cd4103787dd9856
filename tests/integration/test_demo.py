"""The demo itself, by its command, on the second use case: every service real, from raw files to the proof."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from infra.settings import ROOT
from tests.bikes.generate import generate


@pytest.mark.integration
@pytest.mark.journey
def test_the_demo_runs_another_use_case_and_leaves_nothing_running(tmp_path: Path) -> None:
    generate(tmp_path / "repo")
    with tempfile.TemporaryDirectory(prefix="hr-") as state:
        report = tmp_path / "report.json"
        command = ["--repo", str(tmp_path / "repo"), "--state", state, "demo", "--days", "1", "--step", "30", "--report", str(report)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | {"HEADRACE_DETECTOR": "scipy"}
        done = subprocess.run(
            [sys.executable, str(ROOT / "headrace.py"), *command],
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        said = json.loads(report.read_text())
        assert said["ok"]
        assert said["skew"]["wrong"] == 0
        assert said["skew"]["predictions"] == said["predictions"] > 200
        assert said["labels"] > 100
        assert said["drift"]
        assert "<svg" in (Path(state) / "report.html").read_text()
        left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if any(state in word for word in p.info["cmdline"] or [])]
        assert not left


LEARNING = """
learning:
  triggers: {schedule_days: 1, cooldown_days: 0}
  retraining: {valid_days: 2, test_days: 2}
  challenge: {metric: brier, margin: 1, slice_margin: 1}
  stages:
    shadow: {samples: 40, labelled: 20, hours: 1}
    canary: {samples: 20, labelled: 10, hours: 1}
    share: 0.5
    probation: {samples: 40, labelled: 20, hours: 1}
"""


@pytest.mark.integration
@pytest.mark.journey
def test_another_use_case_lives_on_autopilot_and_every_number_is_right(tmp_path: Path) -> None:
    """Trained, shadowed, canaried and promoted by itself over HTTP; what was answered meanwhile is what the offline store says."""
    generate(tmp_path / "repo")
    spec = tmp_path / "repo" / "models" / "turned_away.yaml"
    spec.write_text(spec.read_text() + LEARNING)
    with tempfile.TemporaryDirectory(prefix="hr-") as state:
        report = tmp_path / "year.json"
        span = ["--from", "2021-03-11", "--to", "2021-03-15", "--step", "60"]
        command = ["--repo", str(tmp_path / "repo"), "--state", state, "demo", "--year", *span, "--report", str(report)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | {"HEADRACE_DETECTOR": "scipy"}
        begin = [sys.executable, str(ROOT / "headrace.py")]
        done = subprocess.run([*begin, *command], capture_output=True, text=True, timeout=1800, check=False, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        said = json.loads(report.read_text())
        assert said["failed"] == said["wrong"] == 0
        assert said["cells"] > 1000
        assert said["versions"] >= 2
        steps = [e["step"] for e in said["journal"] if e["step"] != "waits"]  # on a busy machine it waits for 300 latencies, and says so
        assert steps[:5] == ["triggered", "trained", "shadow", "canary", "promoted"], said["journal"]
        assert {p["name"] for p in said["policies"]} == {"never", "monthly", "on drift", "on drift, never held", "on quality", "refit"}
        assert (Path(state) / "year.html").read_text().count("<svg") == 3
        chain = [*begin, "--repo", str(tmp_path / "repo"), "--state", state, "why", "turned_away"]
        why = subprocess.run(chain, capture_output=True, text=True, timeout=120, check=False, env=environment | {"COLUMNS": "200"})
        assert why.returncode == 0, why.stderr
        for word in ("triggered", "shadow", "canary", "promoted", "skew", "export", "training set"):
            assert word in why.stdout
        assert not [p for p in psutil.process_iter(["cmdline"]) if any(state in word for word in p.info["cmdline"] or [])]
