"""Dead letters: live events that fit no schema - kept with the reason, readable, and put back when the reason is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streaming.store import events_key, rejected_key, stream_id

if TYPE_CHECKING:
    import redis

KEPT = 100_000
"""Rejected events kept, approximately; the oldest go first."""


@dataclass(frozen=True)
class Rejected:
    """
    Attributes:
        position: its id on the event stream, and on the rejected one.
        why: reason by view that refused it; by "" where no view is fed by its source.
    """

    position: tuple[int, int]
    source: str
    data: bytes
    why: Mapping[str, str]


def put(client: redis.Redis, project: str, items: Sequence[Rejected]) -> None:
    """Keep events, each once whatever is repeated: they keep their ids, and Redis refuses an id that is not the highest."""
    import redis

    with client.pipeline(transaction=False) as pipe:
        for item in items:
            views = ",".join(v for v in item.why if v)
            why = "; ".join(f"{view}: {reason}" if view else reason for view, reason in item.why.items())
            fields: dict[Any, Any] = {"source": item.source, "data": item.data, "views": views, "why": why}
            pipe.xadd(rejected_key(project), fields, id=f"{item.position[0]}-{item.position[1]}", maxlen=KEPT, approximate=True)
        for reply in pipe.execute(raise_on_error=False):
            if isinstance(reply, redis.ResponseError) and "equal or smaller" not in str(reply):
                raise reply


def count(client: redis.Redis, project: str) -> int:
    return int(client.xlen(rejected_key(project)))  # type: ignore[arg-type]


def read(client: redis.Redis, project: str, limit: int | None = None) -> Iterator[Rejected]:
    """Rejected events, oldest first."""
    after, left = "-", limit
    while left is None or left > 0:
        entries: Any = client.xrange(rejected_key(project), after, "+", count=min(1000, left or 1000))
        if not entries:
            return
        for name, fields in entries:
            why = {view: fields[b"why"].decode() for view in fields[b"views"].decode().split(",")}
            yield Rejected(stream_id(name), fields[b"source"].decode(), fields[b"data"], why)
        after = "(" + entries[-1][0].decode()
        left = None if left is None else left - len(entries)


def replay(client: redis.Redis, project: str) -> int:
    """Put every rejected event back on the event stream, for the views that refused it and no others. Returns how many."""
    done = 0
    for item in list(read(client, project)):
        with client.pipeline(transaction=True) as pipe:  # on the stream again or still among the rejected, never both, never neither
            pipe.xadd(events_key(project), {"source": item.source, "data": item.data, "only": ",".join(v for v in item.why if v)})
            pipe.xdel(rejected_key(project), f"{item.position[0]}-{item.position[1]}")
            pipe.execute()
        done += 1
    return done
