"""A few threads for calls that may take long: one that never returns costs its thread, and does not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class Threads:
    """Daemon threads, started as they are needed. (Those of `ThreadPoolExecutor` are waited for when the process ends.)

    Args:
        most: so many at once; further calls wait for one.
        name: of the threads.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """What the call will give; one that is cancelled while it waits is never made. Not to be used by two threads at once."""
        future: Future[Any] = Future()
        self._waiting.put((future, call))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Let the threads end, each after the call that it makes."""
        for _ in self._threads:
            self._waiting.put(None)
        self._threads = []

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # whatever it is, it is the caller's
                    future.set_exception(error)
            del item, future, call
