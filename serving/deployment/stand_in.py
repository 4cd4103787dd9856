"""A HAProxy that stands in, with the last configuration that knew the replicas, while Ray Serve replaces one that died.

Serve's own way takes three failed health checks, a new proxy actor, a new HAProxy and the news of the replicas. The stand-in is there within
a fraction of a second. It has an admin socket of its own, so that Serve sees that its own HAProxy is gone; the new one takes its sockets over.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from serving.deployment.haproxy import Ingress, note, running

_WAIT_S, _MOST_S = 0.05, 5.0
log = logging.getLogger(__name__)


class StandIn:
    """Waits, in a thread, for the death of the HAProxy that serves.

    Args:
        ingress: whose HAProxy.
        port: that clients call.
    """

    def __init__(self, ingress: Ingress, port: int) -> None:
        self._ingress, self._port = ingress, port
        self._stopping = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._run, name="stand-in", daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """From now on a HAProxy may end; a stand-in is ended."""
        self._stopping.set()
        self._thread.join()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _run(self) -> None:
        wait_s = _WAIT_S
        while not self._stopping.is_set():
            try:
                if now := running(self._ingress):
                    if self._until_death(now[0]):
                        wait_s = _WAIT_S
                elif self._ingress.last.is_file() and not self._answers():
                    self._start()
                    wait_s = min(2 * wait_s, _MOST_S)
            except Exception:
                log.exception("no stand-in for HAProxy could be started")
                wait_s = min(2 * wait_s, _MOST_S)
            self._stopping.wait(wait_s)

    def _until_death(self, pid: int) -> bool:
        """Wait for it; whether it had lived for a while."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        waited = 0
        try:
            while not self._stopping.is_set() and not select.select([handle], [], [], 0.2)[0]:
                waited += 1
        finally:
            os.close(handle)
        if self._process is not None:
            self._process.poll()
        return waited > 5

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self._ingress.host, self._port), timeout=0.5):
            return True
        return False

    def _start(self) -> None:
        folder = Path(self._ingress.folder)
        admin, config = folder / "s", folder / "stand-in.cfg"
        config.write_text(re.sub(r"(?m)^( *stats socket) \S+", rf"\1 {admin}", self._ingress.last.read_text()))
        with open(folder / "stand-in.log", "ab") as told:
            self._process = subprocess.Popen([self._ingress.binary, "-db", "-dR", "-f", str(config)], stdout=told, stderr=told)
        note(self._ingress, self._process.pid, str(admin))
        log.warning("HAProxy died; another, process %d, stands in until Ray Serve has replaced it", self._process.pid)
