"""Which task an event belongs to: the one that has its entity, whatever the bytes."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given

from streaming.live.event_log import SCHEMA
from streaming.live.events import decode
from streaming.live.share import WHOLE, Owned, Owners, Share, keys_of, owners
from streaming.online.entities import group
from streaming.schema.feature_view import Feature
from tests.fuzz import fuzzed
from tests.oracle.hostile import POISON, events, good, views

PROJECT = views()[0].project
POSITION = (1_700_000_000_123, 4)


@fuzzed
@given(events())
def test_fuzz_an_entitys_events_belong_to_one_task(raw: bytes) -> None:
    """What decoding all of a row finds to be its entity is what the keys alone said."""
    for view in views():
        for tasks in (2, 8):
            (found,) = owners(PROJECT, keys_of(view), tasks).of([raw], [POSITION])
            assert 0 <= found < tasks
            table, _, _ = decode(view, [raw], [0])
            keys = group(view, table).keys
            if keys:
                assert found == zlib.crc32(keys[0]) % tasks


@pytest.mark.parametrize(
    ("dtype", "spellings"),
    [
        ("int64", ["5", "5.0"]),
        ("string", ["5", '"5"']),
        ("string", ["true", '"True"']),
        ("timestamp", ['"2023-11-14T00:00:00Z"', '"2023-11-14T01:00:00.9+01:00"', "1699920000"]),
        ("bytes", ['"AAEC"', '"AAE\\u0043"']),
    ],
)
def test_one_entity_spelt_in_several_ways_belongs_to_one_task(dtype: str, spellings: list[str]) -> None:
    view = replace(views()[1], keys=(Feature("key", dtype),), mapping=(("its key", "key"),))
    row = json.dumps(good())[1:-1]
    rows = [f'{{"its key": {spelling}, {row}}}'.encode() for spelling in spellings]
    rows.append(f'{{"its key": 77, {row}, "its\\u0020key": {spellings[0]}}}'.encode())  # the last one counts
    for tasks in (2, 8, 97):
        assert len(set(owners(PROJECT, keys_of(view), tasks).of(rows, [(i, 0) for i in range(len(rows))]))) == 1
    table, _, bad = decode(view, rows, range(len(rows)))
    assert (len(set(group(view, table).keys)), bad) == (1, [])


@pytest.mark.parametrize("spellings", [["1", "true"], ["true", "1"], ["1", "1.0"], ["0.0", "-0.0"], ['"1"', "1.0"]])
def test_what_is_remembered_of_one_row_says_nothing_of_another(spellings: list[str]) -> None:
    """`1` and `true` are equal in Python; as a string key they are two entities."""
    view = replace(views()[1], keys=(Feature("key", "string"),))
    rows = [f'{{"key": {spelling}}}'.encode() for spelling in spellings]
    positions = [(i, 0) for i in range(len(rows))]
    together = Owners(PROJECT, keys_of(view), 9_973).of(rows, positions)
    alone = [Owners(PROJECT, keys_of(view), 9_973).of([row], [at])[0] for row, at in zip(rows, positions, strict=True)]
    assert together == alone
    assert len(set(alone)) == 2


def test_every_row_has_one_task_for_each_view_and_what_has_no_entity_goes_by_its_position() -> None:
    rows = [*POISON.values(), *(json.dumps(good(n)).encode() for n in range(40)), json.dumps(good(k_int64=None)).encode()]
    n, compiled = len(rows), views()
    feed = ["things"] * (n - 3) + ["nobody's"] * 3
    batch = pa.table([list(range(1_000, 1_000 + n)), [0] * n, feed, rows, [""] * n], schema=SCHEMA)
    shares = [Owned(Share(task, 8), compiled, batch) for task in range(8)]
    for view in compiled:
        found = []
        for one in shares:
            mine = one.rows(view, [i for i, source in enumerate(one.batch["source"].to_pylist()) if source == "things"])
            found.append([one.batch["ms"][i].as_py() for i in mine])
        assert sorted(ms for some in found for ms in some) == list(range(1_000, 1_000 + n - 3))
        assert min(map(len, found)) > 0
    strange = [
        ms
        for one in shares
        for ms, source in zip(one.batch["ms"].to_pylist(), one.batch["source"].to_pylist(), strict=True)
        if source != "things"
    ]
    assert sorted(strange) == [1_000 + n - 3, 1_000 + n - 2, 1_000 + n - 1]
    assert Owned(WHOLE, compiled, batch).batch is batch


@pytest.mark.parametrize(("task", "tasks"), [(2, 2), (-1, 2), (0, 0)])
def test_a_task_that_does_not_exist_is_refused(task: int, tasks: int) -> None:
    with pytest.raises(ValueError, match="counted from 0"):
        Share(task, tasks)
