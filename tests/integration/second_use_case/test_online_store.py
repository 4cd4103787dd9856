"""Backfilled, streamed and read: what lies in the online store is what the oracle says, as time passes."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import numpy as np
import pytest

from feature_repo.records.redis_keys import applied_key, events_key, keys_key, rejected_key
from serving.features.decoder import MISSING, STALE
from serving.features.reader import OnlineReader, OnlineStoreUnavailable
from streaming.aggregation.windows import HOUR, MINUTE
from streaming.backfill.run import backfill
from streaming.online import entity_index, feast_layout
from streaming.online.store import connect
from streaming.schema.types import FIRST_US
from tests.bikes.feed import push, wait_applied
from tests.bikes.oracle import check_online, entities, read
from tests.bikes.platform import SEAM_US, Bikes
from tests.indexed import indexed


@pytest.mark.parametrize("later", [0, 7 * MINUTE, 3 * HOUR, 30 * HOUR])
def test_a_backfill_read_back_equals_the_oracle_as_time_passes(bikes: Bikes, later: int) -> None:
    bikes.backfill()
    check_online(bikes, SEAM_US, SEAM_US + later)


def test_a_second_backfill_changes_nothing(bikes: Bikes) -> None:
    def dump() -> dict[bytes, Any]:
        client = connect(bikes.settings.redis())
        keys = {k for v in bikes.views for k in indexed(client, keys_key("bikes", v))}
        return {k: client.hgetall(k) for k in keys}

    bikes.backfill()
    before = dump()
    bikes.backfill()
    assert dump() == before
    assert len(before) > 10


def test_an_entity_the_backfill_does_not_find_loses_the_view_and_nothing_else(bikes: Bikes) -> None:
    client = connect(bikes.settings.redis())
    bikes.backfill()
    view = bikes.views["dock"]
    key = feast_layout.key_encoder("bikes", [("station", "int64")])([424242])
    client.hset(key, mapping={feast_layout.tile_field("dock"): b"H1", feast_layout.timestamp_field("dock"): b"", b"_hr:other": b"kept"})
    entity_index.note(client, keys_key("bikes", view.name), [key])
    bikes.backfill()
    assert client.hgetall(key) == {b"_hr:other": b"kept"}
    client.delete(key)


def test_backfill_then_stream_equals_the_oracle_across_the_seam_and_after_a_replayed_stream(bikes: Bikes, streaming: Any) -> None:
    query = streaming()
    for part in range(3):
        end = SEAM_US + (part + 1) * 2 * HOUR
        wait_applied(bikes, query, push(bikes, end - 2 * HOUR, end))
        check_online(bikes, end, end)
    # the checkpoint is lost, and every event comes again: each entity passes over what it has had
    end = SEAM_US + 6 * HOUR
    connect(bikes.settings.redis()).delete(applied_key("bikes"))
    query = streaming(fresh=True)
    wait_applied(bikes, query, push(bikes, end, end + HOUR))
    check_online(bikes, end + HOUR, end + HOUR)


def test_events_that_do_not_fit_are_set_aside_with_the_reason(bikes: Bikes, streaming: Any) -> None:
    client = connect(bikes.settings.redis())
    query = streaming()
    for source, data in (
        ("rides", b"{not json"),
        ("rides", b'{"began": "yesterday"}'),
        ("nobody", b"{}"),
        ("docks", b'{"seen": 1, "station": "x"}'),
        ("docks", b'{"seen": 1, "station": 18446744073709551615}'),
        ("docks", b'{"seen": 1700000000000000000, "station": 1}'),
        ("docks", b'{"seen": 1700000000000, "station": 1}'),
        ("docks", b'{"seen": "2131-01-01T00:00:00Z", "station": 1}'),
        ("docks", b'{"seen": 1, "station": 1, "free_bikes": 9223372036854775808}'),
        ("docks", b'{"seen": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("rides", b'{"began": 1, "reported": "2131-01-01T00:00:00Z", "station": 1, "rider_class": "member"}'),
    ):
        client.xadd(events_key("bikes"), {"source": source, "data": data})
    wait_applied(bikes, query, push(bikes, SEAM_US, SEAM_US + HOUR))
    entries: Any = client.xrange(rejected_key("bikes"))
    why = b" | ".join(fields[b"why"] for _, fields in entries)
    assert len(entries) == 11
    for word in (
        b"malformed",
        b"'yesterday'",
        b"'nobody'",
        b"'x'",
        b"18446744073709551615, not int64",
        b"milliseconds?",
        b"nested too deep",
    ):
        assert word in why, why
    assert why.count(b"ahead of the clock") >= 2
    check_online(bikes, SEAM_US + HOUR, SEAM_US + HOUR)
    # a backfill beside the stream reads the same entries
    done = backfill(bikes.spark, list(bikes.views.values()), bikes.settings.offline_root, bikes.settings.redis(), SEAM_US)
    assert not [d.error for d in done if d.error]
    check_online(bikes, SEAM_US + HOUR, SEAM_US + HOUR)


def test_statuses_say_what_is_not_there(bikes: Bikes) -> None:
    bikes.backfill()
    reader, rows = read(bikes, [{"station": 424242, "rider_class": "member"}, {"station": None, "rider_class": None}], SEAM_US)
    assert (rows.statuses == MISSING).all()
    count = reader.features.index("rides_by_station:rides_2h")
    assert rows.values[0, count] == 0
    reader, rows = read(bikes, entities(bikes)[:1], SEAM_US + 10 * HOUR)
    assert rows.statuses[0, reader.features.index("dock:free_bikes")] == STALE


def test_a_moment_the_store_has_moved_on_from_is_missing_and_not_guessed(bikes: Bikes) -> None:
    bikes.backfill()
    reader, rows = read(bikes, entities(bikes)[:1], SEAM_US - 30 * HOUR)
    windowed = [i for i, name in enumerate(reader.features) if name.startswith("rides_by_station:")]
    assert (rows.statuses[0, windowed] == MISSING).all()
    assert np.isnan(rows.values[0, windowed]).all()


@pytest.mark.parametrize("at_us", [FIRST_US, -1, SEAM_US - 30 * HOUR])
def test_no_request_before_the_newest_row_is_answered_from_its_future(bikes: Bikes, at_us: int) -> None:
    bikes.backfill()
    reader, rows = read(bikes, entities(bikes)[:1], at_us)
    latest = [i for i, name in enumerate(reader.features) if name.startswith("dock:")]
    assert (rows.statuses[0, latest] == MISSING).all()
    assert np.isnan(rows.values[0, latest]).all()


def test_a_redis_that_does_not_answer_is_said_so_within_the_deadline(bikes: Bikes) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"

        async def go() -> float:
            reader = OnlineReader.open(bikes.case.store, bikes.spec.feature_service, url, 0.3)
            began = time.monotonic()
            with pytest.raises(OnlineStoreUnavailable):
                await reader.read(entities(bikes)[:1], SEAM_US)
            return time.monotonic() - began

        assert asyncio.run(go()) < 1.0
