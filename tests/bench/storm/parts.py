"""The processes of one checkout by what they do, however they were started: found by what they are called and whose they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from infra.settings import Settings
from serving.deployment import leftovers


def _command(*words: str) -> Callable[[str, Sequence[str]], bool]:
    def is_it(_: str, line: Sequence[str]) -> bool:
        at = next((i for i, part in enumerate(line) if part.endswith("headrace.py")), None)
        return at is not None and list(line[at + 1 : at + 1 + len(words)]) == list(words)

    return is_it


KINDS: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "redis": lambda name, _: name in ("redis-server", "valkey-server"),
    "haproxy": lambda name, _: name == "haproxy",
    "replica": lambda _, line: bool(line) and line[0].startswith("ray::ServeReplica"),
    "ray driver": _command("serve"),
    "spark driver": _command("stream"),
    "spark JVM": lambda name, _: name == "java",
    "spark worker": lambda _, line: any(part.startswith(("pyspark.daemon", "pyspark.sql.", "streaming.live.worker")) for part in line[1:3]),
    "watch": _command("watch"),
    "autopilot": _command("autopilot"),
}
"""What each part is called in the process table."""


class Parts:
    """The parts of one checkout.

    Notes:
        Ray's workers and Redis overwrite their environment with their title: Ray's are known by an ancestor's command line instead,
        Redis by its folder.
    """

    def __init__(self, own: Settings) -> None:
        self._marks = (str(own.state), str(leftovers.scratch(own)) + "/")
        self._known: dict[psutil.Process, bool] = {}

    def find(self, part: str) -> list[psutil.Process]:
        """The live processes of a part, oldest first."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if KINDS[part](process.name(), process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process):
                    found.append(process)
        return sorted(found, key=lambda p: (p.create_time(), p.pid))

    def everything(self) -> list[psutil.Process]:
        """Every process of the checkout."""
        found = []
        me = {psutil.Process().pid, *(p.pid for p in psutil.Process().parents())}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid not in me and process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process):
                    found.append(process)
        return found

    def memory_mb(self) -> dict[tuple[str, int], float]:
        """Resident memory by part and pid."""
        found: dict[tuple[str, int], float] = {}
        for process in self.everything():
            with suppress(psutil.Error):
                name, line = process.name(), process.cmdline()
                part = next((kind for kind, is_it in KINDS.items() if is_it(name, line)), None)
                if part is not None:
                    found[part, process.pid] = process.memory_info().rss / 2**20
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        if process not in self._known:
            self._known[process] = any(self._is_marked(one) for one in [process, *process.parents()])
        return self._known[process]

    def _is_marked(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            texts = [*process.cmdline()[1:], *process.environ().values(), process.cwd() + "/"] if process.pid > 1 else []
            return any(mark in text for mark in self._marks for text in texts)
        return False


def wait_gone(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that are still there after so long."""
    deadline = time.monotonic() + timeout_s
    left = [p for p in processes if p.is_running()]
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return left
