from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.features.window_cache import WindowCache
from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.windows import HOUR, MINUTE
from tests.oracle import naive
from tests.streaming.aggregation.test_tiles import LAYOUT, LEVELS, PRINT, arrays, events_strategy


def stored(events: list[naive.Event], key: int) -> bytes:
    """One entity's tile field."""
    mine = [naive.Event(0, e.event_us, e.event_us, e.values) for e in events if e.key == key]
    parts = []
    for level in LEVELS:
        owner, event, known, columns = arrays(mine)
        (part,) = tiles.build(level, owner, event, known, columns).slices(1)
        parts.append(part)
    return tiles.encode(tiles.Header(PRINT), parts)


@given(events_strategy, st.lists(st.one_of(st.integers(0, 40 * HOUR), st.integers(0, 3)), min_size=1, max_size=30), st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_remembered_is_what_would_be_computed(events: list[naive.Event], steps: list[int], data: st.DataObject) -> None:
    """Whatever the clock does - a microsecond, a day, backwards - and whichever of two states the entity is in."""
    finisher, cache = Finisher(LAYOUT), WindowCache(10**6)
    blobs = [stored(events, 0), stored(events[: len(events) // 2], 0)]
    now = max([e.event_us for e in events], default=0)
    for step in steps:
        now = max(0, now + step * data.draw(st.sampled_from([1, -1])))
        if data.draw(st.booleans()):
            now -= now % (5 * MINUTE)  # where a tile leaves a window
        blob = data.draw(st.sampled_from(blobs))
        remembered, fresh = cache.finish((b"k", 1), finisher, blob, now), finisher(blob, now)
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(remembered, fresh, strict=True)), now


def test_it_remembers_and_is_bounded() -> None:
    events = [naive.Event(0, i * MINUTE, i * MINUTE, {"x": float(i), "y": 1.0}) for i in range(100)]
    blob, finisher = stored(events, 0), Finisher(LAYOUT)
    cache = WindowCache(3 * len(blob))
    first = cache.finish((b"a", 0), finisher, blob, 100 * MINUTE)
    assert cache.finish((b"a", 0), finisher, bytes(bytearray(blob)), 100 * MINUTE + 1) is first
    for i in range(50):
        cache.finish((b"%d" % i, 0), finisher, blob, 100 * MINUTE)
        assert len(cache._kept) <= 3
    assert WindowCache(0).finish((b"a", 0), finisher, blob, 100 * MINUTE) == first
