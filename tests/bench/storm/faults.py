"""What befalls the platform: a part is killed, stopped or slowed, its disk is full, or clocks are wrong."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil

from tests.bench.storm.ground import Ground
from tests.bench.storm.parts import KINDS, Parts
from tests.bench.storm.traffic.hostile_events import FUTURE, event
from tests.bench.storm.traffic.producer import Producer

What = Literal["kill", "stop", "slow", "disk", "clock"]
STOPPED_S, SLOWED_S, FULL_S = 4.0, 6.0, 6.0
_DUTY_S = (0.18, 0.02)
"""A slowed process stands still for so long, then runs for so long."""
RECOVERY_S = 5.0
LONGER_S = {"spark driver": 20.0, "spark JVM": 20.0}


@dataclass(frozen=True)
class Fault:
    """
    Attributes:
        part: of `parts.KINDS`; "" for what befalls all.
        seconds: how long it lasts; 0: it is over at once.
        bound_s: within which everything has to work again, from when it is over.
    """

    what: What
    part: str
    seconds: float
    bound_s: float

    @property
    def name(self) -> str:
        texts = {
            "kill": f"{self.part} killed",
            "stop": f"{self.part} stopped for {self.seconds:g} s",
            "slow": f"{self.part} slowed to a tenth for {self.seconds:g} s",
            "disk": f"the disk full for {self.seconds:g} s",
            "clock": "events and reports from wrong clocks",
        }
        return texts[self.what]

    @property
    def cuts_off(self) -> bool:
        """Whether connections may be refused or reset meanwhile: it befalls what listens, or what holds that."""
        return self.part in ("haproxy", "ray driver")

    @property
    def cuts_short(self) -> bool:
        """Whether an answer may end in its middle: who was killed had begun to write it, and no other can go on with it."""
        return self.cuts_off or (self.what, self.part) == ("kill", "replica")


def kills(parts: Sequence[str] = tuple(KINDS)) -> list[Fault]:
    return [Fault("kill", part, 0.0, LONGER_S.get(part, RECOVERY_S)) for part in parts]


def stops(parts: Sequence[str] = tuple(KINDS)) -> list[Fault]:
    return [Fault("stop", part, STOPPED_S, LONGER_S.get(part, RECOVERY_S)) for part in parts]


def slows(parts: Sequence[str] = tuple(KINDS)) -> list[Fault]:
    return [Fault("slow", part, SLOWED_S, LONGER_S.get(part, RECOVERY_S)) for part in parts]


def everything() -> list[Fault]:
    """Every fault there is, each kind of it in turn."""
    mixed = [fault for of_part in zip(kills(), stops(), slows(), strict=True) for fault in of_part]
    return [*mixed[::3], Fault("disk", "", FULL_S, RECOVERY_S), *mixed[1::3], Fault("clock", "", 0.0, RECOVERY_S), *mixed[2::3]]


class NotDone(Exception):
    """A fault could not be brought about here; says why."""


@dataclass
class Hand:
    """What brings faults about, and takes each back whatever happens."""

    parts: Parts
    ground: Ground
    producer: Producer

    def strike(self, fault: Fault, running: Callable[[], bool]) -> list[psutil.Process]:
        """Bring it about and wait until it is over.

        Args:
            running: whether to go on; False ends it early.

        Returns:
            The processes that were hit.

        Raises:
            NotDone: it cannot be done here.
        """
        if fault.what == "disk":
            return self._fill(fault.seconds, running)
        if fault.what == "clock":
            self.producer.burst([event(n, FUTURE) for n in range(4 * len(FUTURE))])
            return []
        hit = self.parts.find(fault.part)
        if not hit:
            raise NotDone(f"there is no process of {fault.part}")
        if fault.part == "replica":  # one of them: the one that does the work
            hit = [max(hit, key=_worked_s)]
        if fault.what == "kill":
            _signal(hit, signal.SIGKILL)
        elif fault.what == "stop":
            _hold(hit, fault.seconds, running, pause_s=fault.seconds, go_s=0.0)
        else:
            _hold(hit, fault.seconds, running, *_DUTY_S)
        return hit

    def _fill(self, seconds: float, running: Callable[[], bool]) -> list[psutil.Process]:
        if not self.ground.own_disk:
            raise NotDone("the state folder has no file system of its own: it takes the right to mount one")
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until and running():
                self.ground.fill()  # what is deleted meanwhile is taken as well
                time.sleep(0.1)
        finally:
            self.ground.free()
        return []


def _hold(hit: Sequence[psutil.Process], seconds: float, running: Callable[[], bool], pause_s: float, go_s: float) -> None:
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until and running():
            _signal(hit, signal.SIGSTOP)
            _sleep(min(pause_s, until - time.monotonic()), running)
            _signal(hit, signal.SIGCONT)
            time.sleep(go_s)
    finally:
        _signal(hit, signal.SIGCONT)


def _sleep(seconds: float, running: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while running() and (left := until - time.monotonic()) > 0:
        time.sleep(min(0.2, left))


def _worked_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return process.cpu_times().user
    return 0.0


def _signal(hit: Sequence[psutil.Process], number: int) -> None:
    for process in hit:
        with suppress(psutil.Error):
            process.send_signal(number)
