"""What the online store says of itself: each view's state, and how far the live stream is behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import applied_kafka_key, applied_key, events_key, keys_key, view_key
from infra.redis_client import whole
from streaming.backfill.checkpoint import unfinished
from streaming.live import dead_letters
from streaming.live.event_log import elsewhere
from streaming.live.progress import newest_field
from streaming.online import entity_index
from streaming.online.entities import view_fields
from streaming.online.store import OnlineStore, fields_of, noted_id, stream_id
from streaming.schema.feature_view import View
from streaming.schema.types import FIRST_US, LAST_US

if TYPE_CHECKING:
    import redis

_SAMPLE = 200


@dataclass(frozen=True)
class ViewState:
    """
    Attributes:
        entities: that hold the view.
        rows: events read by its last full backfill.
        seam_us: what it was last backfilled to; None: never.
        newest_us: event time of the newest event applied, by backfill or stream.
        bytes: size of its fields in Redis, from a sample of its entities.
        failures: backfills that failed, ever; error: of the last one, if that failed.
        unfinished: `3 of 8` parts of a killed backfill, which the next one goes on with.
    """

    view: str
    entities: int
    rows: int
    seam_us: int | None
    newest_us: int | None
    bytes: int
    failures: int
    error: str
    unfinished: str


@dataclass(frozen=True)
class StreamState:
    """
    Attributes:
        events: applied so far.
        waiting: on the stream and not applied yet (counted up to 200,000).
        behind_s: how long the oldest of them has been waiting; 0 with none.
        rejected: events set aside (`headrace rejected`).
        wall_us: when the last batch was applied.
    """

    events: int
    waiting: int
    behind_s: float
    rejected: int
    wall_us: int | None


@dataclass(frozen=True)
class KafkaState:
    """
    Attributes:
        sources: push sources that are read from Kafka.
        events: applied so far.
        waiting: in Kafka and not applied yet, when the stream looked last.
        behind_s: how long before it looked the newest record that it has applied had been written; 0 with none waiting.
        looked_us: when that was; None: never.
    """

    sources: list[str]
    events: int
    waiting: int
    behind_s: float
    looked_us: int | None


def kafka_state(client: redis.Redis, project: str) -> KafkaState | None:
    """How far the stream has got with Kafka; None where it reads none."""
    said = fields_of(client.hgetall(applied_kafka_key(project)))  # type: ignore[arg-type]
    sources = elsewhere(client, project)
    if not said and not sources:
        return None
    waiting, looked, reached = whole(said.get("waiting")) or 0, _moment(said.get("looked_us")), whole(said.get("reached_ms")) or 0
    behind = max(0.0, looked / 1e6 - reached / 1e3) if waiting and reached and looked else 0.0
    return KafkaState(sources, whole(said.get("events")) or 0, waiting, behind, looked)


def view_states(client: redis.Redis, views: Sequence[View]) -> list[ViewState]:
    """A row per view, whether or not it has ever been materialized."""
    if not views:
        return []
    import redis

    live: dict[str, str] = {}
    with contextlib.suppress(redis.ResponseError):  # no hash: `stream_state` says it
        live = fields_of(client.hgetall(applied_key(views[0].project)))  # type: ignore[arg-type]
        live |= fields_of(client.hgetall(applied_kafka_key(views[0].project)))  # type: ignore[arg-type]
    found = []
    for view in views:
        try:
            found.append(_view_state(client, view, live))
        except redis.ResponseError as error:  # what is broken of one view costs that view's line
            why = f"what Redis keeps of it cannot be read ({view_key(view.project, view.name)}): {error}"
            found.append(ViewState(view.name, 0, 0, None, None, 0, 0, why, ""))
    return found


def _view_state(client: redis.Redis, view: View, live: dict[str, str]) -> ViewState:
    said = fields_of(client.hgetall(view_key(view.project, view.name)))  # type: ignore[arg-type]
    entities, broken = known_entities(client, view)
    newest = max(whole(said.get("newest_us")) or 0, whole(live.get(newest_field(view.name))) or 0)
    run = unfinished(client, view)
    return ViewState(
        view.name,
        entities,
        whole(said.get("rows")) or 0,
        _moment(said.get("seam_us")),
        _moment(str(newest)) if newest else None,
        size(client, view, entities),
        whole(said.get("failures")) or 0,
        said.get("error", "") or broken,
        f"{len(run.done)} of {run.buckets}" if run else "",
    )


def known_entities(client: redis.Redis, view: View) -> tuple[int, str]:
    """How many entities hold the view; and why that is not known, if so."""
    return entity_index.count(client, keys_key(view.project, view.name))


def size(client: redis.Redis, view: View, entities: int) -> int:
    """Bytes of a view's fields and values in Redis, extrapolated from a sample (without Redis' own overhead per entry)."""
    if not entities:
        return 0
    keys = entity_index.sample(client, keys_key(view.project, view.name), _SAMPLE)
    fields, store, total = view_fields(view), OnlineStore(client), 0
    for lane, places in store.lanes(keys):
        with lane.pipeline(transaction=False) as pipe:
            for i in places:
                for field in fields:
                    pipe.hstrlen(keys[i], field)  # type: ignore[arg-type]
            total += sum(pipe.execute()) + len(places) * sum(map(len, fields))
    return round(total / len(keys) * entities)


def stream_state(client: redis.Redis, project: str) -> StreamState:
    """How far the live stream has got."""
    said = fields_of(client.hgetall(applied_key(project)))  # type: ignore[arg-type]
    key, done = events_key(project), said.get("id", "0-0")
    done = done if noted_id(done) else "0-0"
    waiting, behind = 0, 0.0
    first: Any = client.xrange(key, f"({done}", "+", count=1)
    if first:
        behind = max(0.0, time.time() - stream_id(first[0][0])[0] / 1000)
        waiting = _count_after(client, key, done)
    wall = _moment(said.get("wall_us"))
    return StreamState(whole(said.get("events")) or 0, waiting, behind, dead_letters.count(client, project), wall)


def _moment(said: str | None) -> int | None:
    """A moment that Redis holds, as far as a calendar has it."""
    us = whole(said)
    return us if us is not None and FIRST_US <= us <= LAST_US else None


def _count_after(client: redis.Redis, key: str, after: str, most: int = 200_000) -> int:
    """Entries beyond an id, counted up to `most`: Redis has no other way than to read them."""
    total = 0
    while total < most:
        some: Any = client.xrange(key, f"({after}", "+", count=10_000)
        if not some:
            break
        total += len(some)
        after = some[-1][0].decode()
    return total
