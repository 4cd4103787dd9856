"""Ids of predictions that are the same when a request is scored again: made of where the request lies, not of chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b

from infra.settings import Settings
from serving.telemetry import prediction_id
from serving.telemetry.prediction_id import PredictionIds

_request: ContextVar[tuple[str, int] | None] = ContextVar("request", default=None)


@contextmanager
def answering(request: str, at_ms: int) -> Iterator[None]:
    """What is predicted inside belongs to a request.

    Args:
        request: where it lies, such as `asks-0-17`.
        at_ms: when it was put there.
    """
    token = _request.set((request, at_ms))
    try:
        yield
    finally:
        _request.reset(token)


class RequestIds(PredictionIds):
    """The ids of this checkout; feedback takes them as any other."""

    @classmethod
    def of_requests(cls, settings: Settings) -> RequestIds:
        made = cls.__new__(cls)
        made.__dict__.update(PredictionIds.of(settings).__dict__)
        return made

    def make(self, model: str, wall_us: int, count: int = 1) -> list[str]:
        if (request := _request.get()) is None:
            return super().make(model, wall_us, count)
        name, at_ms = request
        nonces = [int.from_bytes(blake2b(f"{name} {model} {i}".encode(), digest_size=8).digest()) for i in range(count)]
        return [self.made_of(model, at_ms, nonce & prediction_id.NONCE) for nonce in nonces]
