"""CI templates and schedulers: they parse, every command of ours in them exists, and both schedulers run their chain once."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.infra.deployment.artefacts import DEPLOYMENT, names, refusal, settings
from tests.infra.deployment.schemas import GITHUB, GITLAB

ORDER = ["ingest", "backfill", "quality", "archive", "train", "skew", "sweep"]
NEEDS = {
    "airflow_dag.py": ["apache-airflow-core==3.3.2", "apache-airflow-providers-standard"],
    "dagster_definitions.py": ["dagster==1.13.*"],
}
RUN = {
    "airflow_dag.py": "import airflow_dag as it\n"
    "it.hourly.validate(); it.nightly.validate()\n"
    "for dag in (it.hourly, it.nightly):\n"
    "    for task in dag.topological_sort():\n"
    "        task.execute({})",
    "dagster_definitions.py": "import dagster_definitions as it\n"
    "assert len(it.definitions.resolve_all_job_defs()) >= 2\n"
    "assert it.hourly.execute_in_process().success and it.nightly.execute_in_process().success",
}


def read(name: str) -> dict[Any, Any]:
    said: dict[Any, Any] = yaml.safe_load((DEPLOYMENT / "ci" / name).read_text())
    return said


def lines(name: str) -> Iterator[str]:
    said = read(name)
    jobs = said.get("jobs", said)
    for job in jobs.values():
        if isinstance(job, dict):
            yield from job.get("script", [])
            yield from (step["run"] for step in job.get("steps", []) if "run" in step)


@pytest.mark.parametrize("name", ["github.yaml", "gitlab.yaml"])
def test_a_template_is_one_by_its_schema_and_says_only_what_we_understand(name: str) -> None:
    said = read(name)
    jsonschema.validate({("on" if key is True else key): value for key, value in said.items()}, GITHUB if "github" in name else GITLAB)
    found = []
    for line in lines(name):
        for call in re.findall(r"\./headrace ([^|;\n]*)", line):
            arguments = ["1" if word == "$VERSION" else word.removeprefix("$") for word in shlex.split(call)]
            assert refusal(arguments) == "", line
            found.append(arguments[0])
    assert set(found) == {"lint", "test", "plan", "check", "apply", "promote"}
    assert found.index("plan") < found.index("apply") < found.index("promote")
    assert names((DEPLOYMENT / "ci" / name).read_text()) <= settings()
    for job in ("plan", "apply"):
        assert any("check --leakage" in line for line in _scripts(said, job)), job


def _scripts(said: dict[Any, Any], job: str) -> list[str]:
    one = said["jobs"][job] if "jobs" in said else said[job]
    return one.get("script") or [step.get("run", "") for step in one["steps"]]


def test_what_a_stranger_writes_never_becomes_a_command() -> None:
    """GitHub puts `${{ … }}` into a script as text: none stands in one."""
    assert [line for line in lines("github.yaml") if "${{" in line] == []


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_scheduler_runs_every_command_once_in_its_order(name: str, tmp_path: Path) -> None:
    """In an environment of its own, kept below the user's cache; the commands are noted down by a program in our place."""
    python = environment(name.partition("_")[0], NEEDS[name])
    noting = tmp_path / "noting"
    noting.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\n')
    noting.chmod(0o755)
    own = {"HEADRACE": str(noting), "AIRFLOW_HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path), "HOME": str(tmp_path)}
    own |= {"PYTHONPATH": str(DEPLOYMENT / "schedulers"), "PATH": os.environ["PATH"], "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run([str(python), "-c", RUN[name]], env=own, capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert [one[0] for one in asked] == ORDER
    for arguments in asked:
        assert refusal(arguments) == "", arguments


def environment(name: str, packages: list[str]) -> Path:
    """The Python of an environment with these packages; skips where they cannot be fetched."""
    import fcntl

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headrace"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    with open(cache / f"{name}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        marker, wanted = folder / ".headrace", " ".join(packages)
        if not marker.is_file() or marker.read_text() != wanted:
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
            done = subprocess.run(
                [*uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), *packages],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"{name} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
            marker.write_text(wanted)
    return folder / "bin" / "python"
