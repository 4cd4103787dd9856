"""The supervisor of one checkout's services: supervisord, which starts again what ends, ever more slowly, and keeps their logs small.

It runs while there is a service, in a session of its own, and is spoken to through a socket that only this user can reach. Should it be
killed itself, the services go on; the next one that is started brings it back, and it takes over what still runs.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra import files, private
from infra.settings import ROOT, Settings
from infra.supervision.launch import MARK, Record, families, read_record, write
from infra.supervision.watchdog import HUNG_S

LOG_BYTES, LOG_FILES = 10_000_000, 3
"""A log is moved aside at this size; so many old ones are kept."""
START_S = 60.0
_TIMEOUT_S = 15.0
_SOCKET, _CONFIGURATION = "s", "supervisord.conf"
SUPERVISOR = "supervisor"
"""Its name among the services' marks."""
_DOWN = ("STOPPED", "EXITED", "FATAL")
_DEAF_S = 1.0
"""A process that was told to end before it had become itself, between supervisord's fork and exec, has not heard it: after so long it is killed."""

LONGEST_PAUSE_S = 30
"""The pause before the next try of a service that ends soon after each start: it grows by a second each time, up to this."""

_MAIN = "import sys; sys.path[0] = {root!r}; from infra.supervision.keeper import main; main({longest}, {hung})"

# paths are relative to the folder it runs in: whatever characters the checkout's path has, no file here has to quote them
_CONFIG = f"""\
[unix_http_server]
file=/proc/self/cwd/{_SOCKET}
chmod=0600
[supervisord]
nodaemon=true
silent=true
logfile=../../log/supervisor.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=supervisord.pid
minfds=256
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
_PROGRAM = """\
[program:{name}]
command={command}
directory={directory}
autorestart=true
startsecs={settles_s}
startretries=1000000
stopwaitsecs=3600
redirect_stderr=true
stdout_logfile=../../log/{name}.log
stdout_logfile_maxbytes={bytes}
stdout_logfile_backups={files}
"""


class SupervisorError(RuntimeError):
    """The supervisor does not start or does not answer; the message says what it said last."""


@dataclass(frozen=True)
class Kept:
    """A service the supervisor keeps.

    Attributes:
        state: supervisord's word: STARTING, RUNNING, BACKOFF (it ended soon after its start, and is started again after a pause), ...
        last_end: how it ended last, such as `exit status 1`; empty: it did not.
    """

    name: str
    state: str
    last_end: str


class _Connection(http.client.HTTPConnection):
    """To a Unix socket in a folder, however long its path: socket addresses end at 107 bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._folder = folder

    def connect(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{_SOCKET}")
        finally:
            os.close(folder)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._folder)


class Supervisor:
    """
    Args:
        settings: of the checkout; only its folders count.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.run_dir / "supervisor"

    @property
    def _record(self) -> Path:
        return self.folder / "supervisord.json"

    @property
    def record(self) -> Record | None:
        """The process, where it runs."""
        found = read_record(self._record)
        return found if found is not None and found.lives else None

    @property
    def killed(self) -> bool:
        """Whether it was started and ended otherwise than by `remove`."""
        return self._record.exists() and self.record is None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One change at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings.log_dir.mkdir(parents=True, exist_ok=True)
        with files.alone(self.folder / "lock"):
            yield

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """supervisord's own calls.

        Raises:
            SupervisorError: it does not answer.
        """
        try:
            with xmlrpc.client.ServerProxy("http://localhost", _Transport(self.folder)) as proxy:
                yield proxy.supervisor
        except xmlrpc.client.Fault:
            raise
        except (OSError, xmlrpc.client.Error, http.client.HTTPException) as error:
            raise SupervisorError(f"the supervisor of {self.settings.state} does not answer: {error}. {self._tail()}") from None

    def kept(self, name: str | None = None) -> list[Kept]:
        """The services it keeps, or one of them; none where it does not run.

        Raises:
            SupervisorError: it runs and does not answer.
        """
        try:
            found = self._all()
        except SupervisorError:
            with self.alone():  # whoever has ended it with its last service is done by now, and another may have started it again
                found = self._all()
        ends = self._ends()  # after the states: an end is written down before it shows
        return [Kept(i["name"], i["statename"], ends.get(i["name"], "")) for i in found if name in (None, i["name"])]

    def _all(self) -> list[Any]:
        if self.record is None:
            return []
        with self._call() as call:
            return list(call.getAllProcessInfo())

    def add(self, name: str, argv: list[str], env: dict[str, str], settles_s: int) -> None:
        """Have a service started, and kept running from now on.

        Args:
            env: its whole environment.
            settles_s: one that ends sooner than this after its start is started again after a pause that grows (`LONGEST_PAUSE_S`).

        Raises:
            SupervisorError: see `_start`.
        """
        with self.alone():
            log = {"path": str(self.settings.log_dir / f"{name}.log"), "bytes": LOG_BYTES, "files": LOG_FILES}
            write(self.folder / f"{name}.service", {"argv": argv, "env": env, "cwd": str(ROOT), "log": log})
            if self.record is None:
                self._start()
            with self._call() as call:
                self._drop(call, name)  # it kept one of this name, which has ended
                (self.folder / f"{name}.ini").write_text(self._program(name, settles_s))
                self._configure()
                call.reloadConfig()
                call.addProcessGroup(name)

    def _program(self, name: str, settles_s: int) -> str:
        def quoted(text: str) -> str:
            return text.replace("%", "%%")

        command = shlex.join([sys.executable, "-m", "infra.supervision.launch", str(self.settings.run_dir), name])
        return _PROGRAM.format(
            name=name, command=quoted(command), directory=quoted(str(ROOT)), settles_s=settles_s, bytes=LOG_BYTES, files=LOG_FILES
        )

    def _start(self) -> None:
        """
        Raises:
            SupervisorError: it is not installed, it ended, or did not answer within `START_S` seconds.
        """
        if importlib.util.find_spec("supervisor") is None:
            raise SupervisorError(
                "the package `supervisor` is missing: `uv pip install supervisor==4.3.0`, or remove .venv and run ./headrace"
            )
        self._kill_lost()
        orphans = self._orphans()
        for stale in (*self.folder.glob("*.ini"), self.folder / _SOCKET):
            if stale.stem not in orphans:
                stale.unlink(missing_ok=True)
        self._configure()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | {MARK: f"{self.settings.state}:{SUPERVISOR}"}
        with open(self.folder / "supervisord.err", "wb") as said:
            child = subprocess.Popen(
                [sys.executable, "-c", _MAIN.format(root=str(ROOT), longest=LONGEST_PAUSE_S, hung=HUNG_S), "-c", _CONFIGURATION],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                umask=private.UMASK,  # its own option is heeded by a daemon only
                cwd=self.folder,
                env=environment,
            )
        created = psutil.Process(child.pid).create_time()
        write(self._record, {"pid": child.pid, "created": created, "argv": [], "session": child.pid})
        deadline = time.monotonic() + START_S
        while True:
            try:
                with self._call() as call:
                    call.getState()
                return
            except SupervisorError:
                if child.poll() is not None or time.monotonic() > deadline:
                    child.kill()
                    raise
                time.sleep(0.05)

    def _configure(self) -> None:
        """Its configuration: one file, since the patterns of supervisord's `include` would be read into the folder's own name."""
        programs = [path.read_text() for path in sorted(self.folder.glob("*.ini"))]
        (self.folder / _CONFIGURATION).write_text("".join([_CONFIG, *programs]))

    def _lost(self) -> list[psutil.Process]:
        """Supervisors of this state folder that nobody can speak to: their files were removed."""
        known, found = self.record, []
        for process in families(str(self.settings.state)).get(SUPERVISOR, ()):
            with suppress(psutil.Error):
                if _CONFIGURATION in process.cmdline() and (known is None or process.pid != known.pid):
                    found.append(process)
        return found

    def end_lost(self) -> None:
        """End supervisors that nobody can speak to: their services go on, as those of one that was killed do."""
        if self._lost():
            with self.alone():  # not one that is being started this moment
                self._kill_lost()

    def _kill_lost(self) -> None:
        lost = self._lost()
        for process in lost:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # told to end, it would end its services
        psutil.wait_procs(lost, timeout=_TIMEOUT_S)

    def _orphans(self) -> list[str]:
        """Services that a supervisor which was killed has left running."""
        found = []
        for path in self.folder.glob("*.ini"):
            record = read_record(self.settings.run_dir / f"{path.stem}.json")
            if record is not None and record.lives:
                found.append(path.stem)
        return found

    def signal_stop(self, name: str) -> int:
        """Tell a service to end (SIGTERM), and the supervisor not to start it again.

        Returns:
            the process that was told; 0: it keeps none of that name that runs.

        Raises:
            SupervisorError: it runs and does not answer.
        """
        if self.record is None:
            return 0
        with self._call() as call:
            try:
                pid = int(call.getProcessInfo(name)["pid"])
                call.stopProcess(name, False)
                return pid
            except xmlrpc.client.Fault:  # unknown to it, or not running
                return 0

    def quiet(self, name: str) -> None:
        """Have a service down, at the latest when this returns.

        Raises:
            SupervisorError: it does not end.
        """
        self.signal_stop(name)
        deadline = time.monotonic() + _TIMEOUT_S
        while any(one.state not in _DOWN for one in self.kept(name)):
            if time.monotonic() > deadline:
                raise SupervisorError(f"{name} does not end")
            time.sleep(0.05)

    def _drop(self, call: Any, name: str) -> None:
        """Forget a service, if it keeps it. Who had to end it with patience has done so.

        Raises:
            SupervisorError: its process does not end.
        """
        began = time.monotonic()
        with suppress(xmlrpc.client.Fault):  # unknown to it
            while call.getProcessInfo(name)["statename"] not in _DOWN:
                late = time.monotonic() - began
                if late > _TIMEOUT_S:
                    raise SupervisorError(f"{name} does not end")
                with suppress(xmlrpc.client.Fault):  # it ended this moment, or has been told
                    call.stopProcess(name, False)
                if late > _DEAF_S:
                    with suppress(xmlrpc.client.Fault):
                        call.signalProcess(name, "KILL")
                time.sleep(0.05)
            call.removeProcessGroup(name)

    def remove(self, name: str) -> None:
        """Forget a service that has ended; with the last one the supervisor ends too."""
        with self.alone():
            if self.record is not None:
                with self._call() as call:
                    self._drop(call, name)
                    empty = not call.getAllProcessInfo()
                    if empty:
                        call.shutdown()
                if empty:
                    self._ended()
            for suffix in ("ini", "service"):
                (self.folder / f"{name}.{suffix}").unlink(missing_ok=True)
            if self.record is None and not list(self.folder.glob("*.ini")):
                self._record.unlink(missing_ok=True)

    def _ended(self) -> None:
        """Wait until it has ended; one that does not is killed."""
        record = self.record
        if record is not None:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(record.pid)
                if psutil.wait_procs([process], timeout=_TIMEOUT_S)[1]:
                    process.kill()
                    psutil.wait_procs([process], timeout=_TIMEOUT_S)
        self._record.unlink(missing_ok=True)

    def _ends(self) -> dict[str, str]:
        """How each service ended last, from the supervisor's log (its answers do not say it of one that ended soon)."""
        try:
            text = (self.settings.log_dir / "supervisor.log").read_text(errors="replace")[-100_000:]
        except OSError:
            return {}
        return dict(re.findall(r"exited: (\S+) \((.+?); (?:not )?expected\)", text))

    def _tail(self) -> str:
        said = [path.read_text(errors="replace") for path in (self.folder / "supervisord.err",) if path.exists()]
        return "".join(said).strip()[-500:]
