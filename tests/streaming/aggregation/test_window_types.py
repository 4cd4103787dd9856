"""A window's value is what its feature's type declares: for the join, for our reader and for stock Feast the same number, or null."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streaming.aggregation import tiles
from streaming.aggregation.windows import DAY, HOUR, SECOND, Aggregation, Layout, declared
from streaming.online import feast_layout
from streaming.online.entities import encoded
from streaming.schema.columns import ARROW_TYPES, to_arrow
from streaming.schema.feature_view import Feature, View
from tests.streaming.schema.test_identity import served

TYPES = ["double", "float", "int64", "int32", "bool"]
NEWEST = 1_600_007_000 * SECOND


def feasts(raw: bytes, dtype: str) -> Any:
    from feast.protos.feast.types.Value_pb2 import Value

    value = Value.FromString(raw)
    return getattr(value, f"{dtype}_val") if raw else None


@given(st.floats() | st.integers(-(2**70), 2**70).map(float), st.sampled_from(TYPES))
@example(3e9, "int32")
@example(-(2.0**63), "int64")
@example(2.0**63, "int64")
@example(math.inf, "int64")
@example(1e39, "float")
@example(2.5, "int64")
def test_every_reader_of_a_finished_window_sees_one_number(value: float, dtype: str) -> None:
    held = declared(np.array([value]), dtype)
    joined = to_arrow(held, ARROW_TYPES[dtype])[0].as_py()
    bulk = encoded(pa.array(held, from_pandas=True), dtype)[0]
    raw = bulk[bulk.index(b"\r\n") + 2 : -2]
    ours = feast_layout.decode_value(raw)
    expected = None if np.isnan(held[0]) else held[0]
    assert joined == ours == feasts(raw, dtype) == expected
    if dtype in ("int64", "int32") and expected is not None:
        assert joined == math.trunc(value), "cut towards zero, never wrapped"
        assert isinstance(joined, int)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_served_of_tiles_is_what_the_type_holds(dtype: str) -> None:
    aggregations = [
        Aggregation("mean", "x", "mean", 2 * HOUR), Aggregation("total", "x", "sum", DAY), Aggregation("n", "x", "count", DAY),
    ]  # fmt: skip
    features = (Feature("mean", dtype), Feature("n", "int64"), Feature("total", dtype))
    view = View("p", "v", (Feature("k", "int64"),), "v", "at", None, (), 0, features, Layout.canonical(aggregations), None)
    assert view.layout is not None
    event, x = np.array([NEWEST - SECOND, NEWEST]), np.array([2_999_999_999.7, 0.4])
    parts: list[tiles.Part] = []
    for level in tiles.levels_of(view.layout):
        parts += tiles.build(level, np.zeros(2, np.int64), event, event, {"x": x}).slices(1)
    header = tiles.Header(view.fingerprint, NEWEST, 1, (0, 0), 1, NEWEST, NEWEST)
    found = served(view, tiles.encode(header, parts), NEWEST)
    exact = served(replace(view, features=tuple(Feature(f.name, "double") for f in features)), tiles.encode(header, parts), NEWEST)
    for name in ("mean", "total"):
        want = declared(np.array([exact[name]]), dtype)[0]
        assert found[name] == want or (math.isnan(found[name]) and math.isnan(want)), name
    assert found["n"] == 2
    if dtype == "int32":
        assert math.isnan(found["total"]), "3e9 is no Int32: null, never -1294967296"
