"""The online store as the engines write it: compare-and-set per entity, in Feast's layout plus our tile field, through plain redis-py."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streaming.tile import HEADER_SIZE

if TYPE_CHECKING:
    import redis

# KEYS[1] the entity; ARGV: tile field, expected header ('' for none), then field, value, ...
_SWAP = f"""
local now = redis.call('HGET', KEYS[1], ARGV[1])
if (now and string.sub(now, 1, {HEADER_SIZE}) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""


class OnlineStoreError(RuntimeError):
    """Redis cannot be reached or refused a write (full, read-only). Says what to do."""


def without_password(url: str) -> str:
    """The URL as it may travel to Spark's workers and into logs. They take the password from `HEADRACE_REDIS_PASSWORD`."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def connect(url: str, timeout_s: float = 10.0) -> redis.Redis:
    """A client of the online store. A URL without a password takes the one in `HEADRACE_REDIS_PASSWORD`, if set.

    Raises:
        OnlineStoreError: nothing answers there.
    """
    import redis

    password = None if "@" in url else os.environ.get("HEADRACE_REDIS_PASSWORD")
    secret = {"password": password} if password else {}
    client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=min(timeout_s, 5.0), **secret)
    try:
        client.ping()
    except redis.RedisError as error:
        raise OnlineStoreError(f"Redis does not answer ({error}); start it with `headrace up`, or set HEADRACE_REDIS_URL") from None
    return client


class OnlineStore:
    """Reads and conditional writes of one field per entity, pipelined.

    Args:
        client: a redis-py client (`decode_responses` off).
        chunk: entities per round trip.
    """

    def __init__(self, client: redis.Redis, chunk: int = 1000) -> None:
        self.client = client
        self.chunk = chunk
        self._swap = client.register_script(_SWAP)

    def read(self, keys: Sequence[bytes], field: bytes) -> list[bytes | None]:
        """One hash field of many entities; None where it is absent."""
        found: list[bytes | None] = []
        for some in _chunks(keys, self.chunk):
            with self.client.pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.hget(key, field)  # type: ignore[arg-type]
                found += pipe.execute()
        return found

    def swap(self, index: str, tile_field: bytes, writes: Sequence[tuple[bytes, bytes, Mapping[bytes, bytes]]]) -> list[bool]:
        """Write each entity's fields in one step, if its tile field's header still is what was read.

        Args:
            index: the view's set of entity keys (`keys_key`); new entities are added to it first.
            writes: `(entity key, expected header or b"", fields)`.

        Returns:
            For each write, whether it happened; False means another writer came first: read again, merge again.
        """
        import redis

        done: list[bool] = []
        self.client.script_load(_SWAP)
        for some in _chunks(writes, self.chunk):
            with self.client.pipeline(transaction=False) as pipe:
                new = [key for key, expected, _ in some if not expected]
                if new:
                    pipe.sadd(index, *new)
                for key, expected, fields in some:
                    flat: list[Any] = [tile_field, expected]
                    for field, value in fields.items():
                        flat += (field, value)
                    pipe.evalsha(self._swap.sha, 1, key, *flat)
                try:
                    done += [bool(r) for r in pipe.execute()[bool(new) :]]
                except redis.ResponseError as error:
                    raise OnlineStoreError(f"Redis refused a write: {error}") from None
        return done

    def put(self, index: str, writes: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        """Write each entity's fields unconditionally (a backfill: what it writes is the truth up to its end), and index the entities."""
        import redis

        for some in _chunks(writes, self.chunk):
            with self.client.pipeline(transaction=False) as pipe:
                pipe.sadd(index, *(key for key, _ in some))
                for key, fields in some:
                    pipe.hset(key, mapping=dict(fields))
                try:
                    pipe.execute()
                except redis.ResponseError as error:
                    raise OnlineStoreError(f"Redis refused a write: {error}") from None

    def replace_index(self, index: str, fresh: str, fields: Sequence[bytes]) -> int:
        """Make `fresh` the view's index; entities that were indexed before and no longer are lose the view's `fields`.

        Returns:
            Entities removed from the view.
        """
        stale = f"{index}:stale"
        count = int(self.client.sdiffstore(stale, [index, fresh]))  # type: ignore[arg-type]
        while keys := self.client.spop(stale, self.chunk):
            with self.client.pipeline(transaction=False) as pipe:
                for key in keys:  # type: ignore[union-attr]
                    pipe.hdel(key, *fields)  # type: ignore[arg-type]
                pipe.execute()
        if self.client.exists(fresh):
            self.client.rename(fresh, index)
        else:
            self.client.delete(index)
        return count


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def view_key(project: str, view: str) -> str:
    """The Redis hash with what is known of a view's materialization: `seam_us`, `rows`, `entities`, `at`."""
    return f"headrace:{project}:view:{view}"


def keys_key(project: str, view: str) -> str:
    """The Redis set of the entity keys that hold a view's fields."""
    return f"headrace:{project}:keys:{view}"


def events_key(project: str) -> str:
    """The Redis Stream of live events; each entry has `source` (a push source's name) and `data` (the row, JSON)."""
    return f"headrace:{project}:events"


def applied_key(project: str) -> str:
    """The Redis hash of the live stream's progress: `id` of the last entry applied, `wall_us`, `events`, `rejected`."""
    return f"headrace:{project}:applied"


def rejected_key(project: str) -> str:
    """The Redis Stream of events that do not fit their source's schema: the entry as it came, plus `why`."""
    return f"headrace:{project}:rejected"
