"""Tiles - built, merged in pieces, stored, read back and finished - equal the windows' definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.windows import HOUR, MINUTE, NEVER, Layout
from tests.oracle import naive
from tests.streaming.join.test_point_in_time import AGGREGATIONS, columns_of, events_strategy, magnitude, same

LAYOUT = Layout.of(AGGREGATIONS)
LEVELS = tiles.levels_of(LAYOUT)
PRINT = tiles.fingerprint(LAYOUT)


def arrays(events: list[naive.Event]):
    owner = np.array([e.key for e in events], dtype=np.int64)
    event = np.array([e.event_us for e in events], dtype=np.int64)
    known = np.array([e.known_us for e in events], dtype=np.int64)
    return owner, event, known, columns_of(events)


@given(events_strategy, st.integers(0, 40), st.integers(0, 30 * HOUR))
@example(
    [naive.Event(2, 0, 0, {"x": x, "y": None}) for x in (89.0, 3.6058300565748e-222, 1e16)], 0, 0
)  # the sum's last unit is two of the mean's
@settings(max_examples=200, deadline=None)
def test_tiles_merged_in_pieces_equal_the_definition(events: list[naive.Event], cut: int, later: int) -> None:
    t = max([e.event_us for e in events], default=0) + later
    punctual = [naive.Event(e.key, e.event_us, e.event_us, e.values) for e in events]
    found: dict[str, np.ndarray] = {}
    stored: list[list] = [[] for _ in range(3)]
    for level in LEVELS:
        pieces = []
        for part in (punctual[:cut], punctual[cut:]):
            owner, event, known, columns = arrays(part)
            pieces.append(tiles.build(level, owner, event, known, columns))
        whole = tiles.merge(level, *pieces)
        newest = np.array([max([e.event_us for e in events if e.key == k], default=0) for k in range(3)])
        whole = tiles.prune(level, whole, newest)
        found |= tiles.finish(level, whole, 3, np.full(3, t))
        for k, part in enumerate(whole.slices(3)):
            stored[k].append(part)
    finisher = Finisher(LAYOUT)
    for k in range(3):
        blob = tiles.encode(tiles.Header(PRINT, mark_us=t), stored[k])
        assert tiles.decode(blob, LEVELS, PRINT)[0].mark_us == t
        online = finisher(blob, t)
        for i, a in enumerate(AGGREGATIONS):
            expected = naive.window(punctual, a, k, t)
            assert same(found[a.name][k], expected, a.function, magnitude(events)), a
            assert same(online[i], None if math.isnan(found[a.name][k]) else found[a.name][k], a.function, magnitude(events)), a


def test_tiles_of_another_definition_are_refused() -> None:
    blob = tiles.encode(tiles.Header(PRINT + 1), [])
    with pytest.raises(tiles.TileError, match="another definition"):
        tiles.decode(blob, LEVELS, PRINT)
    with pytest.raises(tiles.TileError, match="cut short"):
        tiles.read_header(b"H1")


def test_the_mark_counts_events_of_its_own_moment() -> None:
    header = tiles.Header(1).advanced(5 * MINUTE, 2)
    assert (header.mark_us, header.ties) == (5 * MINUTE, 2)
    header = header.advanced(5 * MINUTE, 1)
    assert (header.mark_us, header.ties) == (5 * MINUTE, 3)
    assert header.advanced(4 * MINUTE, 9) == header
    assert header.advanced(NEVER, 1) == header
    assert tiles.read_header(header.pack(0)) == header


def test_headers_packed_at_once_are_headers() -> None:
    mark, ties = np.array([5, -(2**60), NEVER]), np.array([1, 2, 0])
    event, known = np.array([4, -7, NEVER]), np.array([5, 2**61, NEVER])
    packed = tiles.pack_headers(123, mark, ties, event, known, 77, (9, 8))
    for i, blob in enumerate(packed):
        expected = tiles.Header(123, int(mark[i]), int(ties[i]), (9, 8), 1, int(event[i]), int(known[i]), 77)
        assert blob == expected.pack(0)
        assert tiles.read_header(blob) == expected
