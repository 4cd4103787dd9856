"""Poison in the real store: every event is applied or lies among the rejected, once, and what stands behind it is applied."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pyarrow as pa
import pytest

from feature_repo.records.redis_keys import events_key, set_aside_key, view_key
from streaming.aggregation import tiles
from streaming.aggregation.tiles import OtherDefinitionError, TileError, fingerprint
from streaming.live import dead_letters, event_log, sink
from streaming.live.event_log import SCHEMA
from streaming.live.share import Share
from streaming.live.sink import apply_batch
from streaming.online import feast_layout
from streaming.online.entities import key_function
from streaming.online.store import OnlineStore, OnlineStoreError, connect
from streaming.schema.feature_view import View
from tests.oracle.hostile import NOW_US, POISON, good, views

FIRST_MS = NOW_US // 1000 - 1_000_000


@pytest.fixture
def project() -> str:
    return f"h{uuid.uuid4().hex[:10]}"


@pytest.fixture
def client(redis_url: str, project: str) -> Any:
    made = connect(redis_url)
    yield made
    made.delete(events_key(project), set_aside_key(project))
    made.close()


def batch(rows: list[bytes], source: str = "things", first_ms: int = FIRST_MS) -> pa.Table:
    n = len(rows)
    return pa.table([[first_ms + i for i in range(n)], [0] * n, [source] * n, rows, [""] * n], schema=SCHEMA)


def encoded(number: int, **changes: Any) -> bytes:
    return json.dumps(good(number, at="2023-11-14T21:00:00Z", **changes)).encode()


def is_stored(client: Any, view: View, number: int) -> bool:
    row = good(number)
    values = [b"\x00\x01\x02" if k.dtype == "bytes" else 1_699_920_000 if k.dtype == "timestamp" else row[k.name] for k in view.keys]
    return bool(client.hexists(key_function(view)(values), feast_layout.tile_field(view.name)))


def counts(client: Any, view: View, number: int) -> float:
    """How many events the windowed view has of an entity."""
    from streaming.aggregation.finisher import Finisher

    assert view.layout is not None
    stored = client.hget(key_function(view)([number]), feast_layout.tile_field(view.name))
    return float(
        Finisher(view.layout)(stored, NOW_US)[
            view.layout.aggregations.index(next(a for a in view.layout.aggregations if a.name == "count_24h"))
        ]
    )


def apply_by(tasks: int, compiled: list[View], client: Any, rows: pa.Table) -> None:
    """Each task its share, and what follows when all have ended."""
    for task in range(tasks):
        apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US, share=Share(task, tasks))
    dead_letters.settle(client, compiled[0].project, (2**42, 0))


@pytest.mark.parametrize("tasks", [1, 2, 8])
def test_poison_is_rejected_once_and_everything_else_is_applied_once(client: Any, project: str, tasks: int) -> None:
    compiled, rows = views(project), []
    for number, poison in enumerate(POISON.values(), 1):
        rows += [encoded(number), poison, encoded(number)]
    for _ in range(2):  # as after a crash
        apply_by(tasks, compiled, client, batch(rows))
    letters = list(dead_letters.read(client, project))
    assert [one.data for one in letters] == list(POISON.values())
    assert all(one.why and all(one.why.values()) for one in letters)
    for number in range(1, len(POISON) + 1):
        assert is_stored(client, compiled[0], number)
        assert counts(client, compiled[1], number) >= 2, "poison to one view may be an event to the other"
    assert counts(client, compiled[1], 5) == 2


@pytest.mark.parametrize(("culprits", "tasks"), [([0], 1), ([7], 2), ([99], 8), ([3, 4, 50, 98], 1), ([3, 4, 50, 98], 8)])
def test_a_batch_that_fails_for_a_reason_nobody_thought_of_is_halved_to_the_culprits(
    client: Any, project: str, monkeypatch: pytest.MonkeyPatch, culprits: list[int], tasks: int
) -> None:
    apply = sink.apply

    def fails(view: View, store: OnlineStore, table: pa.Table, positions: Any) -> int:
        if {FIRST_MS + c for c in culprits} & {ms for ms, _ in positions}:
            raise ZeroDivisionError("nobody thought of it")
        return apply(view, store, table, positions)

    monkeypatch.setattr(sink, "apply", fails)
    compiled = views(project)
    apply_by(tasks, compiled, client, batch([encoded(i % 10) for i in range(100)]))
    letters = list(dead_letters.read(client, project))
    assert [one.position[0] - FIRST_MS for one in letters] == culprits
    assert all("ZeroDivisionError: nobody thought of it" in str(one.why) for one in letters)
    kept = [i for i in range(100) if i not in culprits]
    for number in range(10):
        assert counts(client, compiled[1], number) == sum(i % 10 == number for i in kept)


@pytest.mark.parametrize(
    "error", [OnlineStoreError("Redis was lost"), ConnectionError("away"), OSError(28, "No space left on device"), MemoryError()]
)
def test_an_outage_rejects_nothing_and_the_batch_is_tried_again(
    client: Any, project: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def away(*_: Any) -> int:
        raise error

    compiled, rows = views(project), batch([encoded(1), encoded(2)])
    with monkeypatch.context() as patch:
        patch.setattr(sink, "apply", away)
        with pytest.raises(type(error)):
            apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US)
    assert dead_letters.count(client, project) == 0
    apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US)
    assert counts(client, compiled[1], 1) == 1


def test_a_full_redis_is_an_outage(own_redis: Any, project: str) -> None:
    compiled = views(project)
    apply_batch(compiled, OnlineStore(own_redis), batch([encoded(1)]), now_us=NOW_US)
    own_redis.config_set("maxmemory", 1)
    with pytest.raises(OnlineStoreError, match="maxmemory"):
        apply_batch(compiled, OnlineStore(own_redis), batch([encoded(2), b"{", encoded(3)], first_ms=FIRST_MS + 10), now_us=NOW_US)
    own_redis.config_set("maxmemory", 0)
    assert dead_letters.count(own_redis, project) == 0
    apply_batch(compiled, OnlineStore(own_redis), batch([encoded(2), b"{", encoded(3)], first_ms=FIRST_MS + 10), now_us=NOW_US)
    assert dead_letters.count(own_redis, project) == 1
    assert [counts(own_redis, compiled[1], n) for n in (1, 2, 3)] == [1, 1, 1]


@pytest.fixture
def own_redis(tmp_path: Any) -> Any:
    from infra.settings import Settings
    from infra.supervision import process, redis_server

    own = Settings(state=tmp_path / "state", redis_url="")
    redis_server.up(own)
    made = connect(own.redis())
    yield made
    made.close()
    process.stop(own, redis_server.NAME)


def test_one_broken_entity_costs_its_own_events_only(client: Any, project: str) -> None:
    """A tile field that was cut, and a key under which something else lies."""
    compiled = views(project)
    windows, key = compiled[1], key_function(compiled[1])
    apply_batch(compiled, OnlineStore(client), batch([encoded(1), encoded(2), encoded(3), encoded(4)]), now_us=NOW_US)
    client.hset(key([1]), feast_layout.tile_field("windows"), b"H")
    whole = client.hget(key([2]), feast_layout.tile_field("windows"))
    client.hset(key([2]), feast_layout.tile_field("windows"), whole[:100])
    client.delete(key([3]))
    client.set(key([3]), b"something else")
    rows = batch([encoded(n) for n in (1, 2, 3, 4, 5)], first_ms=FIRST_MS + 10)
    apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US)
    letters = list(dead_letters.read(client, project))
    assert [one.position[0] - FIRST_MS - 9 for one in letters] == [1, 2, 3]
    assert all(set(one.why) == {"windows"} for one in letters)
    assert (counts(client, windows, 4), counts(client, windows, 5)) == (2, 1)


def test_a_view_of_another_definition_waits_for_its_backfill_and_one_entity_left_behind_does_not_stop_it(client: Any, project: str) -> None:
    compiled = views(project)
    windows = compiled[1]
    apply_batch(compiled, OnlineStore(client), batch([encoded(1)]), now_us=NOW_US)
    key, field = key_function(windows)([1]), feast_layout.tile_field("windows")
    stored = tiles.unseal(client.hget(key, field))
    client.hset(key, field, tiles.seal(stored[:4] + b"\x00\x00\x00\x00" + stored[8:]))
    rows = batch([encoded(1), encoded(2)], first_ms=FIRST_MS + 10)
    with pytest.raises(OtherDefinitionError, match="headrace backfill --view windows"):
        apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US)
    assert dead_letters.count(client, project) == 0
    client.hset(view_key(project, "windows"), "fingerprint", fingerprint(windows.layout))
    apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US)
    (letter,) = dead_letters.read(client, project)
    assert letter.position[0] == FIRST_MS + 10
    assert counts(client, windows, 2) == 1
    assert issubclass(OtherDefinitionError, TileError)


def test_what_is_set_aside_is_never_applied_besides(client: Any, project: str) -> None:
    """Not by a later try whose clock has moved on, nor by a backfill that reads the event stream, before or after it was put back."""
    compiled = views(project)
    windows = compiled[1]
    ahead = json.dumps(good(1, at="2023-11-14T22:30:00+00:00")).encode()
    client.xadd(events_key(project), {"source": "things", "data": ahead}, id="5-0")
    client.xadd(events_key(project), {"source": "things", "data": encoded(1)}, id="6-0")
    rows = batch([ahead, encoded(1)], first_ms=5)
    apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US)
    apply_batch(compiled, OnlineStore(client), rows, now_us=NOW_US * 2)
    (letter,) = dead_letters.read(client, project)
    assert (letter.position, set(letter.why)) == ((5, 0), {"latest", "windows"})
    assert counts(client, windows, 1) == 1

    def seen() -> int:
        return len(event_log.since(client, windows, 0, 300)((0, 0))[0])

    assert seen() == 1
    assert dead_letters.replay(client, project) == 1
    assert dead_letters.count(client, project) == 0
    assert seen() == 2, "once under its new id"


def test_letters_of_older_versions_are_read_and_put_back(client: Any, project: str) -> None:
    client.xadd(f"headrace:{{{project}}}:rejected", {"source": "things", "data": b"{}", "views": "windows", "why": "windows: no"}, id="7-1")
    (letter,) = dead_letters.read(client, project)
    assert (letter.position, letter.entry) == ((7, 1), "7-1")
    assert dead_letters.replay(client, project) == 1
    assert dead_letters.count(client, project) == 0


def test_a_refusal_found_later_than_a_younger_one_is_kept(client: Any, project: str) -> None:
    for ms in (9, 5, 9):
        dead_letters.put(client, project, [dead_letters.Rejected((ms, 0), "things", b"{}", {"windows": "no"})])
    assert sorted(one.position[0] for one in dead_letters.read(client, project)) == [5, 9]
