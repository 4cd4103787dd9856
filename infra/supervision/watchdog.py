"""A watchdog for each service: its loop feeds it, and one that was not fed for long is ended by the supervisor, which starts it again.

One that computes in the meantime is given more time: on a busy machine an honest round takes minutes, and who was killed in the middle of it
would begin it again, for ever.

It is a file of this machine, not a word in Redis: a Redis that is away starves nobody. It is armed by the first round that ends, so that
a start may last as long as it will, and disarmed where the loop ends.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from infra.supervision.launch import MARK, SELF, watched_path

HUNG_S = 60.0
"""A part that ended no round for so long, or for `ROUNDS` of its intervals where that is longer, hangs."""
ROUNDS = 6
WORKING, LONGER = 0.05, 10
"""A process that has used more than this share of a core since it was fed last works; it hangs after so many times as long."""
_LAYOUT = struct.Struct("<qdq")  # process id (0: disarmed), seconds within which a round ends, rounds so far


def fed(pid: int, every_s: float, rounds: int) -> bytes:
    """What lies in the file once a service has ended so many rounds; process id 0: it is disarmed."""
    return _LAYOUT.pack(pid, every_s, rounds)


def probed(said: bytes) -> bool:
    """Whether it is a word that a probe has left, for a service that feeds none: it has no interval."""
    return len(said) == _LAYOUT.size and _LAYOUT.unpack(said)[:2] != (0, 0.0) and _LAYOUT.unpack(said)[1] == 0.0


class Watchdog:
    """A service's own; in any other process it does nothing.

    Args:
        every_s: a round ends at least so often.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s, self._rounds, self._file = every_s, 0, -1
        state, _, name = os.environ.get(MARK, "").rpartition(":")
        if state and os.environ.get(SELF) == str(os.getpid()):  # who only inherited it is another process
            with suppress(OSError):
                self._file = os.open(watched_path(Path(state) / "run", name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def feed(self) -> None:
        """A round has ended, or a long one goes on."""
        self._rounds += 1
        self._write(os.getpid())

    def close(self) -> None:
        """The loop has ended: nobody waits for its next round."""
        self._write(0)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, pid: int) -> None:
        if self._file >= 0:
            with suppress(OSError):  # a disk that takes nothing: this round is not seen
                os.pwrite(self._file, fed(pid, self._every_s, self._rounds), 0)


@dataclass
class Patience:
    """What the supervisor has seen of the watchdogs. It counts time only while it looks itself: where the whole machine stood still, nobody hangs.

    Args:
        hung_s: see `HUNG_S`.
        longest_s: no two looks count for more than this.
    """

    hung_s: float = HUNG_S
    longest_s: float = 10.0
    _looked: float | None = None
    _seen: dict[str, tuple[bytes, float, float]] = field(default_factory=dict)
    """By service: its last word, for how many seconds that has been its last, and the CPU it had used by then, seconds."""

    def look(self, run_folder: Path, names: list[str], now: float) -> dict[str, tuple[int, float]]:
        """Those of the services that hang: process id, and for how many seconds.

        Args:
            now: seconds, of a clock that goes on evenly.
        """
        passed = min(now - self._looked, self.longest_s) if self._looked is not None else 0.0
        self._looked, before, self._seen = now, self._seen, {}
        hung = {}
        for name in names:
            try:
                said = watched_path(run_folder, name).read_bytes()
                pid, every_s, _ = _LAYOUT.unpack(said)
            except (OSError, struct.error):  # it has not begun to work, or has no watchdog
                continue
            if pid <= 0 or not every_s >= 0:
                continue
            last, quiet_s, used_s = before.get(name, (b"", 0.0, 0.0))
            quiet_s, used_s = (quiet_s + passed, used_s) if said == last else (0.0, cpu_s(pid))
            self._seen[name] = said, quiet_s, used_s
            bound_s = max(self.hung_s, ROUNDS * every_s)
            if quiet_s > bound_s and (quiet_s > LONGER * bound_s or cpu_s(pid) - used_s < WORKING * quiet_s):
                hung[name] = pid, quiet_s
        return hung


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used; 0 where there is none."""
    import psutil

    with suppress(psutil.Error, OverflowError):
        used = psutil.Process(pid).cpu_times()
        return float(used.user + used.system)
    return 0.0
