"""The vectorised join and window arithmetic against their naive twin."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.aggregation.functions.table import EXAMPLES
from streaming.aggregation.sketches import hashed
from streaming.aggregation.windows import DAY, HOUR, MINUTE, NEVER, Aggregation, Layout, default_hop
from streaming.join.point_in_time import Events, Spine, aggregate, encode_keys, latest
from tests.oracle import naive

SPECS = [(HOUR, 0), (3 * HOUR, 10 * MINUTE), (13 * HOUR, 0), (7 * MINUTE, 2 * MINUTE)]
AGGREGATIONS = [Aggregation(f"{f}_{w}", "x", f, w, h) for w, h in SPECS for f in EXAMPLES]
AGGREGATIONS.append(Aggregation("sum_y", "y", "sum", HOUR))

minutes = st.integers(0, 26 * 60).map(lambda m: m * MINUTE)
moments = st.one_of(minutes, st.integers(0, 26 * HOUR), minutes.map(lambda m: m + 1), minutes.map(lambda m: m - 1))
lags = st.one_of(st.just(0), st.just(0), st.integers(0, 3 * HOUR), st.integers(0, 20 * HOUR), st.integers(-HOUR, 0))
numbers = st.one_of(
    st.none(),
    st.integers(-100, 100).map(float),
    st.floats(-1e6, 1e6),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e16, -1e16, 1e-9, 0.1, 0.2, 0.3]),
)
events_strategy = st.lists(st.tuples(st.integers(0, 2), moments, lags, numbers, numbers), max_size=40).map(
    lambda rows: [naive.Event(k, e, e + lag, {"x": x, "y": y}) for k, e, lag, x, y in rows]
)
spine_strategy = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, None]), moments, st.one_of(st.none(), st.tuples(moments, st.integers(0, 3)))),
    min_size=1,
    max_size=12,
)


def column(events: list[naive.Event], name: str) -> np.ndarray:
    return np.array([math.nan if e.values[name] is None else e.values[name] for e in events], dtype=np.float64)


def columns_of(events: list[naive.Event]) -> dict[str, np.ndarray]:
    x = column(events, "x")
    return {"x": x, "y": column(events, "y"), "#x": hashed(pa.array(x, from_pandas=True))}


def indexed(events: list[naive.Event]) -> Events:
    return Events(
        np.array([e.key for e in events], dtype=np.int64),
        np.array([e.event_us for e in events], dtype=np.int64),
        np.array([e.known_us for e in events], dtype=np.int64),
    )


def spine_of(rows: list, marked: bool) -> Spine:
    key = np.array([-1 if k is None else k for k, _, _ in rows], dtype=np.int64)
    t = np.array([t for _, t, _ in rows], dtype=np.int64)
    if not marked:
        return Spine(key, t)
    return Spine(key, t, np.array([m[0] if m else NEVER for *_, m in rows]), np.array([m[1] if m else 0 for *_, m in rows]))


def magnitude(events: list[naive.Event]) -> float:
    """Sum of the finite values' absolutes, of either column."""
    return sum(abs(v) for e in events for v in e.values.values() if v is not None and math.isfinite(v))


def same(got: float, expected: float | None, function: str, scale: float) -> bool:
    """Equal; sums to one unit in the last place, means to two (half a sum's unit can be more than one of its quotient's),
    and to 2**-100 of what was added up (docs/semantics/windows.md)."""
    if expected is None:
        return math.isnan(got)
    if function == "std":
        return math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-9)
    if (function in ("sum", "mean") or function.startswith("ewma")) and math.isfinite(expected):
        units = 1 if function == "sum" else 2
        return abs(got - expected) <= max(units * math.ulp(expected), 2**-100 * scale)
    return got == expected


@given(events_strategy, spine_strategy, st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_window_equals_its_definition(events: list[naive.Event], rows: list, marked: bool) -> None:
    layout = Layout.of(AGGREGATIONS)
    got = aggregate(layout, indexed(events), columns_of(events), spine_of(rows, marked))
    for i, (key, t, mark) in enumerate(rows):
        cut = None if not marked else (mark or (NEVER, 0))
        for a in AGGREGATIONS:
            expected = naive.window(events, a, key, t, cut)
            assert same(got[a.name][i], expected, a.function, magnitude(events)), (a, key, t, cut, got[a.name][i], expected)


@given(events_strategy, spine_strategy, st.booleans(), st.sampled_from([0, HOUR, 5 * HOUR]))
@settings(max_examples=300, deadline=None)
def test_the_latest_row_equals_its_definition(events: list[naive.Event], rows: list, marked: bool, ttl: int) -> None:
    got = latest(indexed(events), spine_of(rows, marked), ttl)
    for i, (key, t, mark) in enumerate(rows):
        expected = naive.latest(events, key, t, ttl, None if not marked else (mark or (NEVER, 0)))
        assert (events[got[i]] if got[i] >= 0 else None) is expected


def test_a_window_decays_to_zero_when_events_stop() -> None:
    layout = Layout.of([Aggregation("n", "x", "count", HOUR), Aggregation("m", "x", "mean", HOUR)])
    events = Events(np.zeros(1, np.int64), np.array([10 * HOUR]), np.array([10 * HOUR]))
    t = np.array([10 * HOUR, 11 * HOUR + 4 * MINUTE, 11 * HOUR + 5 * MINUTE])
    got = aggregate(layout, events, {"x": np.array([7.0])}, Spine(np.zeros(3, np.int64), t))
    assert got["n"].tolist() == [1, 1, 0]
    assert got["m"][:2].tolist() == [7, 7]
    assert math.isnan(got["m"][2])


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=60), st.randoms())
@settings(max_examples=200, deadline=None)
def test_sums_do_not_depend_on_the_order_of_events(values: list[float], random) -> None:
    layout = Layout.of([Aggregation(f, "x", f, DAY) for f in ("sum", "mean", "std")])
    results = set()
    for _ in range(4):
        random.shuffle(values)
        state = layout.identity(1)
        leaves = layout.prepare({"x": np.array(values)}, np.zeros(len(values), np.int64), np.zeros(len(values), np.int64))
        for i in range(len(values)):
            state = layout.merge(state, leaves[:, i : i + 1])
        results.add(tuple(float(layout.finish(a, state)[0]) for a in layout.aggregations[:2]))
    assert len(results) == 1


def test_hops_follow_the_length_of_the_window() -> None:
    assert [default_hop(w) for w in (HOUR, 12 * HOUR - 1, 12 * HOUR, 12 * DAY)] == [5 * MINUTE, 5 * MINUTE, HOUR, DAY]


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(ValueError, match="mode"):
        Aggregation("f", "x", "mode", HOUR)


def test_composite_keys_that_concatenate_alike_stay_apart() -> None:
    left = [np.array([1, 12, None], dtype=object), np.array([23, 3, 3], dtype=object)]
    right = [np.array([12, 1], dtype=object), np.array([3, 23], dtype=object)]
    a, b = encode_keys(left, right)
    assert a[0] == b[1]
    assert a[1] == b[0]
    assert a[0] != a[1]
    assert a[2] == -1


_KEYS = st.one_of(
    st.lists(st.none() | st.integers(-3, 3)), st.lists(st.none() | st.sampled_from("abc")), st.lists(st.none() | st.binary(max_size=1))
)


@given(st.data(), st.integers(1, 3), st.booleans())
def test_codes_are_equal_where_all_keys_are_and_only_there(data: st.DataObject, columns: int, whole: bool) -> None:
    def column(n: int) -> np.ndarray:
        if whole:
            return np.array(data.draw(st.lists(st.integers(-(2**63), -(2**63) + 3), min_size=n, max_size=n)), dtype=np.int64)
        return np.array([*data.draw(_KEYS), *[None] * n][:n], dtype=object)

    sizes = (data.draw(st.integers(0, 8)), data.draw(st.integers(0, 8)))
    tables = [[column(n) for _ in range(columns)] for n in sizes]
    codes = np.concatenate(encode_keys(*tables)).tolist()
    rows = [row for table in tables for row in zip(*(c.tolist() for c in table), strict=True)]
    for i, one in enumerate(rows):
        assert (codes[i] == -1) == (None in one)
        for j, other in enumerate(rows):
            if None not in one + other:
                assert (codes[i] == codes[j]) == (one == other)
