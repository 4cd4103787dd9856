"""Whatever lies in Redis: it is read as it was written, or that entity's view counts as missing and is named."""

from __future__ import annotations

import asyncio
import math
import random
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.features.reader import FeatureRows, OnlineReader, OnlineStoreUnavailable
from streaming.aggregation import tiles
from streaming.aggregation.windows import HOUR, Layout
from streaming.online import feast_layout, packed_row
from streaming.schema.feature_view import Feature, Projection, View
from tests.fuzz import fuzzed, spoilt
from tests.oracle import naive
from tests.streaming.aggregation.test_tiles import LEVELS, arrays
from tests.streaming.join.test_point_in_time import AGGREGATIONS

LATEST = View(
    "p",
    "v",
    (Feature("k", "int64"),),
    "v",
    "at",
    None,
    (),
    0,
    (Feature("a", "double"), Feature("b", "double"), Feature("note", "string")),
    None,
    None,
)
LAYOUT = Layout.of(AGGREGATIONS)
WINDOWED = replace(LATEST, name="w", features=tuple(Feature(a.name, "double") for a in LAYOUT.aggregations), layout=LAYOUT)
NOW = 10 * HOUR


LOOP = asyncio.new_event_loop()


class Stored(OnlineReader):
    """A reader of one entity's hash that lies here."""

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        super().__init__([Projection(v, v.name, tuple(f.name for f in v.features), ()) for v in (LATEST, WINDOWED)], "redis://nowhere", 1)
        self.fields = fields

    async def _fetch(self, wanted: Sequence[Any], timeout_s: float) -> list[Any]:
        return [[self.fields.get(name) for name in entity.fields] for _, entity in wanted]

    async def _ask(self, commands: Sequence[tuple[bytes, ...]], timeout_s: float) -> list[Any]:
        return [[self.fields.get(name) for name in command[2:]] for command in commands]

    def now(self) -> FeatureRows:
        return LOOP.run_until_complete(self.read([{"k": 7}], NOW))


def good(sealed: bool = True) -> dict[bytes, bytes]:
    """The entity as it is written; `sealed=False`: as before there were checksums."""
    return dict(_good(sealed))


@lru_cache(maxsize=2)
def _good(sealed: bool) -> dict[bytes, bytes]:
    seal = tiles.seal if sealed else bytes
    at = feast_layout.encode_timestamp(HOUR)
    (packed,) = packed_row.pack(
        LATEST,
        pa.table(
            {"a": [1.5], "b": [None], "note": ["x"]}, schema=pa.schema([("a", pa.float64()), ("b", pa.float64()), ("note", pa.string())])
        ),
        [at],
    )
    head = tiles.Header(LATEST.fingerprint, HOUR, 1, (1, 0), 1, HOUR, HOUR, 0)
    events = [naive.Event(0, i * HOUR // 7, i * HOUR // 7, {"x": float(i), "y": 1.0}) for i in range(30)]
    parts = []
    for level in LEVELS:
        (part,) = tiles.build(level, *arrays(events)).slices(1)
        parts.append(part)
    stored = tiles.encode(tiles.Header(WINDOWED.fingerprint, 5 * HOUR, 1, (1, 0), 1, 5 * HOUR, 5 * HOUR, 0), parts)
    fields = {
        feast_layout.tile_field("v"): seal(head.pack(0) + packed),
        feast_layout.timestamp_field("v"): at,
        feast_layout.tile_field("w"): seal(stored),
    }
    for name, value, dtype in (("a", 1.5, "double"), ("b", None, "double"), ("note", "x", "string")):
        fields[feast_layout.field("v", name)] = feast_layout.encode_value(value, dtype)
    return fields


WHOLE = Stored(good()).now()


def of_view(rows: FeatureRows, view: View) -> tuple[str, list[float]]:
    width = len(LATEST.features)
    some = slice(0, width) if view is LATEST else slice(width, None)
    return rows.statuses[0, some].tobytes().decode(), rows.values[0, some].tolist()


def alike(one: Any, other: Any) -> bool:
    return one[0] == other[0] and bool(np.array_equal(one[1], other[1], equal_nan=True))


def test_a_store_without_checksums_is_read_as_before() -> None:
    assert of_view(WHOLE, LATEST)[0] == "fnf"
    assert set(of_view(WHOLE, WINDOWED)[0]) <= {"f", "n"}
    old = Stored(good(sealed=False)).now()
    assert all(alike(of_view(old, v), of_view(WHOLE, v)) for v in (LATEST, WINDOWED))
    assert (old.marks, old.extras) == (WHOLE.marks, WHOLE.extras)


@pytest.mark.parametrize("view", [LATEST, WINDOWED])
def test_one_flipped_bit_is_seen_and_costs_that_view_of_that_entity(view: View, caplog: pytest.LogCaptureFixture) -> None:
    other, field = (WINDOWED if view is LATEST else LATEST), feast_layout.tile_field(view.name)
    bits = 8 * len(good()[field])
    for bit in [*range(32), *random.Random(1).sample(range(bits), 200), bits - 1]:
        fields = good()
        spoilt = bytearray(fields[field])
        spoilt[bit // 8] ^= 1 << bit % 8
        reader = Stored(fields | {field: bytes(spoilt)})
        found = reader.now()
        letters, values = of_view(found, view)
        assert (set(letters), all(map(math.isnan, values)), reader.broken) == ({"m"}, True, 1), bit
        assert found.marks[0][view.name].known_us is None
        assert alike(of_view(found, other), of_view(WHOLE, other))
    assert "headrace backfill --view" in caplog.text
    assert repr(view.name) in caplog.text


def test_what_was_sealed_comes_back_as_it_was() -> None:
    plain = good(sealed=False)[feast_layout.tile_field("w")]
    assert tiles.unseal(tiles.seal(plain)) == plain == tiles.unseal(plain)


def test_tiles_of_another_definition_are_no_broken_entity() -> None:
    field = feast_layout.tile_field("w")
    other = tiles.seal(tiles.Header(WINDOWED.fingerprint + 1).pack(0))
    with pytest.raises(OnlineStoreUnavailable, match="another definition"):
        Stored(good() | {field: other}).now()


@fuzzed
@given(st.booleans(), st.data())
def test_fuzz_any_bytes_in_redis_are_read_or_count_as_missing(sealed: bool, data: st.DataObject) -> None:
    fields: dict[bytes, Any] = good(sealed)
    chosen = data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=3))
    for name in chosen:
        fields[name] = data.draw(st.none() | spoilt(fields[name]))
    reader = Stored(fields)
    try:
        found = reader.now()
    except OnlineStoreUnavailable as error:
        assert "another definition" in str(error)  # noqa: PT017
        assert not sealed or feast_layout.tile_field("w") in chosen
        return
    assert found.values.shape == found.statuses.shape
    assert set(found.statuses.tobytes()) <= set(b"fsnm")
    assert all(m.known_us is None or abs(m.known_us) < 2**63 for m in found.marks[0].values())
    for view in (LATEST, WINDOWED):
        mine = {feast_layout.tile_field("w")} if view is WINDOWED else set(fields) - {feast_layout.tile_field("w")}
        if not chosen & mine:
            assert alike(of_view(found, view), of_view(WHOLE, view))


def test_any_number_in_the_place_of_any_other_is_read_or_counts_as_missing() -> None:
    """Without a checksum a spoilt number is not seen by itself. Found as a weight of 0, which ended the request."""
    field, rng = feast_layout.tile_field("w"), random.Random(2)
    plain = good(sealed=False)[field]
    words = range(tiles.HEADER_SIZE + 4, len(plain) - 8, 8)
    odd = [0.0, -1.0, 5e-324, 1e308, math.inf, -math.inf, math.nan]
    for longest in [1] * 200 + [8] * 300 + [200] * 500:
        spoilt, first, value = bytearray(plain), rng.randrange(len(words)), rng.choice(odd)
        for word in words[first : first + rng.randint(1, longest)]:
            struct.pack_into("<d", spoilt, word, value)
        found = Stored(good(sealed=False) | {field: bytes(spoilt)}).now()
        assert set(of_view(found, WINDOWED)[0]) <= set("fnm")
        assert alike(of_view(found, LATEST), of_view(WHOLE, LATEST))


def test_the_checksum_costs_a_read_next_to_nothing() -> None:
    blob, plain, reader = good()[feast_layout.tile_field("w")], good(sealed=False)[feast_layout.tile_field("w")], Stored(good())
    fields = [good().get(f) for f in reader._entities[0].fields]

    def best(act: Any) -> float:
        took = []
        for _ in range(200):
            before = time.perf_counter()
            act()
            took.append(time.perf_counter() - before)
        return min(took)

    check, read = best(lambda: tiles.unseal(blob)), best(lambda: reader._decode(reader._entities[0], fields, NOW, []))
    assert len(blob) == len(plain) + 8
    assert check < read / 5, (check, read)
