"""The commands as a person meets them: help, typos, wrong arguments, wrong folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import ROOT

pytestmark = pytest.mark.integration


def _own() -> dict[str, str]:
    """The environment without settings but the state folder: other tests of this run have set some for theirs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_") or name == "HEADRACE_STATE"}


def headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "headrace.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**_own(), "COLUMNS": "200", **environment},
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


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["skew"], "no version of arrival_delay is live: run `headrace train`"),
        (["score", "--input", "x.parquet", "--output", "y"], "no version of arrival_delay is live: run `headrace train`"),
        (["why"], "no version of arrival_delay is live: run `headrace train`"),
        (["alarm"], "no version of arrival_delay is live, so nothing is watched: `headrace train` makes the first one live"),
        (["sources"], "no table that a feature view reads is in the offline store yet: run `headrace ingest`"),
        (["promote", "arrival_delay", "3"], "no version of 'arrival_delay' is registered yet: run `headrace train`"),
        (["rollback", "arrival_delay"], "no version of 'arrival_delay' is registered yet: run `headrace train`"),
        (["reproduce", "arrival_delay", "1"], "no version of 'arrival_delay' is registered yet: run `headrace train`"),
        (["train"], "feature service 'arrival_delay' is not applied in project 'flights': run `headrace apply`"),
    ],
)
def test_where_nothing_was_made_yet_a_command_says_what_to_run(tmp_path: Path, command: list[str], said: str) -> None:
    done = headrace("--state", str(tmp_path), *command)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("command", [["policies"], ["demo", "--year"]])
def test_days_that_end_before_they_begin_are_refused(tmp_path: Path, command: list[str]) -> None:
    done = headrace("--state", str(tmp_path), *command, "--from", "2013-06-01", "--to", "2013-06-01")
    assert done.returncode == 2
    assert "has to lie after --from" in done.stderr


def test_a_look_at_the_sources_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "offline").mkdir()
    done = headrace("--state", str(tmp_path), "sources")
    assert done.returncode == 1
    assert "run `headrace ingest`" in done.stderr
    assert headrace("--state", str(tmp_path), "down").stdout.strip() == "nothing was running"


@pytest.mark.integration
def test_where_nothing_is_applied_yet_nothing_is_started_for_it(tmp_path: Path) -> None:
    try:
        done = headrace("--state", str(tmp_path), "up")
        assert done.returncode == 0, done.stderr
        assert "no model is live yet: `headrace ingest`" in done.stdout
        assert "stream" not in done.stdout.split("no model is live")[0]
        done = headrace("--state", str(tmp_path), "backfill", "--dry-run")
        assert done.returncode == 1
        assert "no feature view is applied: run `headrace apply` first" in done.stderr
        assert "there is nothing to sweep" in headrace("--state", str(tmp_path), "sweep").stdout
    finally:
        assert "redis" in headrace("--state", str(tmp_path), "down").stdout


def test_the_launcher_is_valid_shell() -> None:
    for script in ("headrace", ".ci/run"):
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0
