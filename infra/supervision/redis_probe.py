"""A watchdog for Redis, which feeds none: the supervisor sends a PING at one look, and sees at the next whether anything came back."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from infra.supervision.launch import asked_path, read_record, watched_path
from infra.supervision.watchdog import fed, probed


class Probe:
    """One server. It is never waited for.

    Args:
        port: on 127.0.0.1; what listens there speaks RESP.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket: socket.socket | None = None

    def look(self) -> bool:
        """Whether it has answered since the last look (a refusal is an answer), and ask again where it has, or nothing was asked."""
        answered = False
        try:
            if self._socket is not None:
                answered = bool(self._socket.recv(4096))
            self.close()
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._socket.settimeout(0.2)  # the kernel takes a connection on loopback at once, also for one that stands still
            self._socket.connect(("127.0.0.1", self.port))
            self._socket.sendall(b"PING\r\n")
            self._socket.setblocking(False)
        except BlockingIOError:
            pass  # asked, and not answered yet
        except (OSError, OverflowError):  # nobody listens, or there is no such port
            self.close()
        return answered

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Probes:
    """Feeds the watchdogs of the services that have a port to be asked at (`infra.supervision.launch.asked_path`)."""

    def __init__(self) -> None:
        self._probes: dict[str, Probe] = {}
        self._rounds = 0

    def look(self, run_folder: Path, names: list[str]) -> None:
        self._rounds += 1
        for name in set(self._probes) - set(names):
            self._probes.pop(name).close()
        for name in names:
            try:
                port = int(asked_path(run_folder, name).read_text())
            except (OSError, ValueError):  # it feeds its own, or has none; or the file was lost, and it is known
                if name not in self._probes:
                    self._disarm(run_folder, name)
                    continue
                port = self._probes[name].port
                with suppress(OSError):
                    asked_path(run_folder, name).write_text(str(port))
            if name not in self._probes or self._probes[name].port != port:
                self._probes[name] = Probe(port)
            record = read_record(run_folder / f"{name}.json")
            if record is not None and self._probes[name].look():
                with suppress(OSError):
                    watched_path(run_folder, name).write_bytes(fed(record.pid, 0.0, self._rounds))

    def _disarm(self, run_folder: Path, name: str) -> None:
        """What an earlier supervisor fed here, nobody feeds now: its silence says nothing."""
        with suppress(OSError):
            path = watched_path(run_folder, name)
            if probed(path.read_bytes()):
                path.write_bytes(fed(0, 0.0, self._rounds))
