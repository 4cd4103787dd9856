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
def test_the_demo_runs_another_use_case_and_leaves_nothing_running(tmp_path: Path) -> None:
    generate(tmp_path / "repo")
    with tempfile.TemporaryDirectory(prefix="hr-") as state:
        report = tmp_path / "report.json"
        command = ["--repo", str(tmp_path / "repo"), "--state", state, "demo", "--days", "1", "--step", "30", "--report", str(report)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | {"HEADRACE_DETECTOR": "scipy"}
        done = subprocess.run(
            [sys.executable, str(ROOT / "headrace.py"), *command], capture_output=True, text=True, timeout=540, check=False, env=environment
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
