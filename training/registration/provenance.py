"""Which code made a model: the commit it came from, the packages that fit and export, the machine's kind of arithmetic."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from infra.settings import ROOT

PACKAGES = ("lightgbm", "numpy", "onnx", "onnxruntime", "pyarrow", "pyspark", "feast", "scikit-learn", "pandera", "optuna", "fairlearn")
FITTING = ("lightgbm", "numpy", "onnx", "machine")
"""What the bytes of a fitted model may depend on, besides its training set and spec."""


def commit(folder: Path) -> str:
    """The commit that a folder is a checkout of, with `+changes` where tracked files differ from it; empty where it is none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        found = git("rev-parse", "HEAD")
        return found + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def code(repo: Path) -> dict[str, str]:
    """Commit of Headrace and of the use case (each only where there is one), Python, architecture, packages."""
    found = {"commit": commit(ROOT), "use_case_commit": commit(repo)}
    if found["use_case_commit"] == found["commit"]:
        del found["use_case_commit"]
    found |= {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {name: value for name, value in found.items() if value}
