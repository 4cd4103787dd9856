"""Feast's feature-server protocol: what Feast's `remote` online store and its HTTP clients speak, over our reader and our stream.

Source: `feast/feature_server.py` and `feast/infra/online_stores/remote.py` of Feast 0.67. Values are finished at the server's own now;
a value past its view's ttl says `OUTSIDE_MAX_AGE`, an entity nothing is known of `NOT_FOUND` (stock Feast says `PRESENT` for both).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from redis.exceptions import RedisError

from feature_repo.records.redis_keys import events_key, kafka_key
from feature_repo.registry.definitions import DefinitionError
from feature_repo.registry.followed import Followed
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from infra.timestamps import whole_seconds
from serving.features.on_demand import OnDemand, OnDemandError
from serving.features.reader import FeatureRows, OnlineReader, OnlineStoreUnavailable
from serving.protocol.body import check_values, read_json
from serving.protocol.limits import Limits
from serving.protocol.problem import FieldError, Invalid, NotFound, TooLarge, Unavailable
from serving.protocol.refusal import refusal_of
from serving.protocol.request import moment, shown
from streaming.clock import wall_us
from streaming.join.on_demand import Transformation, serveable, transformations
from streaming.live import events
from streaming.schema.compilation import usable
from streaming.schema.feature_view import Projection, View, projections
from streaming.schema.json_row import encode

log = logging.getLogger(__name__)
STATUS = {"f": "PRESENT", "s": "OUTSIDE_MAX_AGE", "n": "NULL_VALUE", "m": "NOT_FOUND"}
_COLUMNS = 1000
"""Columns of a request."""
COMPUTE_S = 5.0
"""On-demand views of one answer may take so long."""
_PLANS = 32
"""Plans kept; a plan is made of a feature service or of a list of features."""


class GetOnlineFeatures(msgspec.Struct):
    entities: dict[str, list[Any]]
    feature_service: str | None = None
    features: list[str] = []
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


class Push(msgspec.Struct):
    push_source_name: str
    df: dict[str, list[Any]]
    to: Literal["online", "offline", "online_and_offline"] = "online"
    allow_registry_cache: bool = True
    transform_on_write: bool = True


class FeatureServer:
    """
    Args:
        client: a `redis.asyncio` client, for pushes.
        clock: what a pushed row may not be dated ahead of, microseconds since the epoch.
        counts: see `OnDemand`.
        before: is given a plan's reader before it reads.
    """

    def __init__(
        self,
        settings: Settings,
        client: Any,
        clock: Callable[[], int] = wall_us,
        counts: Counter[tuple[str, str]] | None = None,
        before: Callable[[OnlineReader], Awaitable[None]] | None = None,
    ) -> None:
        self._settings, self._redis, self._clock, self._counts, self._before = settings, client, clock, counts, before
        self._limits = Limits.of(settings)
        self._registry = Followed(UseCase(settings.repo))
        self._plans: OrderedDict[tuple[str, ...], tuple[OnlineReader, OnDemand]] = OrderedDict()
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def readers(self) -> list[OnlineReader]:
        """Those of the plans that are kept."""
        return [reader for reader, _ in self._plans.values()]

    async def get_online_features(self, body: bytes, now_us: int) -> dict[str, Any]:
        """Feast's answer: per feature a column of values, statuses and event timestamps.

        Raises:
            Malformed, Invalid: the body is not such a request, or names features or entities that there are not.
            Unavailable: the online store did not answer.
            Late: an on-demand view was not ready within `COMPUTE_S`.
        """
        asked: GetOnlineFeatures = read_json(body, GetOnlineFeatures)
        if bool(asked.feature_service) == bool(asked.features):
            raise Invalid(
                "Give either `feature_service` or `features`.", [FieldError("or `feature_service` must be given", field="features")]
            )
        if len(set(asked.features)) < len(asked.features):
            raise Invalid("`features` names a feature twice.", [FieldError("must be given once", field="features")])
        reader, on_demand = await self._compiled(asked)
        missing = [key for key in (*reader.join_keys, *on_demand.fields) if key not in asked.entities]
        if missing:
            raise Invalid(f"`entities` lacks {', '.join(missing)}.", [FieldError("is missing", field=f"entities.{k}") for k in missing])
        lengths = {len(column) for column in asked.entities.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise Invalid(
                "`entities` must be columns of the same length, at least one row.", [FieldError("is empty or ragged", field="entities")]
            )
        rows = lengths.pop()
        self._admit(asked.entities, rows, "entities")
        keys = {name: [key_of(v, dtype, name, i) for i, v in enumerate(asked.entities[name])] for name, dtype in reader.join_keys.items()}
        instances = [{name: column[i] for name, column in keys.items()} for i in range(rows)]
        try:
            found = await reader.read(instances, now_us)
        except ValueError as error:
            raise Invalid(f"{error}.", [FieldError(str(error), field="entities")]) from None
        except OnlineStoreUnavailable as error:
            raise Unavailable(f"{error}.") from None
        names, results = [*asked.entities], []
        for column in asked.entities.values():
            results.append({"values": column, "statuses": ["PRESENT"] * rows, "event_timestamps": [_moment(now_us)] * rows})
        for place, feature in enumerate(reader.features):
            alias, _, name = feature.partition(":")
            names.append(f"{alias}__{name}" if asked.full_feature_names else name)
            letters = found.statuses[:, place].tobytes().decode()
            numbers, ages = found.values[:, place].tolist(), found.ages[:, reader.view_of[place]].tolist()
            values = [found.extras[i].get(feature, None if v != v else v) for i, v in enumerate(numbers)]
            results.append(
                {
                    "values": [_plain(v) for v in values],
                    "statuses": [STATUS[letter] for letter in letters],
                    "event_timestamps": [_moment(0 if a != a else round(now_us - a * 1e6)) for a in ages],
                }
            )
        keys = {key: [instance[key] for instance in instances] for key in reader.join_keys}
        for feature, computed in (await self._computed(asked, on_demand, found, keys)).items():
            alias, _, name = feature.partition(":")
            names.append(f"{alias}__{name}" if asked.full_feature_names else name)
            stamps = [_moment(now_us)] * rows
            results.append({"values": [_plain(v) for v in computed], "statuses": ["PRESENT"] * rows, "event_timestamps": stamps})
        return {"metadata": {"feature_names": names}, "results": results}

    def _admit(self, columns: dict[str, list[Any]], rows: int, what: str) -> None:
        if rows > self._limits.rows:
            raise TooLarge(f"{rows} {what} in one request; at most {self._limits.rows} are taken: split it.")
        if len(columns) > _COLUMNS:
            raise TooLarge(f"{len(columns)} columns in one request; at most {_COLUMNS} are taken.")
        check_values([*columns.items()], self._limits)

    async def _computed(
        self, asked: GetOnlineFeatures, on_demand: OnDemand, found: FeatureRows, keys: dict[str, list[Any]]
    ) -> dict[str, list[Any]]:
        request = {f: [_field(v, on_demand.types[f], f) for v in asked.entities[f]] for f in on_demand.fields}
        try:
            return await on_demand.answer(request | keys, found, COMPUTE_S)
        except OnDemandError as error:
            raise Invalid(f"{error}.", [FieldError(str(error), error.row)]) from error

    async def _compiled(self, asked: GetOnlineFeatures) -> tuple[OnlineReader, OnDemand]:
        identity = (asked.feature_service,) if asked.feature_service else ("", *asked.features)
        async with self._lock:
            await self._follow()
            if identity not in self._plans:
                plan, views = await asyncio.to_thread(self._plan, asked)
                reader = OnlineReader(
                    plan, self._settings.redis(), self._settings.redis_timeout_s, ahead_s=self._settings.clock_tolerance_s
                )
                if self._before is not None:
                    await self._before(reader)
                self._plans[identity] = reader, OnDemand(views, reader.features, self._counts)
                while len(self._plans) > _PLANS:
                    _, (oldest, computing) = self._plans.popitem(last=False)
                    computing.close()
                    await oldest.close()
            self._plans.move_to_end(identity)
            return self._plans[identity]

    async def _follow(self) -> None:
        """What was compiled before an `apply` is let go of, within a second of it. A registry that cannot be read changes nothing."""
        if not self._registry.due or not await asyncio.to_thread(self._registry.changed):
            return
        before = list(self._plans.values())
        self._plans.clear()
        for plan in before:  # a request may still be waiting for its answer
            task = asyncio.create_task(_close_later(*plan, 2 * self._settings.redis_timeout_s + COMPUTE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _plan(self, asked: GetOnlineFeatures) -> tuple[list[Projection], list[Transformation]]:
        try:
            if asked.feature_service:
                plan = projections(self._registry.case.store, asked.feature_service)
                on_demand = transformations(self._registry.case.store, asked.feature_service, plan)
                serveable(on_demand)
                return plan, on_demand
            known, _ = usable(self._registry.case.store)
        except (DefinitionError, OnDemandError) as error:
            raise NotFound(f"{error}.") from None
        wanted: dict[str, list[str]] = {}
        for feature in asked.features:
            view, _, name = feature.partition(":")
            if view not in known or name not in {f.name for f in known[view].features}:
                raise NotFound(f"There is no feature {shown(feature)}; give `view:feature`. Views: {', '.join(known)}.")
            wanted.setdefault(view, []).append(name)
        return [Projection(known[view], view, tuple(names), ()) for view, names in wanted.items()], []

    async def push(self, body: bytes) -> int:
        """Put rows on the live stream, which applies them exactly once; their number.

        Raises:
            Malformed, Invalid: the body is no push, or a row does not fit its source; nothing is pushed then.
            NotFound: no view is fed by such a source.
            Unavailable: the stream cannot be written.
        """
        asked: Push = read_json(body, Push)
        if asked.to != "online":
            raise Invalid(
                "Only `to: online` is taken: the offline store is written by `headrace ingest`.",
                [FieldError("must be 'online'", field="to")],
            )
        async with self._lock:
            await self._follow()
        known, _ = await asyncio.to_thread(usable, self._registry.case.store)
        fed = [v for v in known.values() if v.stream == asked.push_source_name]
        if not fed:
            sources = ", ".join(sorted({v.stream for v in known.values() if v.stream})) or "none"
            raise NotFound(f"No feature view is fed by a push source named {shown(asked.push_source_name)}; there is: {sources}.")
        lengths = {len(column) for column in asked.df.values()}
        if len(lengths) != 1:
            raise Invalid("`df` must be columns of the same length.", [FieldError("is empty or ragged", field="df")])
        self._admit(asked.df, lengths.pop(), "events")
        rows = [_row(place, dict(zip(asked.df, values, strict=True))) for place, values in enumerate(zip(*asked.df.values(), strict=True))]
        _check(fed, rows, self._clock() + round(self._settings.clock_tolerance_s * 1e6))
        key = events_key(self._registry.case.project)
        await self._refuse_of_kafka(asked.push_source_name)
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for row in rows:
                    pipeline.xadd(key, {"source": asked.push_source_name, "data": row})
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            why = await refusal_of(self._redis, error, {key: "stream"})
            raise Unavailable(f"The stream of events does not take them: the online store {why}. Push them again.") from None
        return len(rows)

    async def _refuse_of_kafka(self, source: str) -> None:
        """A push source is read from one place: what is pushed beside it would be rejected by the stream."""
        try:
            said = await self._redis.hget(kafka_key(self._registry.case.project), "sources")
        except (RedisError, OSError, TimeoutError):
            return  # the write says it
        if said and source in said.decode(errors="replace").split(","):
            raise Invalid(
                f"Push source {shown(source)} is read from Kafka: send its events to the topic.",
                [FieldError("is read from Kafka", field="push_source_name")],
            )

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        for reader, on_demand in self._plans.values():
            on_demand.close()
            await reader.close()


async def _close_later(reader: OnlineReader, on_demand: OnDemand, grace_s: float) -> None:
    await asyncio.sleep(grace_s)
    on_demand.close()
    await reader.close()


def _row(place: int, row: dict[str, Any]) -> bytes:
    try:
        return encode(row)
    except (OverflowError, RecursionError) as error:
        why = "a number is beyond 64 bits" if isinstance(error, OverflowError) else "it is nested too deep"
        raise Invalid(f"row {place}: {why}.", [FieldError(why, place)]) from None


def _check(fed: list[View], rows: list[bytes], latest_us: int) -> None:
    """Every row must fit every view that its source feeds."""
    for view in fed:
        _, _, bad = events.decode(view, rows, list(range(len(rows))), [latest_us] * len(rows))
        if bad:
            faults = [FieldError(b.why, b.row) for b in bad]
            raise Invalid(f"row {bad[0].row}, feature view {view.name!r}: {bad[0].why}.", faults)


_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_INTEGERS = {"int32": 2**31, "int64": 2**63}


def key_of(value: Any, dtype: str, name: str, row: int) -> Any:
    """A join key as its type wants it. Clients send whole numbers as text, or as floats where their column has nulls; texts as numbers.

    Raises:
        Invalid: it would be another key than the one that was sent.
    """
    if value is None:
        return None
    found: Any = None
    if dtype in _INTEGERS:
        if (isinstance(value, float) and value.is_integer() and abs(value) <= 2**53) or (
            isinstance(value, str) and _WHOLE.fullmatch(value)
        ):
            found = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            found = value
        if found is not None and not -_INTEGERS[dtype] <= found < _INTEGERS[dtype]:
            found = None
    elif dtype == "timestamp":
        with contextlib.suppress(ValueError):
            found = moment(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    elif isinstance(value, str | int) and not isinstance(value, bool):
        found = str(value).encode("utf-8") if dtype == "bytes" else str(value)
    if found is None:
        fault = FieldError(f"must be {dtype}", row, f"entities.{name}")
        raise Invalid(f"row {row}, entities.{name}: {shown(value)} is no {dtype}.", [fault])
    return found


def _field(value: Any, dtype: str, name: str) -> Any:
    """A request field as a transformation wants it."""
    if value is None or dtype != "timestamp":
        return value
    try:
        return moment(value)
    except (TypeError, ValueError) as error:
        raise Invalid(f"{name}: {error}.", [FieldError(str(error), field=f"entities.{name}")]) from None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return whole_seconds(value)
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value) if type(value).__name__ in ("Decimal", "UUID") else value


_LAST_US = 253_402_300_799_000_000
"""9999-12-31T23:59:59Z."""


def _moment(us: int) -> str:
    return datetime.fromtimestamp(min(max(us, -_LAST_US // 5), _LAST_US) / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
