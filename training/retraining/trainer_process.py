"""A training in a process of its own: what it takes of memory goes with it, and it ends with the loop that asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.settings import ROOT, Settings
from infra.supervision import process
from infra.supervision.supervisor import LOG_BYTES
from infra.timestamps import moment_at
from training.data.left_out import Interval, interval_text
from training.gates.record import Gates, read_gates
from training.retraining.autopilot import TrainingStopped
from training.retraining.retrain import find
from training.retraining.triggers import Reason


class Trainer:
    """`headrace retrain` as the autopilot's training.

    Args:
        stop: ends a training that is under way.
        timeout_s: a training that takes longer is ended; the autopilot tries again.
        waiting: called now and then while a training is under way.
    """

    def __init__(
        self, settings: Settings, model: str, stop: threading.Event, timeout_s: float = 3600, waiting: Callable[[], None] = lambda: None
    ) -> None:
        self.settings, self.model, self.stop, self.timeout_s, self.waiting = settings, model, stop, timeout_s, waiting

    @property
    def log(self) -> Path:
        return self.settings.log_dir / f"retrain-{self.model}.log"

    def __call__(self, reason: Reason, as_of_us: int, left_out: Sequence[Interval]) -> Gates | None:
        """None where it failed; the log says why."""
        self.settings.log_dir.mkdir(parents=True, exist_ok=True)
        if self.log.is_file() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        as_of = moment_at(as_of_us).isoformat()
        argv = [sys.executable, str(ROOT / "headrace.py"), "retrain", self.model]
        argv += ["--as-of", as_of, "--trigger", reason.id, "--why", f"{reason.kind}: {reason.text}"]
        argv += [word for span in left_out for word in ("--leave-out", interval_text(span))]
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=self._environment()
            )
            try:
                self._wait(child)
            finally:
                _end(child)
        if self.stop.is_set():
            raise TrainingStopped
        # it ends with 1 where a gate failed: what counts is what it left
        version = find(self.settings, self.model, reason.id)
        return None if version is None else read_gates(self.settings, self.model, version)

    def _environment(self) -> dict[str, str]:
        return process.environment() | self.settings.environment()

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.timeout_s
        while child.poll() is None and not self.stop.is_set() and time.monotonic() < deadline:
            self.waiting()
            self.stop.wait(0.2)


def _end(child: subprocess.Popen[bytes]) -> None:
    """The process and those it started (Spark's Java)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            continue
