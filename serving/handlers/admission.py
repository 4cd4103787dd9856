"""How many predictions a replica works on at once: one budget, whatever door they came through."""

from __future__ import annotations

from types import TracebackType

from serving.protocol.problem import Unavailable


class Admission:
    """A place for each prediction at work, held with `with`; what has been accepted keeps its latency.

    HAProxy refuses before, by what all replicas together have at work over HTTP; it does not see what comes over gRPC.

    Args:
        most: places.

    Raises:
        Unavailable: on entering, where every place is taken.
    """

    def __init__(self, most: int) -> None:
        self.most, self.at_work = most, 0

    def __enter__(self) -> None:
        if self.at_work >= self.most:
            raise Unavailable("The replica is busy; come back in a second.")
        self.at_work += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.at_work -= 1
