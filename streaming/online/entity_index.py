"""Which entities hold a view: Redis sets of their keys, spread over a cluster's slots.

An index has a name (`keys_key`); its sets are the name with `:0` to `:f` inside the braces. A key is in the set that its checksum says. A
set of the bare name is of a version before, when there was one alone: it counts as another one of them until a backfill takes it over.
"""

from __future__ import annotations

import contextlib
import logging
import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

PARTS = 16
_CHUNK = 1000
log = logging.getLogger(__name__)


class IndexFault(RuntimeError):
    """Redis refuses what an index is asked; the message names the set."""


def parts(index: str) -> list[str]:
    """The sets of an index; one number's are on one server, whatever the index of a project."""
    head, _, tail = index.partition("}")
    return [f"{head}:{i:x}}}{tail}" for i in range(PARTS)]


def _place(key: bytes) -> int:
    return zlib.crc32(key) % PARTS


def note(client: redis.Redis, index: str, keys: Sequence[bytes]) -> None:
    """Put keys into an index. If something that is no set lies in a set's place, it is put aside and the set begins anew: no event is lost
    for that.

    Raises:
        IndexFault: Redis refuses (full, read-only).
    """
    import redis

    names = parts(index)
    for start in range(0, len(keys), _CHUNK):
        some: dict[int, list[bytes]] = defaultdict(list)
        for key in keys[start : start + _CHUNK]:
            some[_place(key)].append(key)
        for tried in range(2):
            with client.pipeline(transaction=False) as pipe:
                for place, members in some.items():
                    pipe.sadd(names[place], *members)
                replies: list[Any] = pipe.execute(raise_on_error=False)
            refused = {place: reply for place, reply in zip(some, replies, strict=True) if isinstance(reply, Exception)}
            if not refused:
                break
            for place, why in refused.items():
                if tried or not isinstance(why, redis.ResponseError):
                    raise why
                if not str(why).startswith("WRONGTYPE"):
                    raise IndexFault(f"Redis refused a write to {names[place]}: {why}")
                _put_aside(client, names[place])
            some = {place: some[place] for place in refused}


def _put_aside(client: redis.Redis, name: str) -> None:
    import redis

    aside = f"{name}:broken"
    with contextlib.suppress(redis.ResponseError):  # another writer did
        client.rename(name, aside)
    log.warning(
        "%s is no set of entities: it lies in %s now. The view goes on; entities that nobody writes again are not in the new one "
        "(a backfill of the view puts in all that the tables know)",
        name,
        aside,
    )


def forget(client: redis.Redis, index: str, keys: Sequence[bytes]) -> None:
    """Take keys out of an index."""
    names = parts(index)
    some: dict[str, list[bytes]] = defaultdict(list)
    for key in keys:
        some[names[_place(key)]].append(key)
    with client.pipeline(transaction=False) as pipe:
        for name, members in some.items():
            pipe.srem(name, *members)
        if keys:
            pipe.srem(index, *keys)
        pipe.execute()


def members(client: redis.Redis, index: str, but: str | None = None) -> Iterator[list[bytes]]:
    """The keys of an index in chunks, without those that are in the index `but`. If something that is no set lies there, it has no members.

    Raises:
        IndexFault: `but` is no index.
    """
    import redis

    for name, other in zip([*parts(index), index], [*parts(but), but] if but else [None] * (PARTS + 1), strict=True):
        seen: list[bytes] = []
        try:
            for key in client.sscan_iter(name, count=_CHUNK):
                seen.append(key)
                if len(seen) >= _CHUNK:
                    yield _without(client, seen, other, but)
                    seen = []
        except redis.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            log.warning("%s is no set of entities: its members are not known (the view's next write puts it aside)", name)
        if seen:
            yield _without(client, seen, other, but)


def _without(client: redis.Redis, keys: list[bytes], other: str | None, but: str | None) -> list[bytes]:
    """Args: other: the set of `but` that the keys would be in; `but` itself where they come from a version before."""
    import redis

    if other is None or but is None:
        return keys
    try:
        if other == but:
            names = parts(but)
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.sismember(names[_place(key)], key)  # type: ignore[arg-type]
                inside: Any = pipe.execute()
        else:
            inside = client.smismember(other, keys)
    except redis.ResponseError as error:
        raise IndexFault(f"{other} cannot be read: {error}") from None
    return [key for key, there in zip(keys, inside, strict=True) if not there]


def count(client: redis.Redis, index: str) -> tuple[int, str]:
    """How many keys an index holds; and why that is not known, if so."""
    names = [*parts(index), index]
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.scard(name)
        found: list[Any] = pipe.execute(raise_on_error=False)
    if isinstance(found[-1], Exception):
        found[-1] = 0  # something else lies where versions before had their set
    for name, reply in zip(names, found, strict=True):
        if isinstance(reply, Exception):
            if not str(reply).startswith("WRONGTYPE"):
                raise reply
            return 0, f"{name} is no set of entities: {reply}"
    return sum(found), ""


def sample(client: redis.Redis, index: str, most: int) -> list[bytes]:
    """Some keys of an index, at most `most`, drawn from all of its sets alike."""
    with client.pipeline(transaction=False) as pipe:
        for name in [*parts(index), index]:
            pipe.srandmember(name, most)
        found = [key for some in pipe.execute() for key in some]
    return random.sample(found, min(most, len(found)))


def whole(client: redis.Redis, index: str) -> bool:
    """Whether something is in an index, and every set of it is one or not there."""
    kinds: set[Any] = {client.type(name) for name in parts(index)}
    return b"set" in kinds and kinds <= {b"set", b"none"}


def delete(client: redis.Redis, index: str) -> None:
    """Delete all sets of an index."""
    with client.pipeline(transaction=False) as pipe:
        for name in [*parts(index), index]:
            pipe.delete(name)
        pipe.execute()


def expire(client: redis.Redis, index: str, seconds: int) -> None:
    """Let all sets of an index go in so many seconds."""
    with client.pipeline(transaction=False) as pipe:
        for name in parts(index):
            pipe.expire(name, seconds)
        pipe.execute()


def take_over(client: redis.Redis, index: str) -> None:
    """Put the keys of a version before, which had one set alone, where they belong."""
    while client.type(index) == b"set":
        _, some = client.sscan(index, count=_CHUNK)  # type: ignore[misc]
        if some:
            note(client, index, some)
            client.srem(index, *some)
