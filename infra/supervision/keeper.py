"""supervisord as it runs here: it outlives a full disk, its pauses have an end, and a service that hangs is ended and started again."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import loggers, process, supervisord
from supervisor.states import ProcessStates

from infra.supervision.launch import hung_path, read_record, write
from infra.supervision.redis_probe import Probes
from infra.supervision.watchdog import Patience

LOOK_S = 2.0
"""Seconds between two looks at the watchdogs."""


def main(longest_pause_s: int, hung_s: float) -> None:
    """Be supervisord, in the folder `<state>/run/supervisor`.

    Args:
        longest_pause_s: see `infra.supervision.supervisor.LONGEST_PAUSE_S`.
        hung_s: see `infra.supervision.watchdog.HUNG_S`.

    Notes:
        What a full disk does not take is not logged. As shipped, supervisord says so on a stderr that may lie on the same disk, fails at
        that, and never again reads what the service prints: the service then stands still at its next line. And its pauses would grow
        without end.
    """
    loggers.Handler.handleError = lambda self: None
    process.Subprocess = _patient(longest_pause_s)
    supervisord.Supervisor = _keeper(Patience(hung_s), Path.cwd().parent)
    supervisord.main()


def _patient(longest_pause_s: int) -> Any:
    class Patient(process.Subprocess):
        backoff: int

        def change_state(self, new_state: Any, expected: bool = True) -> Any:
            if new_state == ProcessStates.BACKOFF:
                self.backoff = min(self.backoff, longest_pause_s - 1)
            return super().change_state(new_state, expected)

    return Patient


def _keeper(patience: Patience, run: Path) -> Any:
    class Keeper(supervisord.Supervisor):
        looked, probes = 0.0, Probes()

        def tick(self, now: Any = None) -> None:
            super().tick(now)
            if time.monotonic() - self.looked >= LOOK_S:
                self.looked = time.monotonic()
                with suppress(Exception):  # whatever it is, the services are kept
                    _end_hung(self, patience, self.probes, run)

    return Keeper


def _end_hung(daemon: Any, patience: Patience, probes: Probes, run: Path) -> None:
    kept = [one for group in daemon.process_groups.values() for one in group.processes.values()]
    running = [one.config.name for one in kept if one.get_state() == ProcessStates.RUNNING]
    probes.look(run, running)
    for name, (pid, quiet_s) in patience.look(run, running, time.monotonic()).items():
        record = read_record(run / f"{name}.json")
        if record is None or record.pid != pid or not record.lives:  # the word of another, which has ended
            continue
        why = f"silent for {quiet_s:.0f} s: killed"
        daemon.options.logger.critical(f"hangs: {name} ({why})")
        with suppress(OSError):
            write(hung_path(run, name), {"pid": pid, "why": why})
        os.kill(pid, signal.SIGKILL)
