"""The commands as a person meets them: help, typos, wrong arguments, wrong folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import ROOT


def headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "headrace.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_help_lists_every_command() -> None:
    said = headrace("--help").stdout
    for command in [
        "demo",
        "doctor",
        "ingest",
        "plan",
        "apply",
        "backfill",
        "check",
        "train",
        "promote",
        "rollback",
        "canary",
        "shadow",
        "why",
        "up",
        "down",
        "status",
        "stream",
        "rejected",
        "serve",
        "watch",
        "replay",
        "replay-prediction",
        "score",
        "skew",
        "test",
        "bench",
        "version",
    ]:
        assert f" {command} " in said


@pytest.mark.parametrize("command", ["demo", "backfill", "plan", "apply", "check", "train", "replay", "rejected", "skew", "watch", "bench"])
def test_each_command_explains_itself(command: str) -> None:
    done = headrace(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_a_typo_gets_a_suggestion() -> None:
    done = headrace("ingst")
    assert done.returncode == 2
    assert "did you mean 'ingest'" in done.stderr


def test_a_folder_that_is_no_use_case_is_one_sentence(tmp_path: Path) -> None:
    done = headrace("--repo", str(tmp_path), "--state", str(tmp_path / "s"), "train")
    assert done.returncode == 1
    assert "feature_store.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_model_lists_those_there_are(tmp_path: Path) -> None:
    done = headrace("--state", str(tmp_path), "train", "nonsense")
    assert done.returncode == 1
    assert "no model 'nonsense'" in done.stderr


def test_a_wrong_date_is_named(tmp_path: Path) -> None:
    done = headrace("--state", str(tmp_path), "replay", "--from", "yesterday")
    assert done.returncode == 2
    assert "yesterday" in done.stderr


def test_the_launcher_is_valid_shell() -> None:
    for script in ("headrace", ".ci/run"):
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0
