"""The processes that a run of Ray has started: noted down, so that whoever comes after a run that was killed can end what it left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

from infra import files, private
from infra.settings import Settings

_NAMES = ("raylet", "gcs_server", "haproxy", "python", "ray")


def scratch(settings: Settings) -> Path:
    """Where Ray and HAProxy keep sockets and session files.

    Unix socket paths end at 107 bytes, a checkout's own path may be longer: so a short folder of its own, named by the state's hash.
    """
    digest = hashlib.sha256(str(settings.state).encode()).hexdigest()[:10]
    return Path("/tmp") / f"headrace-{digest}"


def sweep(settings: Settings) -> None:
    """Remove the scratch folder of a checkout of which nothing runs any more."""
    with contextlib.suppress(OSError, private.NotOursError):
        folder = scratch(settings)
        if folder.exists():
            shutil.rmtree(private.folder(folder), ignore_errors=True)


def _path(settings: Settings) -> Path:
    return settings.run_dir / "serve.children"


def note(settings: Settings, started: set[psutil.Process], head: int | None) -> None:
    """Add the descendants of this process and of Ray's head to `started`, and to the file."""
    now = set(psutil.Process().children(recursive=True))
    if head is not None:
        with contextlib.suppress(psutil.Error):
            whole = psutil.Process(head)
            now |= {whole, *whole.children(recursive=True)}
    if now - started:
        started |= now
        with contextlib.suppress(OSError):  # a full disk ends nobody; what names the scratch folder is found without the file
            _path(settings).write_bytes(msgspec.json.encode([(p.pid, p.create_time()) for p in started if p.is_running()]))


def noted(settings: Settings) -> set[psutil.Process]:
    """Of the processes that the file names, those that still run; none where it cannot be read."""
    found = set()
    with contextlib.suppress(OSError, files.FileError):
        for pid, created in files.read_json(_path(settings), list[tuple[int, float]]):
            with contextlib.suppress(psutil.Error, ValueError, OverflowError):  # a number that is no process's
                if abs((process := psutil.Process(pid)).create_time() - created) < 0.01:
                    found.add(process)
    return found


def left(settings: Settings, folder: Path) -> set[psutil.Process]:
    """What a killed run of this checkout left: the processes it noted down, and those whose command line names its scratch folder."""
    found = noted(settings)
    mark = f"{folder}/"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.name().startswith(_NAMES) and process.pid != os.getpid()
            if ours and any(mark in part for part in process.cmdline()):
                found.add(process)
    return found


def end(settings: Settings, processes: Iterable[psutil.Process]) -> None:
    """End exactly these: TERM, and KILL after five seconds. Nothing is noted down any more."""
    for process in (alive := [p for p in processes if p.is_running()]):
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(alive, timeout=5)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)
    with contextlib.suppress(OSError):
        _path(settings).unlink()


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
