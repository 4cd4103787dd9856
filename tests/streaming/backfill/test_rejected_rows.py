"""Poison in an offline table, in event files and in Kafka: it costs itself, is kept with its reason, and everything else is stored."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.redis_keys import bridged_key, events_key, keys_key
from streaming.aggregation import tiles
from streaming.backfill import rejected_rows
from streaming.backfill.rejected_rows import culprits, sort_out
from streaming.backfill.run import backfill
from streaming.live import connectors, dead_letters, event_log
from streaming.live.events import decode
from streaming.live.sink import apply_batch
from streaming.live.sources.files import Files
from streaming.offline.unfit import WHY
from streaming.online import entity_index, feast_layout
from streaming.online.entities import group, key_function
from streaming.online.store import BusyError, OnlineStore, OnlineStoreError, connect, of_the_store
from streaming.online.writer import snapshot
from streaming.schema.feature_view import Feature, View
from streaming.tables import result_table
from tests.fuzz import fuzzed
from tests.indexed import indexed
from tests.oracle.hostile import NOW_US, POISON, events, good, views
from tests.streaming.live.test_hostile import counts, encoded

STAMP = pa.timestamp("us", "UTC")


def view(project: str) -> View:
    features = (
        Feature("n", "int32"),
        Feature("ns", "array<int32>"),
        Feature("price", "decimal"),
        Feature("what", "uuid"),
        Feature("x", "double"),
    )
    return View(project, "v", (Feature("k", "int32"),), "t", "at", None, (), 0, features, None, None)


UUID = "0192f0c1-7a3e-7c5b-9d2e-5f1a2b3c4d5e"
ROWS: list[tuple[Any, ...]] = [
    # k, n, ns, price, what, x; and a word of the reason
    (1, 5, [1, 2], "1.50", UUID, "1.5", None),
    (2, 3_000_000_000, [1], "1", UUID, "1", "'n' has 3000000000"),
    (3, 5, [1, 3_000_000_000], "1", UUID, "1", "'ns' has"),
    (4, 5, [1, None], "1", UUID, "1", None),
    (5, 5, None, "much", UUID, "1", "'price' has 'much'"),
    (6, 5, [], None, "one", "1", "'what' has 'one'"),
    (3_000_000_000, 5, [1], "1", UUID, "1", "'k' has 3000000000"),
    (7, 5, [1], "1", UUID, "many", "'x' has many"),
    (8, None, None, None, None, None, None),
]


def write(root: Path, rows: list[tuple[Any, ...]], at_us: int = NOW_US) -> None:
    columns = list(zip(*rows, strict=True))
    kinds = [pa.int64(), pa.int64(), pa.list_(pa.int64()), pa.string(), pa.string(), pa.string()]
    table = pa.table([pa.array(c, t) for c, t in zip(columns, kinds, strict=False)], names=["k", "n", "ns", "price", "what", "x"])
    table = table.append_column("at", pa.array([at_us] * len(rows), STAMP))
    (root / "t").mkdir(exist_ok=True)
    pq.write_table(table, root / "t" / "part-0.parquet")


def test_rows_that_cannot_be_stored_are_set_aside_and_the_others_are_stored(spark: Any, redis_url: str, tmp_path: Path) -> None:
    one, client = view(f"p{uuid.uuid4().hex[:8]}"), connect(redis_url)
    write(tmp_path, ROWS)
    for _ in range(2):  # twice is as once
        (done,) = backfill(spark, [one], tmp_path, redis_url)
        assert (done.error, done.rows, done.entities, done.rejected) == (None, 3, 3, 6)
        kept = rejected_rows.read(client, one.project, "v")
        assert len(kept) == 6
        for *_, word in (row for row in ROWS if row[-1]):
            assert [word in r.why for r in kept].count(True) == 1, (word, kept)
    assert indexed(client, keys_key(one.project, "v")) == {key_function(one)([k]) for k in (1, 4, 8)}
    assert feast_layout.decode_value(client.hget(key_function(one)([1]), feast_layout.field("v", "x"))) == 1.5
    assert "6 rows rejected" in str([list(c.cells) for c in result_table([done]).columns])
    # of what became known since, one is poison, in a key too
    write(tmp_path, [*ROWS, (9, 1, None, None, None, None, None), (9, 2**40, None, None, None, None, None)], NOW_US + 1)
    (done,) = backfill(spark, [one], tmp_path, redis_url, from_us=NOW_US)
    assert (done.error, done.rejected) == (None, 7)
    write(tmp_path, [row for row in ROWS if row[-1] is None])
    (done,) = backfill(spark, [one], tmp_path, redis_url)
    assert (done.rejected, rejected_rows.read(client, one.project, "v")) == (0, []), "mended"


@pytest.mark.parametrize("windowed", [False, True])
@fuzzed
@given(st.lists(events(), min_size=1, max_size=6), st.sets(st.integers(0, 5), max_size=2))
def test_fuzz_what_is_left_when_the_culprits_are_out_can_be_stored(windowed: bool, raws: list[bytes], poisoned: set[int]) -> None:
    """Rows whose moments no calendar has stand for what nobody thought of, where they have not been sorted out before."""
    one = views()[windowed]
    table, _, _ = decode(one, raws, range(len(raws)))
    if not windowed and len(table):
        at = [2**62 if i in poisoned else us for i, us in enumerate(table["f7"].cast(pa.int64()).to_pylist())]
        table = table.set_column(table.column_names.index("f7"), "f7", pa.array(at, pa.int64()).cast(STAMP))
    found = sort_out(one, table.append_column(WHY, pa.nulls(len(table), pa.string())))
    assert len(found.table) + len(found.rejected) == len(table)
    assert windowed or len(found.rejected) == len([i for i in poisoned if i < len(table)])
    for part in (table, found.table):
        left = culprits(one, part)
        assert len(left.table) + len(left.rejected) == len(part)
        assert len(left.rejected) <= (len(found.rejected) if part is table else 0)
        assert all(r.row and r.why for r in left.rejected)
        assert len(snapshot(one, group(one, left.table), 0).keys) <= len(raws)


def test_entities_that_the_offline_store_does_not_know_go_only_up_to_a_share(spark: Any, redis_url: str, tmp_path: Path) -> None:
    one, client = view(f"p{uuid.uuid4().hex[:8]}"), connect(redis_url)

    def held(most: float, n: int, rewind: bool = False) -> tuple[int, int, str]:
        write(tmp_path, [(k, 5, [1], "1", UUID, "1", None) for k in range(n)])
        (done,) = backfill(spark, [one], tmp_path, redis_url, end_us=NOW_US, most=most, rewind=rewind)
        assert done.error is None
        return entity_index.count(client, keys_key(one.project, "v"))[0], done.removed, done.spared

    assert held(0.5, 10) == (10, 0, "")
    assert held(0.5, 3) == (10, 0, "7 of 10 entities are unknown to the offline store and were kept")
    assert held(0.5, 6) == (6, 4, "")
    assert held(1.0, 1) == (1, 5, "")
    assert held(0.0, 1) == (1, 0, "")
    held(0.5, 9)
    assert held(0.0, 1, rewind=True) == (1, 8, ""), "a rewind is told to"
    notes = str([list(c.cells) for c in result_table(backfill(spark, [one], tmp_path, redis_url, end_us=NOW_US)).columns])
    assert "were kept" not in notes


LINES = {name: raw for name, raw in POISON.items() if raw.strip()}


def taken(client: Any, project: str) -> None:
    """Apply what is on the event stream, as the stream does."""
    for batch in event_log.entries(client, events_key(project), "0-0", "+"):
        apply_batch(views(project), OnlineStore(client), pa.Table.from_batches([batch]), now_us=NOW_US)


def check(client: Any, project: str) -> None:
    letters = list(dead_letters.read(client, project))
    assert {one.data for one in letters} == set(LINES.values())
    assert all(one.why and all(one.why.values()) for one in letters)
    for number in range(10_001, 10_001 + len(LINES)):
        assert counts(client, views(project)[1], number) == 1, number


def test_poison_in_files_costs_itself(spark: Any, redis_url: str, tmp_path: Path) -> None:
    project, client = f"h{uuid.uuid4().hex[:10]}", connect(redis_url)
    (tmp_path / "in" / "things").mkdir(parents=True)
    lines = [line for number, raw in enumerate(LINES.values(), 10_001) for line in (raw, b"", encoded(number))]
    (tmp_path / "in" / "things" / "one.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "in" / "things" / "none.jsonl").write_bytes(b"")
    query = connectors.start(Files(tmp_path / "in", ["things"]), spark, redis_url, project, str(tmp_path / "checkpoint"))
    deadline = time.monotonic() + 60
    while client.xlen(events_key(project)) < 2 * len(LINES) and time.monotonic() < deadline and query.isActive:
        time.sleep(0.1)
    query.stop()
    assert client.xlen(events_key(project)) == 2 * len(LINES)
    taken(client, project)
    check(client, project)


def test_poison_in_kafka_costs_itself(redis_url: str) -> None:
    """No broker: what its connector hands over, as the bridge takes it; and again, as after a crash."""
    project, client = f"h{uuid.uuid4().hex[:10]}", connect(redis_url)
    records = [line for number, raw in enumerate(LINES.values(), 10_001) for line in (raw, encoded(number))]
    n = len(records)
    batch = pa.RecordBatch.from_pydict({"partition": ["things-0"] * n, "offset": list(range(n)), "source": ["things"] * n, "data": records})
    assert [connectors.take(client, project, batch) for _ in range(2)] == [n, 0]
    strange = pa.RecordBatch.from_pydict({"partition": ["else-0"], "offset": [0], "source": ["else"], "data": [b"\xff"]})
    assert connectors.take(client, project, strange) == 1
    taken(client, project)
    (letter,) = [one for one in dead_letters.read(client, project) if one.source == "else"]
    assert "no feature view is fed" in letter.why[""]
    client.xdel(f"headrace:{{{project}}}:rejected", letter.entry)
    check(client, project)
    client.hset(bridged_key(project), "things-0", "many")
    with pytest.raises(Exception, match=r"field things-0 of headrace:.* is no offset"):
        connectors.take(client, project, batch)
    assert tiles.read_header(client.hget(key_function(views(project)[1])([10_001]), feast_layout.tile_field("windows"))).ties == 1
    assert good()


@pytest.mark.parametrize(
    "error",
    [
        OnlineStoreError("full"),
        BusyError("others"),
        redis.ConnectionError(),
        redis.ResponseError("OOM"),
        OSError(28, "full"),
        MemoryError(),
    ],
)
def test_a_store_that_is_away_is_not_taken_for_bad_rows(error: Exception) -> None:
    assert of_the_store(error)
    assert not of_the_store(ValueError("a row"))
