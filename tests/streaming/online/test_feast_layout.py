"""Our encoding of keys, fields, values and timestamps is Feast's, byte for byte."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.online import feast_layout

int64 = st.integers(-(2**63), 2**63 - 1)


@given(st.text(max_size=20), int64, st.integers(-(2**31), 2**31 - 1))
def test_keys_are_feasts(name: str, number: int, small: int) -> None:
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    keys = [("zeta", "string"), ("alpha", "int64"), ("mid", "int32")]
    expected = _redis_key(
        "peer",
        EntityKey(
            join_keys=["zeta", "alpha", "mid"],
            entity_values=[Value(string_val=name), Value(int64_val=number), Value(int32_val=small)],
        ),
        entity_key_serialization_version=3,
    )
    assert feast_layout.key_encoder("peer", keys)([name, number, small]) == expected


def test_fields_are_feasts() -> None:
    from feast.infra.online_stores.helpers import _mmh3

    assert feast_layout.field("view", "feature") == _mmh3("view:feature")


@given(
    st.one_of(
        st.tuples(st.floats(allow_nan=False), st.just("double")),
        st.tuples(st.floats(allow_nan=False, width=32), st.just("float")),
        st.tuples(int64, st.just("int64")),
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.just("int32")),
        st.tuples(st.booleans(), st.just("bool")),
        st.tuples(st.text(max_size=300), st.just("string")),
        st.tuples(st.binary(max_size=300), st.just("bytes")),
    )
)
def test_values_are_feasts(pair) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    value, dtype = pair
    raw = feast_layout.encode_value(value, dtype)
    decoded = Value.FromString(raw)
    assert getattr(decoded, f"{dtype}_val") == value
    assert decoded.SerializeToString() == raw
    assert feast_layout.decode_value(raw) == value


def test_null_is_the_empty_message() -> None:
    assert feast_layout.encode_value(None, "double") == feast_layout.encode_value(math.nan, "double") == b""
    assert feast_layout.decode_value(b"") is None


@given(st.integers(0, 4_000_000_000_000_000))
def test_timestamps_are_protobufs(us: int) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    assert feast_layout.encode_timestamp(us) == stamp.SerializeToString()
    assert feast_layout.decode_timestamp(feast_layout.encode_timestamp(us)) == us


def test_moments_are_values_in_seconds() -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    raw = feast_layout.encode_value(moment, "timestamp")
    assert Value.FromString(raw).unix_timestamp_val == int(moment.timestamp())
    assert feast_layout.decode_value(raw) == moment


SCALARS = {
    "double": st.floats(allow_nan=False),
    "float": st.floats(allow_nan=False, width=32),
    "int64": int64,
    "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
    "string": st.text(max_size=40),
    "bytes": st.binary(max_size=40),
}


@given(st.sampled_from(sorted(SCALARS)).flatmap(lambda t: st.tuples(st.just(t), st.lists(SCALARS[t], max_size=300))))
def test_lists_are_feasts(pair) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    element, values = pair
    expected = Value()
    getattr(expected, f"{element}_list_val").SetInParent()
    getattr(expected, f"{element}_list_val").val.extend(values)
    raw = feast_layout.encode_value(values, f"array<{element}>")
    assert raw == expected.SerializeToString()
    assert feast_layout.decode_value(raw) == values


@given(st.lists(st.integers(-(2**40), 2**40), max_size=20))
def test_moments_are_feasts_whole_seconds(seconds: list[int]) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    expected = Value()
    expected.unix_timestamp_list_val.SetInParent()
    expected.unix_timestamp_list_val.val.extend(seconds)
    assert feast_layout.encode_value(seconds, "array<timestamp>") == expected.SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "field"), [("json", "json_val"), ("uuid", "uuid_val"), ("timeuuid", "time_uuid_val"), ("decimal", "decimal_val")]
)
def test_what_travels_as_text_is_feasts(dtype: str, field: str) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    raw = feast_layout.encode_value("text é", dtype)
    assert raw == Value(**{field: "text é"}).SerializeToString()
    assert feast_layout.decode_value(raw) == "text é"


def test_a_null_among_the_elements_is_nan_or_a_null_array() -> None:
    floats = feast_layout.decode_value(feast_layout.encode_value([1.0, None], "array<double>"))
    assert floats[0] == 1.0
    assert math.isnan(floats[1])
    assert feast_layout.encode_value([1, None], "array<int64>") == b""


def test_a_moment_before_1970_is_the_second_it_lies_in() -> None:
    before = datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=UTC)
    assert feast_layout.decode_value(feast_layout.encode_value(before, "timestamp")) == before.replace(microsecond=0)


def test_a_map_is_named_unsupported() -> None:
    from feast.protos.feast.types.Value_pb2 import Map, Value

    with pytest.raises(ValueError, match="field 20"):
        feast_layout.decode_value(Value(map_val=Map()).SerializeToString())


@given(st.lists(st.one_of(st.integers(-(2**50), 2**52), st.integers(-5, 5).map(lambda s: s * 1_000_000)), max_size=20))
def test_timestamps_at_once_are_timestamps(moments: list[int]) -> None:
    import numpy as np

    assert feast_layout.encode_timestamps(np.array(moments, dtype=np.int64)) == [feast_layout.encode_timestamp(us) for us in moments]
