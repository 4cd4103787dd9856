"""Decoding is total: whatever comes, a row can be written and read back, or is rejected with a sentence."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given

from streaming.clock import latest_us
from streaming.live.events import Rejected, decode
from streaming.online import feast_layout
from streaming.online.entities import group
from streaming.online.writer import snapshot
from streaming.schema.columns import EVENT, KNOWN
from streaming.schema.feature_view import View
from streaming.schema.types import FIRST_US
from tests.fuzz import fuzzed
from tests.oracle.hostile import NOW_US, POISON, events, good, views

BOUND = NOW_US + 300_000_000


def take(view: View, raw: bytes) -> tuple[pa.Table, list[Rejected]]:
    table, kept, bad = decode(view, [raw], [5], [BOUND])
    assert len(table) + len(bad) == 1
    assert [*kept, *(b.row for b in bad)] == [5]
    return table, bad


@fuzzed
@given(events())
def test_fuzz_an_event_can_be_written_and_read_back_or_is_rejected_with_a_reason(raw: bytes) -> None:
    for view in views():
        table, bad = take(view, raw)
        assert all(0 < len(b.why) <= 500 and b.why.encode() for b in bad)
        if bad:
            continue
        assert all(FIRST_US <= us <= BOUND for name in (EVENT, KNOWN) for us in table[name].to_pylist())
        rows = snapshot(view, group(view, table), 0)
        assert len(rows.keys) <= 1  # none where a key is null
        for bulks, feature in zip(rows.columns[2:], view.features, strict=True):
            for bulk in bulks:
                stored = bulk[bulk.index(b"\r\n") + 2 : -2]
                Value.FromString(stored)  # stock Feast reads it
                found = feast_layout.decode_value(stored)
                if view.layout is None and feature.dtype in ("int64", "int32", "bool", "array<int64>", "array<int32>"):
                    given_value = table[feature.name][0].as_py()
                    assert found == given_value or None in (given_value or [None] if isinstance(given_value, list) else [None])


@pytest.mark.parametrize("name", POISON)
def test_what_has_stopped_streams_is_rejected(name: str) -> None:
    reasons = [b.why for view in views() for b in take(view, POISON[name])[1]]
    assert reasons
    assert all(reasons), reasons
    assert max(map(len, reasons)) <= 500


@pytest.mark.parametrize(
    "at", ["2023-11-14T22:13:20Z", "2023-11-14T22:18:20Z", "1970-01-01", "0001-01-01T00:00:00Z", 1_700_000_000, 0, -1.5]
)
def test_a_moment_up_to_the_clock_and_its_tolerance_is_taken(at: str | float) -> None:
    for view in views():
        assert not take(view, json.dumps(good(at=at, known=at)).encode())[1]


def test_a_moment_beyond_the_clock_is_refused_with_both_moments() -> None:
    _, (bad,) = take(views()[0], json.dumps(good(at="2023-11-14T22:18:20.000001Z")).encode())
    assert "2023-11-14T22:18:20.000001+00:00" in bad.why
    assert "2023-11-14T22:18:20+00:00" in bad.why


def test_the_clock_is_when_the_event_came_in_and_never_ahead_of_the_wall() -> None:
    came, now = 1_700_000_000_000, 1_700_000_600_000_000
    assert latest_us([came], 300, now) == [came * 1000 + 300_000_000], "so a later try decides alike"
    assert latest_us([came * 5], 300, now) == [now + 300_000_000], "an id from the future gives no time"
    assert latest_us([7], 300, now) == [now + 300_000_000], "an id that its producer counted is no moment"


def test_a_float_beyond_its_type_is_infinite_alone_and_in_a_list() -> None:
    table, bad = take(views()[0], json.dumps(good(f1=1e300, f13=[1e300, -1e300])).encode())
    assert not bad
    rows = snapshot(views()[0], group(views()[0], table), 0)
    scalar, listed = (rows.columns[2 + i][0] for i in (1, 13))
    assert feast_layout.decode_value(scalar[scalar.index(b"\r\n") + 2 : -2]) == math.inf
    assert feast_layout.decode_value(listed[listed.index(b"\r\n") + 2 : -2]) == [math.inf, -math.inf]
