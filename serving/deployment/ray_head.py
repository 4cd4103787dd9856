"""Ray's head: a process of its own that holds a one-node Ray, so that the application outlives the process that deployed it.

The driver (`serving.deployment.app`) starts it, or finds the one that a killed driver left, with all that runs in it. `python -m serving.deployment.ray_head` is it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import psutil

from infra import files
from infra.settings import ROOT, Settings
from infra.supervision.launch import MARK
from infra.supervision.process import environment as services_environment

OBJECT_STORE_BYTES = 100 * 1024 * 1024
START_S = 300.0
log = logging.getLogger(__name__)


class HeadError(RuntimeError):
    """Ray did not start; the message is one line."""


class Head(msgspec.Struct, frozen=True):
    """
    Attributes:
        pid: of the process that holds Ray.
        created: when that began, seconds since the epoch.
        address: that a driver connects to.
        made_of: a hash of all settings it runs with.
    """

    pid: int
    created: float
    address: str
    made_of: str

    def lives(self) -> bool:
        with suppress(psutil.Error, ValueError, OverflowError):  # as well as of a number that is no process's
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
        return False

    def wait(self, seconds: float) -> bool:
        """Wait for its death, at most so long; whether it lives."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                return not select.select([handle], [], [], seconds)[0]
            finally:
                os.close(handle)
        return False


def _path(settings: Settings) -> Path:
    return settings.run_dir / "ray-head"


def find(settings: Settings, made_of: str) -> Head | None:
    """The head that a run before has left, where it lives and runs with the same settings."""
    with suppress(OSError, files.FileError):
        head = files.read_json(_path(settings), Head)
        if head.made_of == made_of and head.lives():
            return head
    return None


def made_of(environment: dict[str, str]) -> str:
    """A hash of what a head runs with: this environment and the interpreter."""
    return hashlib.sha256(msgspec.json.encode([sys.executable, sorted(environment.items())])).hexdigest()


def start(settings: Settings, folder: Path, cpus: int, made_of: str, stopping: Event) -> Head:
    """Start a head in a session of its own: neither Ctrl-C nor the driver's death reaches it.

    Args:
        folder: Ray's files go below it.
        cpus: that its actors may share.
        stopping: set where nobody waits any more.

    Raises:
        HeadError: it ended, or was not up within `START_S` seconds; says why.
    """
    path, told = _path(settings), folder / "head.log"
    path.unlink(missing_ok=True)
    with open(told, "wb") as out:
        argv = [sys.executable, "-m", "serving.deployment.ray_head", str(folder / "r"), str(cpus), made_of]
        # without the service's mark: what carries it is ended before a dead service is started again
        environment = {name: value for name, value in services_environment().items() if name != MARK}
        process = subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + START_S
    while not path.is_file():
        if process.poll() is not None:
            raise HeadError(f"Ray did not start: {_last_line(told)}")
        if time.monotonic() > deadline or stopping.wait(0.05):
            process.terminate()
            raise HeadError(f"Ray was not up within {START_S:.0f} s; see {told}")
    try:
        return files.read_json(path, Head)
    except files.FileError as error:
        process.terminate()
        raise HeadError(str(error)) from None


def stop(settings: Settings) -> None:
    """End the head, and with it all that runs in Ray."""
    with suppress(OSError, files.FileError):
        head = files.read_json(_path(settings), Head)
        if head.lives():
            os.kill(head.pid, signal.SIGTERM)
            with suppress(psutil.Error):
                psutil.Process(head.pid).wait(20)
    _path(settings).unlink(missing_ok=True)


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-1].split()) if lines else "it said nothing"


def main() -> None:
    """Hold a Ray until SIGTERM."""
    from infra.settings import load_settings

    folder, cpus, made = sys.argv[1:4]
    own, stopping = load_settings(), Event()
    import ray

    context: Any = ray.init(
        address="local",
        num_cpus=int(cpus),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address=own.host,
        _temp_dir=folder,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    me = psutil.Process()
    files.replace(_path(own), msgspec.json.encode(Head(me.pid, me.create_time(), context.address_info["gcs_address"], made)))
    stopping.wait()
    ray.shutdown()


if __name__ == "__main__":
    from infra import private

    os.umask(private.UMASK)
    main()
