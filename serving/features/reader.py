"""The online reader: a feature service compiled to a plan, one HMGET per entity, every value with its status, age and high-water mark.

Reads Feast's Redis layout without Feast; windows are finished at the request's own now from the tiles (`streaming.aggregation.tiles`). Of a
latest-value view the packed row (`streaming.online.packed_row`) is read; the features' own fields only where somebody else wrote them.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis
import numpy as np
from numpy.typing import NDArray

from feature_repo.records.prediction import Mark
from serving.features.decoder import Answer, Entity, Part, broken, latest, loose, make_part, unknown, windowed
from serving.features.redis_connection import Connection, Pipelines, client
from serving.features.window_cache import WindowCache
from streaming.aggregation import tiles
from streaming.clock import TOLERANCE_S
from streaming.online import feast_layout
from streaming.online.resp import bulk
from streaming.schema.compilation import refuse_offline
from streaming.schema.feature_view import Projection, projections

if TYPE_CHECKING:
    from feast import FeatureStore


_BROKEN = (ValueError, IndexError, TypeError, ArithmeticError, struct.error)
"""What decoding bytes that nobody of ours wrote may raise."""
_TELL_S = 10.0
log = logging.getLogger(__name__)


class OnlineStoreUnavailable(RuntimeError):
    """Redis did not answer within the deadline, refused, or holds what this service cannot read. Maps to 503."""


@dataclass
class FeatureRows:
    """
    Attributes:
        values: float64 `[rows, features]`; NaN is null; a stale value is here as it is stored.
        statuses: uint8 `[rows, features]`, letters of `STATUSES` (`feature_repo.records.prediction`).
        ages: float64 `[rows, views]` seconds since the view's newest event; NaN where missing.
        marks: per row, by view alias.
        extras: per row, values of features that are no numbers, by `view:feature`.
    """

    values: NDArray[np.float64]
    statuses: NDArray[np.uint8]
    ages: NDArray[np.float64]
    marks: list[dict[str, Mark]]
    extras: list[dict[str, Any]]


def joined(some: Sequence[FeatureRows]) -> FeatureRows:
    """Rows of several reads by the same plan as one."""
    if len(some) == 1:
        return some[0]
    return FeatureRows(
        np.concatenate([rows.values for rows in some]),
        np.concatenate([rows.statuses for rows in some]),
        np.concatenate([rows.ages for rows in some]),
        [m for rows in some for m in rows.marks],
        [e for rows in some for e in rows.extras],
    )


class _Stranger(NamedTuple):
    """A row that must be read by its features' own fields."""

    key: bytes
    part: Part
    blob: bytes | None
    answer: Answer


class OnlineReader:
    """Reads a feature service's stored features.

    Args:
        cache_bytes: see `WindowCache`.
        ahead_s: how far ahead of the clock an event may be dated (`HEADRACE_CLOCK_TOLERANCE_S`): a row that is dated further ahead of a
            request's now is from its future, and counts as missing.

    Attributes:
        features: `view:feature`, the columns of `FeatureRows.values` (features that are no numbers are NaN there and stand in `extras`).
        views: aliases, the columns of `FeatureRows.ages`.
        view_of: per feature, its view's column there.
        broken: stored views of entities that could not be decoded, so far.
        windows: views with windows that a stream keeps live.
        join_keys: request column → dtype (`string`, `int64`, `int32`, `bytes`, `timestamp`).
    """

    def __init__(
        self, plan: Sequence[Projection], redis_url: str, timeout_s: float, cache_bytes: int = 0, ahead_s: float = TOLERANCE_S
    ) -> None:
        self._ahead_us = round(ahead_s * 1e6)
        self._cache = WindowCache(cache_bytes)
        self.broken, self._told = 0, -_TELL_S
        self.windows = list({p.view.name: p.view for p in plan if p.view.layout and p.view.stream}.values())
        self.url, self.timeout_s = redis_url, timeout_s
        self.features: list[str] = []
        self.views: list[str] = []
        self.view_of: list[int] = []
        self.join_keys: dict[str, str] = {}
        self._entities = self._compile(plan)
        # what an entity with a null key gets; depends on nothing
        self._unknown = [self._decode(entity, [None] * len(entity.fields), 0, []) for entity in self._entities]
        self._client: Connection | Pipelines = client(redis_url, timeout_s)

    @classmethod
    def open(cls, store: FeatureStore, service: str, redis_url: str, timeout_s: float, cache_bytes: int = 0) -> OnlineReader:
        """Compile the read plan of a feature service. No connection is made yet.

        Args:
            cache_bytes: see `WindowCache`.

        Raises:
            DefinitionError: the service is not applied, or declares what the reader does not carry.
        """
        plan = projections(store, service)
        refuse_offline(plan, f"feature service {service!r}")
        return cls(plan, redis_url, timeout_s, cache_bytes)

    def _compile(self, plan: Sequence[Projection]) -> list[Entity]:
        entities: dict[tuple[Any, ...], Entity] = {}
        grouped: dict[tuple[Any, ...], list[Projection]] = {}
        for projection in plan:
            view, columns = projection.view, projection.spine_keys
            identity = (view.project, view.keys, tuple(columns))
            if identity not in entities:
                encode = feast_layout.key_encoder(view.project, [(k.name, k.dtype) for k in view.keys])
                entities[identity] = Entity(columns, encode)
            grouped.setdefault(identity, []).append(projection)
            self.join_keys |= {c: k.dtype for c, k in zip(columns, view.keys, strict=True)}
        for identity, members in grouped.items():  # an entity's columns lie beside each other
            entity = entities[identity]
            for projection in members:
                part = make_part(projection, len(entity.parts), len(entity.fields), sum(p.width for p in entity.parts), self._ahead_us)
                entity.parts.append(part)
                entity.fields += part.fields
                self.features += [f"{projection.alias}:{n}" for n in projection.features]
                self.view_of += [len(self.views)] * part.width
                self.views.append(projection.alias)
            entity.head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(entity.fields))
            entity.tail = b"".join(map(bulk, entity.fields))
        return list(entities.values())

    async def read(self, instances: Sequence[dict[str, Any]], now_us: int, timeout_s: float | None = None) -> FeatureRows:
        """Read every instance's features in one round trip (two, where stock Feast wrote a view).

        Args:
            instances: entity keys by column; a key that is None is an unknown entity.
            now_us: the moment windows are finished at and ages are taken from, microseconds.
            timeout_s: deadline of this read; default: the reader's own.

        Raises:
            ValueError: a key that its type cannot hold.
            OnlineStoreUnavailable: within the deadline.
        """
        keys: dict[tuple[int, bytes], int] = {}
        lookup: list[list[int]] = []  # per instance and entity: which reply, -1 for a null key
        for instance in instances:
            found = []
            for number, entity in enumerate(self._entities):
                values = [instance.get(c) for c in entity.columns]
                if None in values:
                    found.append(-1)
                    continue
                try:
                    key = entity.encode(values)
                except (struct.error, ValueError) as error:
                    raise ValueError(f"{', '.join(entity.columns)}: {values!r} is no key ({error})") from None
                found.append(keys.setdefault((number, key), len(keys)))
            lookup.append(found)
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        asked = list(keys)
        replies = await self._fetch([(key, self._entities[number]) for number, key in asked], timeout_s)
        try:
            strangers: list[_Stranger] = []
            answers = [self._decode(self._entities[asked[i][0]], reply, now_us, strangers, asked[i][1]) for i, reply in enumerate(replies)]
            if strangers:
                await self._read_loose(strangers, now_us, timeout_s)
        except tiles.TileError as error:
            raise OnlineStoreUnavailable(str(error)) from None
        return self._assemble(lookup, answers)

    async def _fetch(self, wanted: Sequence[tuple[bytes, Entity]], timeout_s: float) -> list[Any]:
        if not wanted:
            return []
        own = self._client
        if isinstance(own, Connection):
            packed = b"".join([b"%b$%d\r\n%b\r\n%b" % (entity.head, len(key), key, entity.tail) for key, entity in wanted])
            with contextlib.suppress(_Cluster):
                return await self._said(own.send(packed, len(wanted), timeout_s), timeout_s)
            await self._to_cluster()
        return await self._ask([(b"HMGET", key, *entity.fields) for key, entity in wanted], timeout_s)

    async def _ask(self, commands: list[tuple[bytes, ...]], timeout_s: float) -> list[Any]:
        return await self._said(self._client.ask(commands, timeout_s), timeout_s)

    async def _to_cluster(self) -> None:
        """It is a cluster that answers: from now on by its map of the slots."""
        before, self._client = self._client, Pipelines(self.url, self.timeout_s, cluster=True)
        await before.close()

    async def _said(self, asked: Any, timeout_s: float) -> list[Any]:
        try:
            replies: list[Any] = await asked
        except TimeoutError:
            raise OnlineStoreUnavailable(f"the online store did not answer within {timeout_s * 1000:.0f} ms") from None
        except OSError as error:
            raise OnlineStoreUnavailable(f"the online store cannot be read: {error}") from error
        except Exception as error:  # redis-py's, which is imported only where it is used
            if not type(error).__module__.startswith("redis"):
                raise
            raise OnlineStoreUnavailable(f"the online store cannot be read: {type(error).__name__}") from error
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith("MOVED "):
                    raise _Cluster
                raise OnlineStoreUnavailable(f"the online store refuses: {str(reply)[:100]}")
        return replies

    async def _read_loose(self, strangers: Sequence[_Stranger], now_us: int, timeout_s: float) -> None:
        """Rows that are not packed, or were written by stock Feast since: from the features' own fields."""
        replies = await self._ask([(b"HMGET", s.key, *s.part.own_fields) for s in strangers], timeout_s)
        for stranger, reply in zip(strangers, replies, strict=True):
            try:
                loose(stranger.part, stranger.blob, reply, now_us, stranger.answer)
            except _BROKEN as error:  # Feast's own format has no checksum: what cannot be decoded is seen, no more
                unknown(stranger.part, stranger.answer)
                self._tell(stranger.key, stranger.part, error)

    def _decode(self, entity: Entity, reply: Sequence[bytes | None], now_us: int, strangers: list[_Stranger], key: bytes = b"") -> Answer:
        answer = Answer()
        for part in entity.parts:
            try:
                if part.finisher is not None:
                    windowed(part, part.finisher, None if part.lost else reply[part.first], now_us, answer, self._cache, key)
                elif not latest(part, reply, now_us, answer):
                    strangers.append(_Stranger(key, part, reply[part.first], answer))
            except tiles.OtherDefinitionError:
                raise
            except _BROKEN as error:
                broken(part, answer)
                self._tell(key, part, error)
        return answer

    def _tell(self, key: bytes, part: Part, error: Exception) -> None:
        """Name what is broken, though not more often than anyone reads it."""
        self.broken += 1
        if time.monotonic() - self._told > _TELL_S:
            self._told = time.monotonic()
            view = part.projection.view.name
            log.error(
                "feature view %r: what is stored of entity %r is broken and counts as missing (%s); %d so far. "
                "Run `headrace backfill --view %s`", view, key, error, self.broken, view
            )  # fmt: skip

    def _assemble(self, lookup: Sequence[Sequence[int]], answers: Sequence[Answer]) -> FeatureRows:
        n, unknown = len(lookup), self._unknown
        values: list[float] = []
        letters: list[bytes] = []
        ages: list[float] = []
        marks: list[dict[str, Mark]] = []
        extras: list[dict[str, Any]] = []
        for found in lookup:
            mine: list[Mark] = []
            other: dict[str, Any] = {}
            for number, which in enumerate(found):
                answer = answers[which] if which >= 0 else unknown[number]
                values += answer.values
                letters.append(answer.letters)
                ages += answer.ages
                mine += answer.marks
                if answer.extras:
                    other |= answer.extras
            marks.append(dict(zip(self.views, mine, strict=True)))
            extras.append(other)
        return FeatureRows(
            np.array(values).reshape(n, -1),
            np.frombuffer(b"".join(letters), dtype=np.uint8).reshape(n, -1),
            np.array(ages).reshape(n, -1),
            marks,
            extras,
        )

    def lose(self, names: Collection[str]) -> None:
        """From now on, what is stored of these views' windows counts as not there (`serving.features.lost_windows`); of all others as what it is."""
        for entity in self._entities:
            for part in entity.parts:
                part.lost = part.finisher is not None and part.projection.view.name in names

    async def ping(self) -> bool:
        """Whether the online store answers within the reader's deadline."""
        try:
            await self._ask([(b"PING",)], self.timeout_s)
        except (OnlineStoreUnavailable, _Cluster):
            return False
        return True

    async def close(self) -> None:
        await self._client.close()


class _Cluster(Exception):
    """A server of a cluster has answered that the key is not its own."""
