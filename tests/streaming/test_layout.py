"""Our encoding of keys, fields, values and timestamps is Feast's, byte for byte."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import layout

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
    assert layout.key_encoder("peer", keys)([name, number, small]) == expected


def test_fields_are_feasts() -> None:
    from feast.infra.online_stores.helpers import _mmh3

    assert layout.field("view", "feature") == _mmh3("view:feature")


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
    raw = layout.encode_value(value, dtype)
    decoded = Value.FromString(raw)
    assert getattr(decoded, f"{dtype}_val") == value
    assert decoded.SerializeToString() == raw
    assert layout.decode_value(raw) == value


def test_null_is_the_empty_message() -> None:
    assert layout.encode_value(None, "double") == layout.encode_value(math.nan, "double") == b""
    assert layout.decode_value(b"") is None


@given(st.integers(0, 4_000_000_000_000_000))
def test_timestamps_are_protobufs(us: int) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    assert layout.encode_timestamp(us) == stamp.SerializeToString()
    assert layout.decode_timestamp(layout.encode_timestamp(us)) == us


def test_moments_are_values_in_seconds() -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    raw = layout.encode_value(moment, "timestamp")
    assert Value.FromString(raw).unix_timestamp_val == int(moment.timestamp())
    assert layout.decode_value(raw) == moment


def test_a_list_value_is_named_unsupported() -> None:
    from feast.protos.feast.types.Value_pb2 import StringList, Value

    with pytest.raises(ValueError, match="no scalar"):
        layout.decode_value(Value(string_list_val=StringList(val=["a"])).SerializeToString())
