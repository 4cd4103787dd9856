"""One value in the join, in our reader and in stock Feast, for every type that a feature may have."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.join.in_process import gather, read_events_here
from streaming.online.entities import group
from streaming.online.feast_layout import decode_value
from streaming.online.writer import snapshot
from streaming.schema.columns import ARROW_TYPES
from streaming.schema.feature_view import Feature, Projection, View
from tests.oracle.hostile import TYPES

AT = datetime(2024, 5, 1, tzinfo=UTC)
_UP = st.just(datetime(3059, 1, 1, 0, 0, 0, 999_997))  # as a float its seconds are the next whole number
_MOMENTS = (_UP | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))).map(lambda at: at.replace(tzinfo=UTC))
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(), "float": st.floats(width=32), "int64": st.integers(-(2**63), 2**63 - 1), "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(), "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=9), "bytes": st.binary(max_size=9),
    "timestamp": _MOMENTS, "json": st.dictionaries(st.text("ab", max_size=2), st.integers(), max_size=2).map(json.dumps),
    "uuid": st.uuids().map(str), "timeuuid": st.uuids().map(str),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False).map(str),
}  # fmt: skip


def strategy(dtype: str) -> st.SearchStrategy[Any]:
    """Null now and then, and in a list too."""
    if dtype.startswith("array<"):
        return st.none() | st.lists(st.none() | SCALARS[dtype[6:-1]], max_size=3)
    return st.none() | SCALARS[dtype]


def plain(value: Any) -> Any:
    """As it can be compared: NaN is null, a moment its seconds."""
    if isinstance(value, list | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value) - datetime(1970, 1, 1, tzinfo=UTC)
    return value


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_value_is_the_same_in_the_join_online_and_in_stock_feast(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp()
    view = View(
        "p",
        "v",
        (Feature("k", "int64"),),
        f"one_{dtype.replace('<', '_').strip('>')}.parquet",
        "at",
        None,
        (),
        0,
        (Feature("x", dtype),),
        None,
        None,
    )
    given_value = data.draw(strategy(dtype))
    stamp = pa.array([AT], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"k": [1], "at": stamp, "x": pa.array([given_value], ARROW_TYPES[dtype])}), Path(root) / view.path)
    joined = gather(pa.table({"k": [1], "when": stamp}), "when", [Projection(view, "v", ("x",), ())], root, 10)["v__x"][0].as_py()
    rows = snapshot(view, group(view, read_events_here(view, root, None, None)), 0)
    (bulk,) = rows.columns[2]
    stored = bulk[bulk.index(b"\r\n") + 2 : -2]
    online, feast = decode_value(stored), feast_value_type_to_python_type(Value.FromString(stored))
    if dtype in ("json", "uuid", "timeuuid", "decimal"):  # text with us; Feast makes objects of it
        assert joined == online == given_value
        assert feast is None if online is None else feast == type(feast)(json.loads(online) if dtype == "json" else online)
        return
    assert plain(joined) == plain(online)
    if dtype == "timestamp" and given_value is not None:
        assert timedelta(0) <= given_value - joined < timedelta(seconds=1)
    assert plain(feast) == plain(online) or (online == [] and feast in (None, []))
