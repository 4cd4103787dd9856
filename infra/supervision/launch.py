"""What the supervisor starts in a service's place: it clears up after the last run, notes down who runs now, and becomes the service.

`python -m infra.supervision.launch RUN_FOLDER NAME` reads `<run folder>/supervisor/<name>.service` (arguments, environment, working folder). Only the
standard library and psutil are imported: a Redis that was killed is back within a second or two.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra import files
from infra.supervision import outlet

MARK = "HEADRACE_SERVICE"
"""Environment variable that every process of a service inherits, `<state folder>:<name>`: what is left of a dead service is found by it."""
SELF = "HEADRACE_SERVICE_PID"
"""Environment variable that they inherit as well: the process id of the service itself."""


@dataclass(frozen=True)
class Record:
    """Who runs as a service, as its file says.

    Attributes:
        created: start time of the process, seconds since the epoch.
        session: the session it belongs to.
        starts: how often the supervisor has started it since someone asked for the service.
        why: why the run before was ended by the supervisor; empty: it was not.
    """

    pid: int
    created: float
    argv: list[str]
    session: int
    starts: int
    why: str = ""

    @property
    def lives(self) -> bool:
        """Whether that very process still runs; a pid that was given to another process is not it."""
        try:
            process = psutil.Process(self.pid)
            # the kernel reckons start times from a boot time that it may correct by a second; so 2 s, and the same session
            same = abs(process.create_time() - self.created) < 2.0 and os.getsid(self.pid) == self.session
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except (ProcessLookupError, psutil.Error, OverflowError, ValueError):  # as well as of a number that is no pid
            return False


def read_record(path: Path) -> Record | None:
    """None where there is none that can be read."""
    try:
        said: dict[str, Any] = json.loads(files.read(path))
        pid = int(said["pid"])  # a record of a version before had no supervisor: each service led its own session
        return Record(
            pid,
            float(said["created"]),
            list(said["argv"]),
            int(said.get("session", pid)),
            int(said.get("starts", 1)),
            str(said.get("why", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a file as a whole; only its owner can read it (an environment may hold passwords)."""
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}.broken-{time.time_ns()}"))
    files.replace(path, json.dumps(content).encode(), 0o600)


def marked(mark: str) -> set[psutil.Process]:
    """The processes that carry a service's mark, but for this one."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or just gone
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.add(process)
    return found


def families(state: str) -> dict[str, set[psutil.Process]]:
    """By service, the processes that carry the mark of a state folder, but for this one: whatever has become of the files about them."""
    found: dict[str, set[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            of, _, name = process.environ().get(MARK, "").rpartition(":")
            if of == state and name and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(name, set()).add(process)
    return found


def itself(family: set[psutil.Process]) -> psutil.Process | None:
    """The service itself among the processes that carry its mark; None where it has ended."""
    for process in family:
        with suppress(psutil.Error, OSError):
            if process.environ().get(SELF) == str(process.pid):
                return process
    return None


def watched_path(run_folder: Path, name: str) -> Path:
    """The service's watchdog (`infra.supervision.watchdog`)."""
    return run_folder / f"{name}.fed"


def asked_path(run_folder: Path, name: str) -> Path:
    """The port where the supervisor asks a service that has no watchdog of its own (`infra.supervision.redis_probe`)."""
    return run_folder / f"{name}.asked"


def hung_path(run_folder: Path, name: str) -> Path:
    """Where it is written that the supervisor has ended a service, and why."""
    return run_folder / f"{name}.hung"


def _why_ended(run: Path, name: str, before: Record | None) -> str:
    path = hung_path(run, name)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        said = json.loads(files.read(path))
        if before is not None and said["pid"] == before.pid:
            return str(said["why"])
    return ""


def end(processes: set[psutil.Process]) -> None:
    """SIGTERM, and after 3 s SIGKILL."""
    left = list(processes)
    for signal_all, wait_s in ((psutil.Process.terminate, 3.0), (psutil.Process.kill, 5.0)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                signal_all(process)
        _, left = psutil.wait_procs(left, timeout=wait_s)


def _stand_by(pid: int) -> None:
    """The service outlived a supervisor that was killed: hold its place until it ends. (Who stops it tells the service itself.)"""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])


def _wanted(path: Path) -> dict[str, Any]:
    """Arguments, environment and working folder of the service; where they cannot be read, that is said and it ends."""
    try:
        wanted: dict[str, Any] = json.loads(files.read(path))
        if not (isinstance(wanted["env"][MARK], str) and wanted["argv"] and isinstance(wanted["cwd"], str)):
            raise ValueError("it lacks arguments")
        return wanted
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        sys.exit(f"{path} cannot be read ({type(error).__name__}: {error}): `headrace down` and `headrace up` write it anew")


def main(run_folder: str, name: str) -> None:
    """Become the service."""
    run = Path(run_folder)
    wanted = _wanted(run / "supervisor" / f"{name}.service")
    path = run / f"{name}.json"
    before = read_record(path)
    if before is not None and before.lives:
        _stand_by(before.pid)
        return
    end(marked(wanted["env"][MARK]))  # a run that was killed may have left children with its ports
    starts = before.starts + 1 if before is not None else 1
    created = psutil.Process().create_time()
    said = {"pid": os.getpid(), "created": created, "argv": wanted["argv"], "session": os.getsid(0), "starts": starts}
    if why := _why_ended(run, name, before):
        print(f"started again: the run before was {why}", flush=True)
    for stale in (watched_path(run, name), hung_path(run, name)):
        stale.unlink(missing_ok=True)
    write(path, said | {"why": why})
    if log := wanted.get("log"):  # a service that was started by a version before has none
        with suppress(OSError):
            outlet.open_beside(os.getppid(), log["path"], log["bytes"], log["files"])
    os.chdir(wanted["cwd"])
    try:
        os.execvpe(wanted["argv"][0], wanted["argv"], {**wanted["env"], SELF: str(os.getpid())})
    except OSError as error:
        sys.exit(f"{wanted['argv'][0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
