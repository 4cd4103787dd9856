"""Cuts: which offsets of which partitions make up a batch, written down before anything of the batch is applied.

Why: every entity remembers the last position that was applied to it, and positions of all partitions must be comparable, and the same
when a batch is read again after a crash. So a position is `(number of the cut, place in it)`. Who finds a cut that is not applied yet
applies just that, whatever has arrived since.

The number is the millisecond of Redis' clock in which the cut was written, or one more than the last. So it says when its events
came in, as a stream id does, and lies beyond every id of the Redis Stream that a source may have been read from before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from feature_repo.records.redis_keys import applied_kafka_key, cuts_key, events_key, kafka_key
from infra.redis_client import whole
from streaming.kafka.client import KafkaError
from streaming.online.store import fields_of, noted_id, stream_id, watermark

if TYPE_CHECKING:
    import redis

FIRST_SEQ = 2**31
"""Places begin here: no id of the Redis Stream has such a second half, so no two events have one position."""
LAST_SEQ = 2**32 - 1
_AT = "at:"
"""Fields of the hash: `at:<topic>-<partition>` is the offset that comes next."""
# KEYS: the hash, the cuts; ARGV: number of the last cut as the writer knows it, the least number, ranges (JSON), then partition, offset, ...
_CUT = """
local last = redis.call('HGET', KEYS[1], 'cut') or '0'
if last ~= ARGV[1] then return 0 end
local now = redis.call('TIME')
local number = math.max(tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000), tonumber(last) + 1, tonumber(ARGV[2]))
number = string.format('%.0f', number)
redis.call('XADD', KEYS[2], number .. '-0', 'ranges', ARGV[3])
redis.call('HSET', KEYS[1], 'cut', number)
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], 'at:' .. ARGV[i], ARGV[i + 1]) end
return tonumber(number)
"""
Ranges = dict[str, tuple[int, int]]
"""By partition (`rides-3`) the first offset, and the one after the last."""


@dataclass(frozen=True)
class Cut:
    number: int
    ranges: Ranges


@dataclass(frozen=True)
class Place:
    """How far has been cut: the last cut's number (0: there is none), and each partition's next offset."""

    number: int
    at: Mapping[str, int]


def place(client: redis.Redis, project: str) -> Place:
    """
    Raises:
        KafkaError: what Redis holds is no offset.
    """
    said = fields_of(client.hgetall(kafka_key(project)))  # type: ignore[arg-type]
    at = {name.removeprefix(_AT): whole(value) for name, value in said.items() if name.startswith(_AT)}
    number = whole(said.get("cut", "0"))
    if number is None or None in at.values():
        wrong = "cut" if number is None else next(_AT + name for name, offset in at.items() if offset is None)
        raise KafkaError(f"field {wrong} of {kafka_key(project)} in Redis is no number: set it to the offset to be read next")
    return Place(number, {name: offset for name, offset in at.items() if offset is not None})


def write(client: redis.Redis, project: str, after: int, ranges: Ranges) -> int | None:
    """Write a cut; its number. None: somebody else has written one since cut `after`."""
    least = watermark(client, events_key(project))[0] + 1 if not after else 0
    told = [part for name, (_, upto) in ranges.items() for part in (name, upto)]
    said = client.eval(_CUT, 2, kafka_key(project), cuts_key(project), after, least, msgspec.json.encode(ranges), *told)
    return int(said) or None  # type: ignore[arg-type]


def between(client: redis.Redis, project: str, after: int, upto: int) -> list[Cut]:
    """Cuts with numbers in `(after, upto]`."""
    found: Any = client.xrange(cuts_key(project), f"({after}-0", f"{upto}-0")
    return [Cut(stream_id(name)[0], msgspec.json.decode(fields[b"ranges"], type=Ranges)) for name, fields in found]


def applied(client: redis.Redis, project: str) -> int:
    """Number of the last cut that was applied; 0: none, or what lies there is no number: then all that is kept is applied once more."""
    said: Any = client.hget(applied_kafka_key(project), "id")
    return (noted_id(said or b"") or (0, 0))[0]


def trim(client: redis.Redis, project: str, oldest_ms: int) -> None:
    """Forget applied cuts from before a moment."""
    client.xtrim(cuts_key(project), minid=f"{min(oldest_ms, applied(client, project))}-0", approximate=False)


def claim(client: redis.Redis, project: str, sources: Sequence[str]) -> None:
    """Say which push sources are read from Kafka: who pushes and who backfills is told by it."""
    if sources:
        client.hset(kafka_key(project), "sources", ",".join(sources))
    else:
        client.hdel(kafka_key(project), "sources")


def forget(client: redis.Redis, project: str) -> None:
    """For a rewind: what was read from Kafka so far is as if it had never been; reading goes on where it stands. Nothing may be reading."""
    now = place(client, project)
    if now.number:
        client.delete(cuts_key(project))
        client.hset(applied_kafka_key(project), "id", f"{now.number}-0")
