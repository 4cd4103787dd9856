"""Dead letters: live events that a view refused. They are kept with the reason, can be read, and can be put back when the reason is gone.

An event is either applied or lies here, never both. Example: an event is refused because its view lacks a column. The definition is
mended, and the stream tries the same entry once more; or a backfill reads the event stream. Both would apply the event now, but both pass
it over, because it is noted as set aside. Only putting it back, under a new stream id, brings it into the store.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from feature_repo.records.redis_keys import events_key, refused_key, rejected_key, set_aside_key
from streaming.online.store import noted_id, stream_id

if TYPE_CHECKING:
    import redis

KEPT = 100_000
"""Rejected events kept, approximately; the oldest go first."""
_CHUNK = 200
# KEYS: the rejected stream, what is set aside; ARGV: entries kept; per event: its stream id, that id's milliseconds, source, data, n, and
# n times view and reason. Each view's refusal of an event counts once, whatever is repeated.
_PUT = """
local i, put = 2, 0
while i <= #ARGV do
  local id, ms, source, data, n = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local views, why = {}, {}
  for k = i + 5, i + 3 + 2 * n, 2 do
    if redis.call('ZADD', KEYS[2], 'NX', ms, id .. ' ' .. ARGV[k]) == 1 then
      if ARGV[k] ~= '' then table.insert(views, ARGV[k]) end
      table.insert(why, (ARGV[k] ~= '' and ARGV[k] .. ': ' or '') .. ARGV[k + 1])
    end
  end
  if #why > 0 then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'id', id, 'source', source, 'data', data,
      'views', table.concat(views, ','), 'why', table.concat(why, '; '))
    put = put + 1
  end
  i = i + 5 + 2 * n
end
return put
"""


@dataclass(frozen=True)
class Rejected:
    """
    Attributes:
        position: its id on the event stream.
        why: reason by view that refused it; by "" where no view is fed by its source.
        entry: its id on the rejected stream; "" before it is there.
    """

    position: tuple[int, int]
    source: str
    data: bytes
    why: Mapping[str, str]
    entry: str = ""


def put(client: redis.Redis, project: str, items: Sequence[Rejected]) -> None:
    """Keep events, each once for each view that refused it, whatever is repeated."""
    for i in range(0, len(items), _CHUNK):
        flat: list[Any] = []
        for item in items[i : i + _CHUNK]:
            reasons = [part for pair in item.why.items() for part in pair]
            flat += [f"{item.position[0]}-{item.position[1]}", item.position[0], item.source, item.data, len(item.why), *reasons]
        client.eval(_PUT, 2, rejected_key(project), set_aside_key(project), KEPT, *flat)


_Refusal = tuple[str, bytes, str]


def hold_back(client: redis.Redis, project: str, items: Sequence[Rejected]) -> None:
    """Refusals by one of several tasks: they count as set aside now, and become letters when all tasks have seen the events (`settle`).

    So an event that several views refuse is one letter, whichever tasks their entities belong to.
    """
    for i in range(0, len(items), _CHUNK):
        some = {
            f"{item.position[0]}-{item.position[1]} {view}": msgspec.msgpack.encode((item.source, item.data, why))
            for item in items[i : i + _CHUNK]
            for view, why in item.why.items()
        }
        client.hset(refused_key(project), mapping=some)


def settle(client: redis.Redis, project: str, upto: tuple[int, int]) -> None:
    """Make letters of the refusals that were held back, of events up to a position. May be repeated."""
    if not client.hlen(refused_key(project)):
        return
    found: dict[tuple[int, int], dict[str, _Refusal]] = defaultdict(dict)
    done, held = [], client.hgetall(refused_key(project))
    for member, told in held.items():  # type: ignore[union-attr]
        position, view = _aside(member)
        if position is not None and position > upto:
            continue
        done.append(member)  # also what is none of ours
        if position is not None:
            try:
                found[position][view] = msgspec.msgpack.decode(told, type=_Refusal)
            except (msgspec.DecodeError, UnicodeDecodeError):
                found[position][view] = ("", b"", "the reason was lost")
    letters = []
    for position, views in sorted(found.items()):
        source, data, _ = next(iter(views.values()))
        letters.append(Rejected(position, source, data, {view: why for view, (_, _, why) in sorted(views.items())}))
    put(client, project, letters)
    for i in range(0, len(done), _CHUNK):
        client.hdel(refused_key(project), *done[i : i + _CHUNK])


def _aside(member: bytes) -> tuple[tuple[int, int] | None, str]:
    name, _, view = member.decode(errors="replace").partition(" ")
    return noted_id(name), view


def set_aside(client: redis.Redis, project: str, first: tuple[int, int], last: tuple[int, int]) -> dict[tuple[int, int], set[str]]:
    """Which views refused each event of a stretch of the event stream (both ends included), by the event's stream id. The view is "" where no
    view is fed by the event's source.
    """
    found: dict[tuple[int, int], set[str]] = {}
    asked = client.pipeline(transaction=False)
    asked.zrangebyscore(set_aside_key(project), first[0], last[0])
    asked.hkeys(refused_key(project))
    for member in itertools.chain(*asked.execute()):
        position, view = _aside(member)
        if position is not None and first <= position <= last:  # what is none of ours says nothing of an event
            found.setdefault(position, set()).add(view)
    return found


def forget(client: redis.Redis, project: str, before_ms: int) -> None:
    """Events that have left the event stream need not be remembered as set aside: nothing can read them again."""
    client.zremrangebyscore(set_aside_key(project), "-inf", f"({before_ms}")


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
            source, views, said = (fields.get(f, b"").decode(errors="replace") for f in (b"source", b"views", b"why"))
            # entries of older versions have no field `id`: theirs is the entry's own
            position = noted_id(fields.get(b"id", name)) or stream_id(name)
            yield Rejected(position, source, fields.get(b"data", b""), dict.fromkeys(views.split(","), said), name.decode())
        after = "(" + entries[-1][0].decode()
        left = None if left is None else left - len(entries)


def replay(client: redis.Redis, project: str) -> int:
    """Put every rejected event back on the event stream, for the views that refused it and no others. Returns how many."""
    done = 0
    for item in list(read(client, project)):
        with client.pipeline(transaction=True) as pipe:  # on the stream again or still among the rejected, never both, never neither
            pipe.xadd(events_key(project), {"source": item.source, "data": item.data, "only": ",".join(v for v in item.why if v)})
            pipe.xdel(rejected_key(project), item.entry)
            pipe.execute()
        done += 1
    return done
