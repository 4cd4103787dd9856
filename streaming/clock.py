"""What time it is: always from a clock, never from data.

Why: a single event dated in the year 2200 must not make everything else look old. Two rules follow:

- What comes in may be dated no later than the clock plus a tolerance (`HEADRACE_CLOCK_TOLERANCE_S`).
- What is deleted as too old is too old by the clock.

A rehearsal has a clock of its own. When the store is rewound, and while a replay runs, Redis holds the moment that the rehearsal has got
to. Whatever deletes takes the earlier of that moment and the wall clock. The next backfill that names no moment ends the rehearsal:
otherwise nothing that came later would ever be forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import clock_key
from infra import redis_client

if TYPE_CHECKING:
    import redis

TOLERANCE_S = 300.0
"""How far ahead of the clock an event may be dated, unless told otherwise (`HEADRACE_CLOCK_TOLERANCE_S`)."""
_FIRST_MS = 1_000_000_000_000
"""Stream ids below this (September 2001) are no moments: a producer has numbered its entries itself."""


def wall_us() -> int:
    """The wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


def latest_us(arrived_ms: Sequence[int], tolerance_s: float, now_us: int | None = None) -> list[int]:
    """The latest moment that each event may be dated, microseconds.

    It counts from the moment at which Redis took the event in, which is its stream id: so the stream, a second try and a backfill that
    reads the same entry later all decide alike. An id that lies ahead of the wall clock gives no time.

    Args:
        arrived_ms: of each event: the first half of its stream id.
        now_us: the wall clock; None: read it.
    """
    now = wall_us() if now_us is None else now_us
    more = round(tolerance_s * 1e6)
    return [(min(ms * 1000, now) if ms >= _FIRST_MS else now) + more for ms in arrived_ms]


def set_rehearsal(client: redis.Redis, project: str, moment_us: int) -> None:
    """Say which moment a rehearsal has got to; it holds until the next one says another, or `end_rehearsal`."""
    client.set(clock_key(project), moment_us)


def end_rehearsal(client: redis.Redis, project: str) -> None:
    """From now on the wall clock counts again."""
    client.delete(clock_key(project))


def rehearsal_us(client: redis.Redis, project: str) -> int | None:
    """The moment a rehearsal has got to; None: there is none, or what lies there is no moment."""
    said: Any = client.get(clock_key(project))
    return None if said is None else redis_client.whole(said)


def now_us(client: redis.Redis, project: str) -> int:
    """The clock that whatever deletes counts from: a rehearsal's where there is one, and never ahead of the wall clock.

    Raises:
        ValueError: what Redis holds of a rehearsal is no moment; nothing is to be deleted by another clock.
    """
    said: Any = client.get(clock_key(project))
    now = wall_us()
    if said is None:
        return now
    moment = redis_client.whole(said)
    if moment is None:
        raise ValueError(f"what lies in Redis under {clock_key(project)} is no moment: remove it, and the wall clock counts")
    return min(moment, now)


SHARE = 0.5
"""More than this share of a view's entities is not deleted at once, unless told to (`HEADRACE_DELETE_SHARE`)."""
