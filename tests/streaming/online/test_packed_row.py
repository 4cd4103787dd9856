from __future__ import annotations

import itertools
import math
import struct
import zlib
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.aggregation.tiles import HEADER_SIZE, Header
from streaming.online import feast_layout, packed_row
from streaming.schema.feature_view import Feature, View

FEATURES = (
    Feature("a", "double"), Feature("note", "string"), Feature("b", "float"), Feature("c", "int64"), Feature("d", "bool"),
)  # fmt: skip
VIEW = View("p", "v", (Feature("k", "int64"),), "v", "at", None, (), 0, FEATURES, None, None)
HEADER = Header(1).pack(0)


def packed(rows: list[dict], times: list[bytes]) -> list[bytes]:
    types = {"a": pa.float64(), "note": pa.string(), "b": pa.float64(), "c": pa.int64(), "d": pa.bool_()}
    table = pa.table({name: pa.array([r[name] for r in rows], kind) for name, kind in types.items()})
    return [HEADER + blob for blob in packed_row.pack(VIEW, table, times)]


values = st.fixed_dictionaries(
    {
        "a": st.none() | st.floats(),
        "note": st.none() | st.text(max_size=5),
        "b": st.none() | st.floats(width=32),
        "c": st.none() | st.integers(-(2**63), 2**63 - 1),
        "d": st.none() | st.booleans(),
    }
)


@given(st.lists(st.tuples(values, st.integers(-(10**15), 10**15)), min_size=1, max_size=8))
def test_what_is_unpacked_is_what_feasts_fields_say(rows: list[tuple[dict, int]]) -> None:
    times = [feast_layout.encode_timestamp(us) for _, us in rows]
    for (one, _), blob, time in zip(rows, packed([r for r, _ in rows], times), times, strict=True):
        found = packed_row.unpacker(VIEW)(blob, time)
        if one["c"] is not None and abs(one["c"]) >= 2**53:
            assert found is None, "an integer that may be no float64 is read from its own field"
            continue
        assert found is not None
        for got, feature in zip(found, (f for f in FEATURES if f.numeric), strict=True):
            stored = feast_layout.decode_value(feast_layout.encode_value(one[feature.name], feature.dtype))
            assert math.isnan(got) if stored is None else got == float(stored), feature


def test_a_row_of_another_moment_other_features_or_none_is_not_taken() -> None:
    (blob,) = packed([{"a": 1.0, "note": "x", "b": 2.0, "c": 3, "d": True}], [b"\x08\x05"])
    unpack = packed_row.unpacker(VIEW)
    assert unpack(blob, b"\x08\x05") == (1.0, 2.0, 3.0, 1.0)
    assert unpack(blob, b"\x08\x06") is None, "stock Feast has written since"
    assert unpack(blob, None) is None
    assert unpack(blob[:HEADER_SIZE], b"\x08\x05") is None, "written before rows were packed"
    swapped = replace(VIEW, features=(Feature("e", "double"), *FEATURES[1:]))
    assert packed_row.unpacker(swapped)(blob, b"\x08\x05") is None, "as many features, others"
    assert packed_row.unpacker(replace(VIEW, features=FEATURES[:3]))(blob, b"\x08\x05") is None


def test_a_row_that_was_packed_in_the_registrys_order_is_still_read() -> None:
    """As packed before identity was canonical: the checksum is of the names in that order."""
    was = ["d", "c", "a", "b"]
    old = replace(VIEW, stored_order=tuple((name, name) for name in ["d", "note", "c", "a", "b"]))
    values = {"a": 1.5, "b": 0.25, "c": 7.0, "d": 1.0}

    def stored(**changed: float) -> bytes:
        known_by = struct.pack("<I", zlib.crc32(repr(was).encode()))
        return HEADER + known_by + struct.pack("<4d", *((values | changed)[name] for name in was)) + b"\x08\x05"

    unpack = packed_row.unpacker(old)
    assert unpack(stored(), b"\x08\x05") == (1.5, 0.25, 7.0, 1.0)
    assert unpack(stored(), b"\x08\x06") is None, "stock Feast has written since"
    assert unpack(stored(c=2.0**53), b"\x08\x05") is None, "it may have been rounded: its own field says"
    assert packed_row.unpacker(replace(old, stored_order=()))(stored(), b"\x08\x05") is None, "of another definition"


def test_a_packed_row_does_not_hang_on_the_order_of_declaration() -> None:
    one = {"a": 1.0, "note": None, "b": 2.0, "c": 3, "d": True}
    (blob,) = packed([one], [b"\x08\x05"])
    for features in itertools.permutations(FEATURES):
        assert packed_row.unpacker(replace(VIEW, features=features))(blob, b"\x08\x05") == (1.0, 2.0, 3.0, 1.0)


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_row_that_is_cut_short_is_not_taken(cut: int) -> None:
    (blob,) = packed([{"a": 1.0, "note": None, "b": None, "c": None, "d": None}], [b"\x08\x05"])
    assert packed_row.unpacker(VIEW)(blob[:-cut], b"\x08\x05") is None
