"""Whichever way a value takes to a function - offline table, Feast's format in Redis, a packed row, a request - it comes as it is declared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from streaming.aggregation.windows import declared
from streaming.online import feast_layout
from streaming.schema.columns import ARROW_TYPES
from streaming.schema.columns import to_arrow as finished
from streaming.schema.declared import converter, from_arrow, from_floats, to_arrow

_MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(),
    "float": st.floats(width=32),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=("Cs",))),
    "bytes": st.binary(),
    "timestamp": _MOMENTS,
}
_LISTS = {f"array<{dtype}>": st.lists(st.none() | one, max_size=4) for dtype, one in _SCALARS.items()}


def exactly(values: list[Any]) -> list[str]:
    """Types and texts: 1, 1.0 and True are three things, and so are 0.0 and -0.0."""
    return [f"{type(v).__name__} {v!r}" for v in values]


@pytest.mark.parametrize("dtype", [*_SCALARS, *_LISTS])
@limited(max_examples=60)
@given(data=st.data())
def test_the_offline_table_and_feasts_format_give_a_function_the_same_objects(dtype: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | (_SCALARS | _LISTS)[dtype], max_size=5))
    offline = from_arrow(pa.chunked_array([pa.array(values, ARROW_TYPES[dtype])]), dtype)
    stored = pa.array(values, ARROW_TYPES[dtype]).to_pylist()
    online = [converter(dtype)(feast_layout.decode_value(feast_layout.encode_value(v, dtype))) for v in stored]
    assert exactly(offline) == exactly(online)
    assert exactly(from_arrow(pa.chunked_array([to_arrow(offline, dtype)]), dtype)) == exactly(offline)


@pytest.mark.parametrize("dtype", ["double", "float", "int64", "int32", "bool"])
@limited(max_examples=60)
@given(data=st.data())
def test_a_number_out_of_the_readers_matrix_is_the_object_of_the_offline_table(dtype: str, data: st.DataObject) -> None:
    small = st.integers(-(2**53) + 1, 2**53 - 1) if dtype == "int64" else _SCALARS[dtype]
    values = data.draw(st.lists(st.none() | small, max_size=5))
    column = pa.chunked_array([pa.array(values, ARROW_TYPES[dtype])])
    matrix = np.array([np.nan if v is None else float(v) for v in column.to_pylist()])
    assert exactly(from_floats(matrix, dtype)) == exactly(from_arrow(column, dtype))


@pytest.mark.parametrize("dtype", ["double", "float", "int64", "int32", "bool"])
@limited(max_examples=60)
@given(values=st.lists(st.floats(-1e9, 1e9) | st.just(float("nan"))))
def test_a_finished_window_is_the_number_that_the_join_declares(dtype: str, values: list[float]) -> None:
    column = np.array(values)
    joined = pa.chunked_array([finished(column, ARROW_TYPES[dtype])])
    assert exactly(from_floats(declared(column, dtype), dtype)) == exactly(from_arrow(joined, dtype))


@pytest.mark.parametrize(
    ("dtype", "value", "became"),
    [
        ("int64", 3.0, 3),
        ("int64", np.int32(7), 7),
        ("int64", float("nan"), None),
        ("int32", True, 1),
        ("double", 2, 2.0),
        ("double", np.float32(0.5), 0.5),
        ("float", 0.1, float(np.float32(0.1))),
        ("bool", 1, True),
        ("string", 7, "7"),
        ("timestamp", 1.75, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("timestamp", datetime(2022, 5, 1, 0, 0, 0, 999_999), datetime(2022, 5, 1, tzinfo=UTC)),
        ("array<int64>", [1, None], None),
        ("array<double>", (1, 2), [1.0, 2.0]),
    ],
)
def test_what_can_be_the_declared_type_becomes_it(dtype: str, value: Any, became: Any) -> None:
    assert exactly([converter(dtype)(value)]) == exactly([became])


@pytest.mark.parametrize(
    ("dtype", "value", "says"),
    [
        ("int64", 3.5, "not a whole number"),
        ("int64", 2**63, "cannot hold"),
        ("int32", 3_000_000_000, "cannot hold"),
        ("int64", "7", "not a number"),
        ("double", "1.5", "not a number"),
        ("bool", 2, "neither true nor false"),
        ("bytes", "a", "declared bytes"),
        ("timestamp", "soon", "no moment"),
        ("array<int64>", 7, "declared a list"),
    ],
)
def test_what_cannot_be_the_declared_type_is_refused_and_never_rounded(dtype: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        converter(dtype)(value)
