"""Clients that ask again and again, and note down what they saw."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import httpx


@dataclass(frozen=True)
class Answer:
    """One try: when it began, what came (0: no connection, or it was cut), and the seconds it took."""

    at: float
    status: int
    took_s: float
    retry_after: str


@dataclass
class Clients:
    """Four of them, each with a new connection for every second request, from `with` to its end."""

    url: str
    body: bytes
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.answers.sort(key=lambda a: a.at)

    def _ask(self) -> None:
        while not self._over.is_set():
            with httpx.Client(timeout=10) as client:
                for _ in range(2):
                    began = time.monotonic()
                    status, again = 0, ""
                    with suppress(httpx.TransportError):
                        answer = client.post(self.url, content=self.body)
                        status, again = answer.status_code, answer.headers.get("retry-after", "")
                    self.answers.append(Answer(began, status, time.monotonic() - began, again))
                    time.sleep(0.02)

    def recovered_s(self, since: float) -> float:
        """Seconds from `since` to the end of the last answer that was not 200."""
        return max((a.at + a.took_s - since for a in self.answers if a.at + a.took_s >= since and a.status != 200), default=0.0)
