"""Why Redis did not do what it was asked, in one line for the caller: the true cause, and never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from infra.redis_client import misplaced, says


async def refusal_of(client: Any, error: BaseException, kinds: Mapping[str, str]) -> str:
    """What to say after the name of the store: that it does not answer, or what it refuses, and which key is to be looked at.

    Args:
        client: `redis.asyncio`.
        error: what it raised.
        kinds: the keys that were used → their type, as Redis calls it.
    """
    said = says(error)
    if "WRONGTYPE" in said:
        with suppress(RedisError, OSError, TimeoutError):
            return f"refuses: {misplaced(kinds, [await client.type(key) for key in kinds]) or said.partition(': ')[2]}"
    return said
