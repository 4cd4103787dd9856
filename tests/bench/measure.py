"""Memory of a family of processes, and peers that live in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from infra.settings import ROOT, Settings


class Memory:
    """Peak proportional set size, in GiB, of this process and all below it, sampled."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.samples: list[float] = []

    def sample(self) -> float:
        total = 0
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        self.samples.append(total / 2**30)
        self.peak = max(self.peak, self.samples[-1])
        return self.samples[-1]


@contextmanager
def memory(every_s: float = 0.5) -> Iterator[Memory]:
    found, ended = Memory(), threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            found.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        found.sample()


class Peer:
    """A module of `tests.bench.peers` in its own process: a line in, a JSON line out.

    Its first line says that it is ready, with whatever it has measured of its start.
    """

    def __init__(self, own: Settings, name: str, *arguments: str) -> None:
        from infra.java import java_home

        environment = os.environ | {"JAVA_HOME": str(java_home(own)), "PYSPARK_PYTHON": sys.executable, "FEAST_USAGE": "False", "TZ": "UTC"}
        environment.pop("PYTHONPATH", None)
        self.log = open(own.state / f"peer-{name}.log", "wb")  # noqa: SIM115
        script = str(ROOT / "tests" / "bench" / "peers" / f"{name}.py")
        self.child = subprocess.Popen(
            [sys.executable, script, *arguments],
            env=environment,
            cwd=own.state,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.started = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith(b"RESULT"):
                found: dict[str, Any] = json.loads(line[6:])
                return found
        raise RuntimeError(f"the peer ended: see {self.log.name}")

    def __call__(self, request: str = "go") -> dict[str, Any]:
        assert self.child.stdin is not None
        self.child.stdin.write(request.encode() + b"\n")
        self.child.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.log.close()
