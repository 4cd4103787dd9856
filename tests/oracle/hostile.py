"""Events as nobody should send them: what has broken an event stream before, and what Hypothesis makes up besides."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from streaming.aggregation.functions.table import EXAMPLES
from streaming.aggregation.windows import DAY, HOUR, Aggregation, Layout
from streaming.schema.feature_view import Feature, View

NOW_US = 1_700_000_000_000_000
TYPES = (
    "double", "float", "int64", "int32", "bool", "string", "bytes", "timestamp", "json", "uuid", "timeuuid", "decimal",
    "array<double>", "array<float>", "array<int64>", "array<int32>", "array<bool>", "array<string>", "array<bytes>", "array<timestamp>",
)  # fmt: skip
KEYS = ("int64", "int32", "string", "bytes", "timestamp")


def views(project: str = "hostile") -> list[View]:
    """A latest-value view with a feature of every type, and a windowed one; their keys are of every type a key may have."""
    common = ("things", "at", "known", ())
    keys = tuple(Feature(f"k_{t}", t) for t in sorted(KEYS))
    latest = tuple(Feature(f"f{i}", t) for i, t in enumerate(TYPES))
    aggregations = [Aggregation(f"{f}_{w // HOUR}h", "x", f, w) for w in (HOUR, DAY) for f in EXAMPLES]
    aggregations += [Aggregation("kinds", "kind", "count_distinct", DAY), Aggregation("whole", "x", "sum", DAY)]
    windowed = tuple(Feature(a.name, "int64" if a.name == "whole" else "double") for a in aggregations)
    return [
        View(project, "latest", keys, *common, 0, latest, None, "things"),
        View(project, "windows", (Feature("k_int64", "int64"),), *common, 0, windowed, Layout.of(aggregations), "things"),
    ]


def good(number: int = 1, at: str = "2023-11-14T22:00:00+00:00", **changes: Any) -> dict[str, Any]:
    """A row that fits both views."""
    values = [1.5, 2.5, 3, 4, True, "text", "AAEC", "2023-11-14T00:00:00Z", "{}", "0192f0c1-7a3e-7c5b-9d2e-5f1a2b3c4d5e"]
    values += ["0192f0c1-7a3e-1c5b-9d2e-5f1a2b3c4d5e", "1.50", [1.5], [2.5], [3], [4], [True], ["a"], ["AAEC"], ["2023-11-14T00:00:00Z"]]
    keys = {"k_int64": number, "k_int32": 7, "k_string": "é", "k_bytes": "AAEC", "k_timestamp": "2023-11-14T00:00:00Z"}
    return {"at": at, "known": at, "x": 1.0, "kind": "a", **keys, **{f"f{i}": v for i, v in enumerate(values)}} | changes


POISON: dict[str, bytes] = {
    name: json.dumps(good(**change)).encode()
    for name, change in {
        "a key of 2^64 - 1": {"k_int64": 2**64 - 1},
        "a key below -2^63": {"k_int64": -(2**63) - 1},
        "an Int32 key of 3e9": {"k_int32": 3_000_000_000},
        "a key that is a list": {"k_string": ["a"]},
        "an epoch in nanoseconds": {"at": 1_700_000_000_000_000_000},
        "an epoch in milliseconds": {"at": 1_700_000_000_000},
        "the year 2031": {"at": "2031-01-01T00:00:00Z"},
        "known in the year 2031": {"known": "2031-01-01T00:00:00Z"},
        "the year 0 in UTC": {"at": "0001-01-01T00:00:00+14:00"},
        "no moment": {"at": None},
        "a moment that is true": {"at": True},
        "an Int64 of 2^63": {"f2": 2**63},
        "an Int32 of 3e9": {"f3": 3e9},
        "bytes that are a number": {"f6": 5},
        "a timestamp of 1e300": {"f7": 1e300},
        "a uuid that is none": {"f9": "one"},
        "a decimal that is none": {"f11": "much"},
        "an element of 2^63": {"f14": [1, 2**63]},
        "an element of 3e9": {"f15": [3e9]},
        "a list in a list": {"f12": [[1.5]]},
        "a number of 400 digits": {"x": 10**400},
    }.items()
} | {
    "JSON 5,000 deep": b'{"k_int64":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a megabyte": json.dumps(good(f5="x" * 1_000_000)).encode(),
    "nothing": b"",
    "no object": b"[1]",
    "no UTF-8": b'{"k_string": "\xff"}',
    "half a surrogate": b'{"k_string": "\\ud800"}',
    "cut short": b'{"k_int64": 1, "at": "20',
}
"""Every one must be rejected, by every view or by one of them."""

_edges = st.sampled_from(
    [0, -1, 2**31, 2**31 - 1, -(2**31), 2**53 + 1, 2**63, 2**63 - 1, -(2**63), 2**64 - 1, 10**400, 1e308, -1e308, 5e-324, 0.5, 3e9]
)
_texts = st.text(max_size=8) | st.sampled_from(
    ["", "inf", "Infinity", "nan", "\x00", "AAEC", "1e999", "9999-12-31T23:59:59Z", "0001-01-01", "2031-01-01"]
)
_scalars = st.none() | st.booleans() | _edges | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts
_values = st.recursive(
    _scalars | st.sampled_from([{"$number": "Infinity"}, {"$number": "-Infinity"}, {"$number": 1}, {"$number": []}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_changes = st.dictionaries(st.sampled_from(sorted(good())), _values, max_size=3)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """A row that fits, with some fields exchanged; now and then with bytes exchanged, or bytes that are no row at all."""
    row = good(draw(st.integers(1, 4))) | draw(_changes)
    raw = json.dumps(row).encode()
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=60))
    if kind == 1:
        at = draw(st.integers(0, len(raw)))
        return raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 4)) :]
    return raw
