"""The online reader: a feature service compiled to a plan, one HMGET per entity, every value with its status, age and high-water mark.

Reads Feast's Redis layout without Feast; windows are finished at the request's own now from the tiles (`streaming.tile`).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.prediction import Mark
from streaming import layout, tile
from streaming.point_in_time import NEVER
from streaming.view import Projection, projections

if TYPE_CHECKING:
    from feast import FeatureStore

STATUSES = "fsnm"
"""fresh, stale, null, missing: `FeatureRows.statuses` holds indices into it."""
FRESH, STALE, NULL, MISSING = range(4)


class OnlineStoreUnavailable(RuntimeError):
    """Redis did not answer within the deadline, refused, or holds what this service cannot read. Maps to 503."""


@dataclass
class FeatureRows:
    """
    Attributes:
        values: float64 `[rows, features]`; NaN is null; a stale value is here as it is stored.
        statuses: uint8 `[rows, features]`, indices into `STATUSES`.
        ages: float64 `[rows, features]` seconds since the value's own event; NaN where missing.
        marks: per row, by view alias.
        extras: per row, values of features that are no numbers, by `view:feature`.
    """

    values: NDArray[np.float64]
    statuses: NDArray[np.uint8]
    ages: NDArray[np.float64]
    marks: list[dict[str, Mark]]
    extras: list[dict[str, Any]]


@dataclass(frozen=True)
class _Part:
    """What one projection contributes to an entity's reply: fields `[first, first + count)`, columns `place` onwards."""

    projection: Projection
    finisher: tile.Finisher | None
    fingerprint: int
    order: NDArray[np.intp]  # of the finisher's values, the requested ones
    first: int
    count: int
    place: int


@dataclass
class _Entity:
    """Projections that share their key columns: one Redis key, one HMGET."""

    columns: list[str]
    encode: Any
    fields: list[bytes]
    parts: list[_Part]


@dataclass
class _Answer:
    """One entity's decoded reply; `columns` are its features' places in the row."""

    columns: list[tuple[int, NDArray[np.float64], NDArray[np.uint8], float]]
    marks: dict[str, Mark]
    extras: dict[str, Any]


class OnlineReader:
    """Reads a feature service's stored features.

    Attributes:
        features: `view:feature`, the columns of `FeatureRows.values` (features that are no numbers are NaN there and stand in `extras`).
        join_keys: request column → dtype (`string`, `int64`, `int32`, `bytes`, `timestamp`).
    """

    def __init__(self, plan: Sequence[Projection], redis_url: str, timeout_s: float) -> None:
        self.url, self.timeout_s = redis_url, timeout_s
        self.features: list[str] = []
        self.join_keys: dict[str, str] = {}
        self._entities = self._compile(plan)
        # what an entity with a null key gets; depends on nothing
        self._unknown = [self._answer(entity, [None] * len(entity.fields), 0) for entity in self._entities]
        self._client: Any = None

    @classmethod
    def open(cls, store: FeatureStore, service: str, redis_url: str, timeout_s: float) -> OnlineReader:
        """Compile the read plan of a feature service. No connection is made yet.

        Raises:
            DefinitionError: the service is not applied, or declares what the reader does not carry.
        """
        return cls(projections(store, service), redis_url, timeout_s)

    def _compile(self, plan: Sequence[Projection]) -> list[_Entity]:
        entities: dict[tuple[Any, ...], _Entity] = {}
        for projection in plan:
            view, columns = projection.view, projection.spine_keys
            identity = (view.project, view.keys, tuple(columns))
            if identity not in entities:
                encode = layout.key_encoder(view.project, [(k.name, k.dtype) for k in view.keys])
                entities[identity] = _Entity(columns, encode, [], [])
            self.join_keys |= {c: k.dtype for c, k in zip(columns, view.keys, strict=True)}
            entity = entities[identity]
            wanted = [layout.tile_field(view.name)]
            names = [f.name for f in view.features]
            finisher = tile.Finisher(view.layout) if view.layout else None
            if finisher is None:
                wanted += [layout.timestamp_field(view.name), *(layout.field(view.name, n) for n in projection.features)]
            order = np.array([names.index(n) for n in projection.features], dtype=np.intp)
            entity.parts.append(
                _Part(projection, finisher, tile.fingerprint(view.layout), order, len(entity.fields), len(wanted), len(self.features))
            )
            entity.fields += wanted
            self.features += [f"{projection.alias}:{n}" for n in projection.features]
        return list(entities.values())

    def _redis(self, cluster: bool = False) -> Any:
        if self._client is None:
            import os

            import redis.asyncio

            password = None if "@" in self.url else os.environ.get("HEADRACE_REDIS_PASSWORD")
            secret = {"password": password} if password else {}
            kind = redis.asyncio.RedisCluster if cluster else redis.asyncio.Redis
            self._client = kind.from_url(self.url, socket_connect_timeout=self.timeout_s, **secret)  # type: ignore[arg-type]
        return self._client

    async def read(self, instances: Sequence[dict[str, Any]], now_us: int, timeout_s: float | None = None) -> FeatureRows:
        """Read every instance's features in one round trip.

        Args:
            instances: entity keys by column; a key that is None is an unknown entity.
            now_us: the moment windows are finished at and ages are taken from, microseconds.
            timeout_s: deadline of this read; default: the reader's own.

        Raises:
            OnlineStoreUnavailable: within the deadline.
        """
        keys: dict[tuple[int, bytes], int] = {}
        lookup: list[list[int]] = []  # per instance and entity: which reply, -1 for a null key
        for instance in instances:
            row = []
            for number, entity in enumerate(self._entities):
                values = [instance.get(c) for c in entity.columns]
                if any(v is None for v in values):
                    row.append(-1)
                    continue
                try:
                    key = entity.encode(values)
                except (struct.error, ValueError) as error:
                    raise ValueError(f"{', '.join(entity.columns)}: {values!r} is no key ({error})") from None
                row.append(keys.setdefault((number, key), len(keys)))
            lookup.append(row)
        replies = await self._fetch(list(keys), self.timeout_s if timeout_s is None else timeout_s)
        try:
            answers = [self._answer(self._entities[number], reply, now_us) for (number, _), reply in zip(keys, replies, strict=True)]
        except tile.TileError as error:
            raise OnlineStoreUnavailable(str(error)) from None
        return self._assemble(lookup, answers, self._unknown)

    async def _fetch(self, keys: Sequence[tuple[int, bytes]], timeout_s: float) -> list[list[bytes | None]]:
        import redis

        if not keys:
            return []
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._pipelined(self._redis(), keys)
                except redis.ResponseError as error:
                    if not str(error).startswith("MOVED") and not isinstance(error, redis.exceptions.MovedError):
                        raise
                # it is a cluster that answers: from now on by its map of the slots
                await self.close()
                return await self._pipelined(self._redis(cluster=True), keys)
        except TimeoutError:
            raise OnlineStoreUnavailable(f"the online store did not answer within {timeout_s * 1000:.0f} ms") from None
        except (redis.RedisError, OSError) as error:
            raise OnlineStoreUnavailable(f"the online store cannot be read: {type(error).__name__}") from error

    async def _pipelined(self, client: Any, keys: Sequence[tuple[int, bytes]]) -> list[list[bytes | None]]:
        pipe = client.pipeline(transaction=False)
        for number, key in keys:
            pipe.hmget(key, self._entities[number].fields)
        found: list[list[bytes | None]] = await pipe.execute()
        return found

    def _answer(self, entity: _Entity, reply: Sequence[bytes | None], now_us: int) -> _Answer:
        answer = _Answer([], {}, {})
        for part in entity.parts:
            some = reply[part.first : part.first + part.count]
            if part.finisher:
                self._windowed(part, part.finisher, some[0], now_us, answer)
            else:
                self._latest(part, some, now_us, answer)
        return answer

    def _windowed(self, part: _Part, finisher: tile.Finisher, blob: bytes | None, now_us: int, answer: _Answer) -> None:
        count = len(part.order)
        if blob is None:
            # an entity without events has empty windows, as the join says; that nothing is known of it is in the status
            answer.columns.append((part.place, finisher.empty[part.order], np.full(count, MISSING, np.uint8), np.nan))
            answer.marks[part.projection.alias] = Mark(None, 0, None)
            return
        header, tiles = tile.decode(blob, finisher.levels, part.fingerprint)
        if now_us < header.event_us - finisher.levels[0].hop_us:
            # asked for a moment the store has moved on from: the tiles that far back are gone, and an empty window would be a guess
            values, statuses = np.full(count, np.nan), np.full(count, MISSING, np.uint8)
        else:
            values = finisher(tiles, now_us)[part.order]
            statuses = np.where(np.isnan(values), NULL, FRESH).astype(np.uint8)
        answer.columns.append((part.place, values, statuses, (now_us - header.mark_us) / 1e6))
        answer.marks[part.projection.alias] = Mark(header.mark_us, header.ties, None)

    def _latest(self, part: _Part, some: Sequence[bytes | None], now_us: int, answer: _Answer) -> None:
        view, alias = part.projection.view, part.projection.alias
        count = len(part.order)
        values, statuses = np.full(count, np.nan), np.full(count, MISSING, np.uint8)
        event_us = layout.decode_timestamp(some[1])
        if event_us is None:
            answer.columns.append((part.place, values, statuses, np.nan))
            answer.marks[alias] = Mark(None, 0, None)
            return
        age_us = now_us - event_us
        present = STALE if view.ttl_us and age_us > view.ttl_us else FRESH
        for i, name in enumerate(part.projection.features):
            value = layout.decode_value(some[2 + i])
            statuses[i] = NULL if value is None else present
            if isinstance(value, bool | int | float):
                values[i] = value
            elif value is not None:
                answer.extras[f"{alias}:{name}"] = value
        header = tile.read_header(some[0]) if some[0] else None
        # written by stock Feast: there is no header, and what is known is the row's own time
        known = header.mark_us if header and header.mark_us > NEVER else event_us
        answer.columns.append((part.place, values, statuses, age_us / 1e6))
        answer.marks[alias] = Mark(known, header.ties if header else 1, event_us)

    def _assemble(self, lookup: Sequence[Sequence[int]], answers: Sequence[_Answer], unknown: Sequence[_Answer]) -> FeatureRows:
        n, f = len(lookup), len(self.features)
        rows = FeatureRows(np.empty((n, f)), np.empty((n, f), np.uint8), np.empty((n, f)), [], [])
        for i, found in enumerate(lookup):
            marks: dict[str, Mark] = {}
            extras: dict[str, Any] = {}
            for number, which in enumerate(found):
                answer = answers[which] if which >= 0 else unknown[number]
                for place, values, statuses, age in answer.columns:
                    span = slice(place, place + len(values))
                    rows.values[i, span], rows.statuses[i, span], rows.ages[i, span] = values, statuses, age
                marks |= answer.marks
                extras |= answer.extras
            rows.marks.append(marks)
            rows.extras.append(extras)
        return rows

    async def ping(self) -> bool:
        """Whether the online store answers within the reader's deadline."""
        import redis

        try:
            async with asyncio.timeout(self.timeout_s):
                return bool(await self._redis().ping())
        except (TimeoutError, redis.RedisError, OSError):
            return False

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
