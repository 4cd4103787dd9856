"""The online store as the engines write it: compare-and-set per entity, in Feast's layout plus our tile field, on one Redis or a cluster."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra import redis_client
from streaming.aggregation.tiles import HEADER_SIZE
from streaming.online import entity_index, resp

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)
_STREAM_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
# KEYS[1] the entity; ARGV: expected header ('' for none), tile field, then its value, then field, value, ...
_SWAP = f"""
local now = redis.call('HGET', KEYS[1], ARGV[2])
if (now and string.sub(now, 1, {HEADER_SIZE}) or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
# KEYS[1] the entity; ARGV: expected header, tile field, then every field of the view
_DROP = f"""
local now = redis.call('HGET', KEYS[1], ARGV[2])
if (now and string.sub(now, 1, {HEADER_SIZE}) or '') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
return 1
"""


class OnlineStoreError(RuntimeError):
    """Redis cannot be reached or refused a write (full, read-only). Says what to do."""


class ForeignKeyError(OnlineStoreError):
    """Something else than an entity lies under an entity's key: only that entity cannot be written."""


class BusyError(RuntimeError):
    """Other writers kept changing the same entities: try again."""


def of_the_store(error: Exception) -> bool:
    """Whether the store or the machine is what failed: no row and no event is to blame."""
    import redis

    return isinstance(error, OnlineStoreError | BusyError | redis.RedisError | OSError | MemoryError)


def connect(url: str, timeout_s: float = 10.0) -> redis.Redis:
    """A client of the online store that was seen to answer (`infra.redis_client.connect`).

    Raises:
        OnlineStoreError: nothing answers there, or it refuses us.
    """
    import redis

    try:
        return redis_client.connect(url, timeout_s)
    except redis.RedisError as error:
        raise OnlineStoreError(redis_client.cause(error)) from None


@dataclass(frozen=True)
class Rows:
    """Hash fields of many entities, as columns.

    Attributes:
        keys: entity keys.
        fields: hash fields; the first is the view's tile field.
        columns: per field the value of each entity, as RESP bulks (`resp.bulk`).
    """

    keys: Sequence[bytes]
    fields: Sequence[bytes]
    columns: Sequence[Sequence[bytes]]

    def take(self, rows: Sequence[int]) -> Rows:
        return Rows([self.keys[i] for i in rows], self.fields, [[c[i] for i in rows] for c in self.columns])


class OnlineStore:
    """Reads and writes of a view's fields on many entities, pipelined.

    Args:
        client: a redis-py client (`decode_responses` off), of one server or of a cluster.
        chunk: entities per round trip.
    """

    def __init__(self, client: redis.Redis, chunk: int = 1000) -> None:
        self.client = client
        self.chunk = chunk

    def lanes(self, keys: Sequence[bytes]) -> list[tuple[redis.Redis, list[int]]]:
        """Which server holds which of the keys: `(its client, places in keys)`."""
        cluster: Any = self.client
        if not hasattr(cluster, "nodes_manager"):
            return [(self.client, list(range(len(keys))))]
        found: dict[Any, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            found[cluster.nodes_manager.get_node_from_slot(cluster.keyslot(key))].append(i)
        return [(cluster.get_redis_connection(node), places) for node, places in found.items()]

    def _each(self, keys: Sequence[bytes], pack: Callable[[list[int]], list[bytes]], prepare: str | None = None) -> list[Any]:
        """Send each key's command to the server that holds it; replies in the order of `keys`."""
        import redis

        replies: list[Any] = [None] * len(keys)
        pending = list(range(len(keys)))
        for _ in range(3):
            moved: list[int] = []
            for client, places in self.lanes([keys[i] for i in pending]):
                mine = [pending[i] for i in places]
                try:
                    if prepare is not None:
                        client.script_load(prepare)
                    for i, reply in zip(mine, resp.send(client, pack(mine), self.chunk), strict=True):
                        replies[i] = reply
                except redis.exceptions.MovedError:
                    moved += mine  # every command here may be sent twice: what counts is the header
                except redis.ResponseError as error:
                    kind = ForeignKeyError if str(error).startswith("WRONGTYPE") else OnlineStoreError
                    raise kind(f"Redis refused a write: {error}") from None
                except redis.RedisError as error:
                    raise OnlineStoreError(f"Redis was lost ({error}): run the command again when it is back; it goes on") from None
            if not moved:
                return replies
            pending = moved
            self.client.nodes_manager.initialize()  # type: ignore[attr-defined]
        raise OnlineStoreError(f"the cluster keeps moving {len(pending)} keys: run the command again when it has settled")

    def read(self, keys: Sequence[bytes], field: bytes) -> list[bytes | None]:
        """One hash field of many entities; None where it is absent."""
        return self._each(keys, lambda some: resp.commands([b"HGET"], [[resp.bulk(keys[i]) for i in some], [resp.bulk(field)] * len(some)]))

    def put(self, indexes: Sequence[str], rows: Rows) -> None:
        """Write the rows whatever is there, and note the entities in the indexes. For views that nobody else writes at the same time."""
        self._note(indexes, rows.keys)

        def pack(some: list[int]) -> list[bytes]:
            mine = rows if len(some) == len(rows.keys) else rows.take(some)
            return resp.commands([b"HSET"], [[resp.bulk(k) for k in mine.keys], *mine.columns], mine.fields)

        self._each(rows.keys, pack)

    def swap(self, indexes: Sequence[str], rows: Rows, expected: Sequence[bytes]) -> list[bool]:
        """Write each entity's fields in one step, if its tile field's header still is what was read.

        Args:
            indexes: those that take the entities' keys; the view's own (`keys_key`) comes first.
            expected: the header that was read, b"" for none.

        Returns:
            For each row, whether it was written; False means another writer came first: read again, merge again.
        """
        new = [key for key, header in zip(rows.keys, expected, strict=True) if not header]
        self._note(indexes[:1], new)
        self._note(indexes[1:], rows.keys)
        sha = _sha(_SWAP)

        def pack(some: list[int]) -> list[bytes]:
            mine = rows if len(some) == len(rows.keys) else rows.take(some)
            before = [resp.bulk(expected[i]) for i in some]
            return resp.commands([b"EVALSHA", sha, b"1"], [[resp.bulk(k) for k in mine.keys], before, *mine.columns], mine.fields)

        done = [bool(r) for r in self._each(rows.keys, pack, _SWAP)]
        # once more: a backfill may have taken a new entity for a stale one in between
        self._note(indexes[:1], new)
        return done

    def drop(self, index: str, keys: Sequence[bytes], fields: Sequence[bytes], unless: Callable[[bytes], bool]) -> int:
        """Take a view's fields from entities, and the entities from its index.

        Args:
            fields: every field of the view; the first is its tile field.
            unless: given the stored header (b"" for none): keep this entity after all.

        Returns:
            Entities that were dropped.
        """
        dropped = 0
        for some in _chunks(keys, self.chunk):
            headers = [(blob or b"")[:HEADER_SIZE] for blob in self.read(some, fields[0])]
            going = [i for i, header in enumerate(headers) if not unless(header)]
            if not going:
                continue
            gone = [some[i] for i in going]
            # first from the index: if somebody writes the entity in between, the drop fails and it is put back
            entity_index.forget(self.client, index, gone)

            def pack(rows: list[int], gone: list[bytes] = gone, before: list[bytes] = [headers[i] for i in going]) -> list[bytes]:  # noqa: B006
                columns = [[resp.bulk(gone[i]) for i in rows], [resp.bulk(before[i]) for i in rows]]
                return resp.commands([b"EVALSHA", _sha(_DROP), b"1"], [*columns, *([resp.bulk(f)] * len(rows) for f in fields)])

            done = self._each(gone, pack, _DROP)
            self._note([index], [key for key, ok in zip(gone, done, strict=True) if not ok])
            dropped += sum(map(bool, done))
        return dropped

    def _note(self, indexes: Sequence[str], keys: Sequence[bytes]) -> None:
        try:
            for index in indexes:
                entity_index.note(self.client, index, keys)
        except entity_index.IndexFault as error:
            raise OnlineStoreError(str(error)) from None


def _sha(script: str) -> bytes:
    import hashlib

    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def watermark(client: redis.Redis, key: str) -> tuple[int, int]:
    """The last id of a Redis Stream, `(milliseconds, sequence)`; (0, 0) where there is none."""
    last: Any = client.xrevrange(key, count=1)
    return stream_id(last[0][0]) if last else (0, 0)


def stream_id(text: bytes | str) -> tuple[int, int]:
    """A stream entry's id as `(milliseconds, sequence)`."""
    ms, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(ms), int(seq or 0)


def noted_id(text: bytes | str) -> tuple[int, int] | None:
    """A stream id that somebody has noted down; None where something else lies there."""
    found = _STREAM_ID.fullmatch(text.decode(errors="replace") if isinstance(text, bytes) else text)
    return (int(found[1]), int(found[2])) if found and max(int(found[1]), int(found[2])) < 2**64 else None


def fields_of(blobs: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash of ours as text."""
    return {k.decode(errors="replace"): v.decode(errors="replace") for k, v in blobs.items()}
