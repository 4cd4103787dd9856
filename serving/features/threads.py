"""A few threads for calls that may take long: one that never returns costs its thread, and does not keep the process from ending."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

STUCK_S = 10.0
"""A call that has not returned for so long is not counted on: another thread takes its place."""
TIMES = 4
"""Of the threads wanted, at most so many times as many are ever started."""


class Threads:
    """Daemon threads, started as they are needed. (Those of `ThreadPoolExecutor` are waited for when the process ends.)

    Args:
        most: so many at work at once; further calls wait for one.
        name: of the threads.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any], str] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: dict[int, tuple[float, str]] = {}
        """By thread: since when it makes a call, and of what."""

    def submit(self, call: Callable[[], Any], what: str = "") -> Future[Any]:
        """What the call will give; one that is cancelled while it waits is never made. Not to be used by two threads at once.

        Args:
            what: the call is of, for `stuck`.
        """
        future: Future[Any] = Future()
        self._waiting.put((future, call, what))
        if len(self._threads) < min(self._most + self.stuck.total(), TIMES * self._most):
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    @property
    def stuck(self) -> Counter[str]:
        """How many calls have not returned for `STUCK_S`, by what they are of."""
        before = time.monotonic() - STUCK_S
        return Counter(what for began, what in list(self._running.values()) if began < before)

    @property
    def exhausted(self) -> bool:
        """Whether every thread that there may be is held by a call that does not return."""
        return self.stuck.total() >= TIMES * self._most

    def close(self) -> None:
        """Let the threads end, each after the call that it makes."""
        for _ in self._threads:
            self._waiting.put(None)
        self._threads = []

    def _work(self) -> None:
        mine = threading.get_ident()
        while (item := self._waiting.get()) is not None:
            future, call, what = item
            if future.set_running_or_notify_cancel():
                self._running[mine] = time.monotonic(), what
                try:
                    future.set_result(call())
                except BaseException as error:  # whatever it is, it is the caller's
                    future.set_exception(error)
                self._running.pop(mine, None)
            del item, future, call
