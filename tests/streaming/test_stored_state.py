"""Whatever lies in Redis of a view's materialization, of the stream and of the clock: it is what was written, or it is taken for nothing."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.redis_keys import (
    applied_key,
    clock_key,
    events_key,
    journal_key,
    lease_key,
    rejected_key,
    set_aside_key,
    view_key,
)
from streaming import clock, status
from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.tiles import TileError
from streaming.backfill import checkpoint
from streaming.backfill.checkpoint import Journal
from streaming.backfill.run import _RATE, _rate
from streaming.live import dead_letters, event_log
from streaming.live.progress import _ADVANCE
from streaming.live.turn import take
from streaming.online import entity_index
from streaming.online.feast_layout import decode_timestamp, decode_value, encode_timestamp, encode_value, key_matcher
from streaming.online.lease import HeldError, hold
from streaming.online.store import connect, fields_of
from streaming.schema.types import FIRST_US, LAST_US
from tests.fuzz import NUMBERS, fuzzed, spoilt
from tests.indexed import indexed
from tests.oracle.hostile import NOW_US, TYPES, views
from tests.serving.features.test_stored_bytes import LAYOUT, LEVELS, WINDOWED
from tests.serving.features.test_stored_bytes import good as stored

PROJECT = "stored"
LATEST, WINDOWS = views(PROJECT)
HEAD = {"fingerprint": str(WINDOWS.fingerprint), "end_us": str(NOW_US), "from_us": "0", "buckets": "4", "position": "5-1"}
NOTED = HEAD | {"done:0": "5 3 1700", "done:3": "7 2 1800 4", "at": "1700000000"}


class Hash:
    """A Redis in which one hash lies."""

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.fields = fields

    def hgetall(self, _: str) -> dict[bytes, bytes]:
        return self.fields

    def type(self, _: str) -> bytes:
        return b"set"


@st.composite
def noted(draw: st.DrawFn) -> dict[bytes, bytes]:
    found = {k.encode(): v.encode() for k, v in NOTED.items()}
    for name in draw(st.sets(st.sampled_from([*found, b"done:x", b"done:9", b"\xff"]), max_size=3)):
        found[name] = draw(NUMBERS | spoilt(found.get(name, b"1 2 3")))
    for name in draw(st.sets(st.sampled_from(sorted(found)), max_size=1)):
        del found[name]
    return found


@fuzzed
@given(noted())
def test_fuzz_a_killed_backfill_is_gone_on_with_or_begun_anew(fields: dict[bytes, bytes]) -> None:
    found = checkpoint.unfinished(Hash(fields), WINDOWS)  # type: ignore[arg-type]
    if found is None:
        return
    assert isinstance(found, Journal)
    assert sorted([*found.done, *found.remaining()]) == list(range(found.buckets))
    assert event_log.text(checkpoint.noted_id(found.position) or (0, 0))
    assert FIRST_US <= found.end_us <= LAST_US


def test_what_was_noted_of_a_killed_backfill_is_gone_on_with() -> None:
    found = checkpoint.unfinished(Hash({k.encode(): v.encode() for k, v in NOTED.items()}), WINDOWS)  # type: ignore[arg-type]
    assert found is not None
    assert found.done == {0: (5, 3, 1700, 0), 3: (7, 2, 1800, 4)}


@fuzzed
@given(st.dictionaries(st.sampled_from(["rows", "seconds"]), NUMBERS.map(lambda raw: raw.decode(errors="replace"))))
def test_fuzz_the_rate_of_the_last_backfill_is_a_number(said: dict[str, str]) -> None:
    assert 0 < _rate(said) < float("inf")
    assert _rate({"rows": "10", "seconds": "2"}) == 5 != _RATE


@pytest.fixture(scope="module")
def client(redis_url: str) -> Any:
    made = connect(redis_url)
    yield made
    _clear(made)
    made.close()


def _clear(client: Any) -> None:
    keys = [view_key(PROJECT, v.name) for v in (LATEST, WINDOWS)] + [journal_key(PROJECT, v.name) for v in (LATEST, WINDOWS)]
    of_project = [f(PROJECT) for f in (applied_key, clock_key, rejected_key, set_aside_key, events_key)]
    client.delete(*keys, *of_project, lease_key(PROJECT, "latest"))


_TOLD = ("rows", "seam_us", "newest_us", "failures", "error", "id", "events", "wall_us", "newest:windows", "fingerprint", "seconds")


@fuzzed
@given(said=st.dictionaries(st.sampled_from(_TOLD), NUMBERS | st.binary(max_size=30), min_size=1))
def test_fuzz_the_state_is_told_whatever_lies_there(client: Any, said: dict[str, bytes]) -> None:
    with client.pipeline(transaction=False) as pipe:
        pipe.delete(events_key(PROJECT))
        for key in (view_key(PROJECT, "windows"), journal_key(PROJECT, "windows"), applied_key(PROJECT)):
            pipe.delete(key)
            pipe.hset(key, mapping=said)
        pipe.execute()
    (found,) = status.view_states(client, [WINDOWS])
    assert all(us is None or FIRST_US <= us <= LAST_US for us in (found.seam_us, found.newest_us))
    stream = status.stream_state(client, PROJECT)
    assert stream.waiting == 0
    client.xadd(events_key(PROJECT), {"source": "things", "data": b"{}"}, id="5-1")
    done = checkpoint.noted_id(client.hget(applied_key(PROJECT), "id") or b"")
    taken = take(client, PROJECT)
    client.delete(events_key(PROJECT))
    assert sum(map(len, taken)) == (done is None or done < (5, 1))
    assert client.eval(_ADVANCE, 1, applied_key(PROJECT), 2**41, 1, 7, 3, "newest:windows", 5) in (0, 1)


@fuzzed
@given(NUMBERS | st.binary(max_size=30))
def test_fuzz_the_clock_of_a_rehearsal_is_a_moment_or_refused(client: Any, raw: bytes) -> None:
    client.set(clock_key(PROJECT), raw)
    with contextlib.suppress(ValueError):
        assert clock.now_us(client, PROJECT) <= time.time_ns() // 1000
        assert int(raw) == clock.now_us(client, PROJECT) or int(raw) > NOW_US


def test_a_clock_that_is_none_stops_what_deletes_and_is_named(client: Any) -> None:
    client.set(clock_key(PROJECT), b"noon")
    with pytest.raises(ValueError, match=r"headrace:\{stored\}:clock is no moment: remove it"):
        clock.now_us(client, PROJECT)
    client.delete(clock_key(PROJECT))


_LETTER = {b"id": b"7-1", b"source": b"things", b"data": b"{}", b"views": b"windows", b"why": b"windows: no"}


@fuzzed
@given(st.dictionaries(st.sampled_from([*_LETTER, b"\xff"]), NUMBERS | st.binary(max_size=20), min_size=1), st.binary(max_size=20))
def test_fuzz_rejected_events_are_read_whatever_they_are(client: Any, changed: dict[bytes, bytes], member: bytes) -> None:
    with client.pipeline(transaction=False) as pipe:
        pipe.delete(rejected_key(PROJECT), set_aside_key(PROJECT))
        pipe.xadd(rejected_key(PROJECT), _LETTER | changed)
        pipe.xadd(rejected_key(PROJECT), changed)
        pipe.zadd(set_aside_key(PROJECT), {member: 7, b"7-1 windows": 7})
        pipe.execute()
    assert len(list(dead_letters.read(client, PROJECT))) == 2
    assert "windows" in dead_letters.set_aside(client, PROJECT, (0, 0), (9, 0))[7, 1]


@pytest.mark.parametrize("holder", [b"somebody", b"\xff", b"", b"a/b", f"{socket.gethostname()}/x/1.0/y".encode()])
def test_a_lease_that_is_no_backfills_is_named(client: Any, holder: bytes) -> None:
    client.set(lease_key(PROJECT, "latest"), holder)
    with pytest.raises(HeldError, match=r"no backfill's .*remove it"), hold(client, LATEST):
        raise AssertionError
    client.delete(lease_key(PROJECT, "latest"))


@fuzzed
@given(st.dictionaries(st.sampled_from([b"source", b"data", b"only", b"\xff"]), st.binary(max_size=30) | st.just(b"things"), min_size=1))
def test_fuzz_an_entry_of_the_event_stream_is_a_row_of_the_batch(client: Any, fields: dict[bytes, bytes]) -> None:
    with client.pipeline(transaction=False) as pipe:
        pipe.delete(events_key(PROJECT), rejected_key(PROJECT), set_aside_key(PROJECT))
        pipe.xadd(events_key(PROJECT), fields)
        pipe.execute()
    (batch,) = event_log.entries(client, events_key(PROJECT), "0-0", "+")
    assert batch.num_rows == 1
    assert len(event_log.since(client, WINDOWS, 0, 300)((0, 0))[0]) == 0


SEALED, PLAIN = (stored(sealed)[b"_hr:w"] for sealed in (True, False))


@fuzzed
@given(st.sampled_from([SEALED, PLAIN]), st.data())
def test_fuzz_tiles_are_tiles_or_refused(whole: bytes, data: st.DataObject) -> None:
    """As the stream reads them before it merges into them."""
    raw = data.draw(spoilt(whole))
    try:
        header, parts = tiles.decode(raw, LEVELS, WINDOWED.fingerprint)
    except TileError:
        return
    assert tiles.read_header(tiles.unseal(raw)) == header
    assert len(parts) == len(LEVELS)


@fuzzed
@given(spoilt(SEALED))
def test_fuzz_sealed_tiles_are_as_they_were_written_or_refused(raw: bytes) -> None:
    finisher = Finisher(LAYOUT)
    with contextlib.suppress(TileError):
        plain = tiles.unseal(raw)
        if raw[:2] == tiles.SEALED:
            assert raw == SEALED
            assert len(finisher(plain, 10**11)) == len(LAYOUT.aggregations)


_SCALARS: dict[str, Any] = {
    "double": 1.5, "float": 2.5, "int64": 3, "int32": -4, "bool": True, "string": "text", "bytes": b"\x00\x01", "timestamp": 1_700_000_000,
    "json": "{}", "uuid": "0192f0c1-7a3e-7c5b-9d2e-5f1a2b3c4d5e", "timeuuid": "0192f0c1-7a3e-1c5b-9d2e-5f1a2b3c4d5e", "decimal": "1.50",
}  # fmt: skip
VALUES = [encode_value(_SCALARS[t] if t in _SCALARS else [_SCALARS[t[6:-1]]] * 2, t) for t in TYPES]
NO_VALUE = (ValueError, IndexError, OverflowError, struct.error)


@fuzzed
@given(st.sampled_from(VALUES), st.data())
def test_fuzz_a_value_in_feasts_layout_is_one_or_refused(whole: bytes, data: st.DataObject) -> None:
    with contextlib.suppress(*NO_VALUE):
        decode_value(data.draw(spoilt(whole)))


@fuzzed
@given(spoilt(encode_timestamp(NOW_US)))
def test_fuzz_a_timestamp_in_feasts_layout_is_one_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        found = decode_timestamp(raw)
        assert found is not None
        assert abs(found) < 2**63


KEY = b"\x01\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00k\x04\x00\x00\x00\x08\x00\x00\x00" + bytes(8) + b"stored"


@fuzzed
@given(spoilt(KEY))
def test_fuzz_a_redis_key_is_an_entity_of_a_view_or_none(raw: bytes) -> None:
    matches = key_matcher("stored", [("k", "int64")])
    assert matches(KEY)
    if matches(raw):
        assert (len(raw), raw[:21], raw[29:]) == (len(KEY), KEY[:21], KEY[29:])


def test_a_hash_of_any_bytes_is_text() -> None:
    assert fields_of({b"\xff": b"\xfe", b"a": b"b"}) == {"\ufffd": "\ufffd", "a": "b"}


OTHER_TYPES: dict[str, Any] = {
    "a string": lambda client, key: client.set(key, b"x"),
    "a list": lambda client, key: client.rpush(key, b"x"),
    "a hash": lambda client, key: client.hset(key, "x", "y"),
    "a sorted set": lambda client, key: client.zadd(key, {"x": 1}),
    "a stream": lambda client, key: client.xadd(key, {"x": "y"}),
}


@pytest.mark.parametrize("how", OTHER_TYPES)
def test_what_is_no_index_of_a_view_is_put_aside_by_the_next_write_and_costs_no_event(
    client: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the batch would be tried for ever, and every view of the project would wait for it."""
    from feature_repo.records.redis_keys import keys_key
    from streaming.online.store import OnlineStore
    from streaming.status import view_states

    index, store = keys_key(PROJECT, WINDOWS.name), OnlineStore(client)
    names = sorted({entity_index.parts(index)[zlib.crc32(key) % entity_index.PARTS] for key in (b"one", b"two")})
    _clear(client)
    entity_index.delete(client, index)
    for name in names:
        client.delete(f"{name}:broken")
        OTHER_TYPES[how](client, name)
    assert indexed(client, index) == set()
    mine, other = view_states(client, [WINDOWS, LATEST])
    assert "is no set of entities" in mine.error
    assert (mine.entities, other.error) == (0, "")
    caplog.clear()
    store._note([index, f"{index}:more"], [b"one", b"two"])
    assert indexed(client, index) == indexed(client, f"{index}:more") == {b"one", b"two"}
    for name in names:
        assert client.exists(f"{name}:broken")
        assert f"{name} is no set of entities: it lies in {name}:broken now" in caplog.text
        client.delete(f"{name}:broken")
    assert view_states(client, [WINDOWS])[0].error == ""
    for one in (index, f"{index}:more"):
        entity_index.delete(client, one)


def test_a_store_of_one_set_alone_is_read_and_taken_over(client: Any) -> None:
    """So versions before had it: a cluster held it on one server."""
    index, keys = f"headrace:{{{PROJECT}}}:keys:former", {b"k%d" % i for i in range(2500)}
    entity_index.delete(client, index)
    client.sadd(index, *keys)
    assert (indexed(client, index), entity_index.count(client, index)) == (keys, (2500, ""))
    written = f"{index}:backfill"
    entity_index.note(client, written, sorted(keys)[:2000])
    left = {key for some in entity_index.members(client, index, written) for key in some}
    assert left == set(sorted(keys)[2000:])
    entity_index.forget(client, index, [b"k1"])
    entity_index.take_over(client, index)
    assert not client.exists(index)
    assert (indexed(client, index), entity_index.count(client, index)) == (keys - {b"k1"}, (2499, ""))
    assert len([name for name in entity_index.parts(index) if client.scard(name) > 50]) == entity_index.PARTS
    left = {key for some in entity_index.members(client, index, written) for key in some}
    assert left == set(sorted(keys)[2000:])
    for one in (index, written):
        entity_index.delete(client, one)
        assert indexed(client, one) == set()


@pytest.mark.parametrize("lost", ["gone", *OTHER_TYPES])
def test_a_killed_backfill_whose_list_of_written_entities_is_lost_begins_anew(client: Any, lost: str) -> None:
    """Gone on with, its end would take all that it had written before for left over."""
    key, index = journal_key(PROJECT, WINDOWS.name), Journal(WINDOWS, 0, 0, 4, "0-0").index
    _clear(client)
    entity_index.delete(client, index)
    client.hset(key, mapping=NOTED)
    entity_index.note(client, index, [b"one"])
    found = checkpoint.unfinished(client, WINDOWS)
    assert found is not None
    assert found.done
    entity_index.delete(client, index)
    if lost != "gone":
        OTHER_TYPES[lost](client, entity_index.parts(index)[3])
    assert checkpoint.unfinished(client, WINDOWS) is None
    Journal(WINDOWS, 0, 0, 4, "0-0").begin(client)
    assert not any(map(client.exists, entity_index.parts(index)))
    client.delete(key)


@pytest.mark.parametrize("how", [h for h in OTHER_TYPES if h != "a hash"])
@pytest.mark.parametrize("of", [view_key, journal_key])
def test_a_key_of_a_view_that_is_no_hash_costs_that_views_line_only(client: Any, how: str, of: Any) -> None:
    from streaming.status import view_states

    key = of(PROJECT, WINDOWS.name)
    _clear(client)
    OTHER_TYPES[how](client, key)
    mine, other = view_states(client, [WINDOWS, LATEST])
    assert ("WRONGTYPE" in mine.error) == (of is view_key)
    assert other.error == ""
    client.delete(key)
