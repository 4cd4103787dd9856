"""Mergeable sketches of a window's values: how many distinct ones, and their quantiles.

A sketch here is a short list of `(item, weight)` pairs, sorted by item. To merge two sketches, the weights of equal items are added. So
the result does not depend on the order or grouping of merges, and stream, backfill and join get the same number. A sketch that
makes random choices (KLL) could not promise this.

* `count_distinct`: items are 63-bit hashes (XXH64), of which the `DISTINCT + 1` smallest are kept (KMV; Bar-Yossef et al. 2002). Exact up
  to `DISTINCT` distinct values; beyond, the relative standard error is 1 / sqrt(DISTINCT - 1), about 3.1 %.
* quantiles: items are the buckets of a DDSketch (Masson, Rim & Lee 2019; the mapping is the `ddsketch` library's), so that the value
  returned is within 1 % of the value at rank `floor(q * (n - 1))`.

Many sketches lie in one `Ragged`, as columns of a table lie in one array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DISTINCT = 1024
ACCURACY = 0.01
_BIAS = 1 << 20  # of bucket numbers: items below zero are negative values, 0 is zero
_INFINITE = 1 << 21
_SEED = 42  # Spark's xxhash64 has it

_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")


def quantile_of(function: str) -> float | None:
    """0.95 of `p95`; None where it is no quantile. `median` is `p50`."""
    if function == "median":
        return 0.5
    match = _QUANTILE.fullmatch(function)
    return float(match[1]) / 100 if match else None


def kind_of(function: str) -> str | None:
    """`distinct` or `quantile`; None for a function that needs no sketch."""
    if function == "count_distinct":
        return "distinct"
    return None if quantile_of(function) is None else "quantile"


@dataclass(frozen=True)
class Ragged:
    """
    Attributes:
        counts: int64 `[n]`: pairs of each sketch.
        items: int64 `[m]`, ascending within a sketch.
        weights: float64 `[m]`.
    """

    counts: Ints
    items: Ints
    weights: Floats

    @classmethod
    def empty(cls, n: int) -> Ragged:
        return cls(np.zeros(n, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @property
    def offsets(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.counts)])

    def take(self, rows: Ints) -> Ragged:
        places = spread(self.offsets[rows], self.counts[rows])
        return Ragged(self.counts[rows], self.items[places], self.weights[places])


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    return Ragged(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("counts", "items", "weights")))


def spread(start: Ints, count: Ints) -> Ints:
    """The places `start, start + 1, ...` of each run, one after the other."""
    return np.asarray(np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start, count))


def combine(kind: str, owner: Ints, items: Ints, weights: Floats, n: int) -> Ragged:
    """The sketches of owners `0..n-1` from their pairs, in any order."""
    order = np.lexsort((items, owner))
    owner, items, weights = owner[order], items[order], weights[order]
    first = np.ones(len(owner), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (items[1:] != items[:-1])
    begin = np.flatnonzero(first)
    weights = np.add.reduceat(weights, begin) if len(begin) else weights
    owner, items = owner[begin], items[begin]
    counts = np.bincount(owner, minlength=n).astype(np.int64)
    if kind == "distinct" and (counts > DISTINCT + 1).any():
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        keep = rank <= DISTINCT
        items, weights, counts = items[keep], weights[keep], np.minimum(counts, DISTINCT + 1)
    return Ragged(counts, items, weights)


def leaves(kind: str, values: Any) -> Ragged:
    """A sketch per value.

    Args:
        values: for quantiles float64 `[n]`, NaN for null; for distinct int64 `[n]` hashes (`hashed`), -1 for null.
    """
    if kind == "distinct":
        present = values >= 0
        return Ragged(present.astype(np.int64), values[present], np.ones(int(present.sum())))
    present = ~np.isnan(values)
    return Ragged(present.astype(np.int64), buckets(values[present]), np.ones(int(present.sum())))


def finish(function: str, sketches: Ragged) -> Floats:
    """The feature's value of each sketch, float64 `[n]`; NaN is null."""
    if function == "count_distinct":
        return _distinct(sketches)
    quantile = quantile_of(function)
    assert quantile is not None
    return _quantile(sketches, quantile)


def _distinct(sketches: Ragged) -> Floats:
    found = sketches.counts.astype(np.float64)
    full = np.flatnonzero(sketches.counts > DISTINCT)
    largest = sketches.items[sketches.offsets[full] + DISTINCT]
    found[full] = np.round(DISTINCT / ((largest.astype(np.float64) + 1) / 2.0**63))
    return found


def _quantile(sketches: Ragged, quantile: float) -> Floats:
    offsets, n = sketches.offsets, len(sketches.counts)
    total = np.zeros(n)
    some = np.flatnonzero(sketches.counts)
    if not len(some):
        return np.full(n, np.nan)
    running = np.cumsum(sketches.weights)  # whole numbers: exact
    before = np.concatenate([[0.0], running])[offsets[:-1]]
    total[some] = running[offsets[1:][some] - 1] - before[some]
    wanted = before + np.floor(quantile * (total - 1))
    place = np.searchsorted(running, wanted[some], "right")
    found = np.full(n, np.nan)
    found[some] = values_of(sketches.items[place])
    return found


@lru_cache(maxsize=1)
def _mapping() -> Any:
    from ddsketch.mapping import LogarithmicMapping

    return LogarithmicMapping(ACCURACY)


def buckets(values: Floats) -> Ints:
    """DDSketch's bucket of each value, numbered so that buckets sort as their values do."""
    mapping = _mapping()
    magnitude = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        number = np.ceil(np.log2(np.minimum(magnitude, mapping.max_possible)) * mapping._multiplier) + _BIAS
    number = np.where(magnitude < mapping.min_possible, 0, np.where(np.isinf(magnitude), _INFINITE, number))
    return np.asarray(np.where(values < 0, -number, number), dtype=np.int64)


def values_of(items: Ints) -> Floats:
    """The value that stands for each bucket."""
    distinct, place = np.unique(items, return_inverse=True)
    return np.array([_value(int(i)) for i in distinct])[place]


def _value(item: int) -> float:
    if item == 0:
        return 0.0
    size = math.inf if abs(item) == _INFINITE else float(_mapping().value(abs(item) - _BIAS))
    return math.copysign(size, item)


def hashed(column: Any) -> Ints:
    """63-bit hashes of an Arrow column of numbers or text, -1 for null (and NaN). Equal numbers hash alike, whatever their type.

    The hash is Spark's `xxhash64` of the double or of the UTF-8 text, with its sign bit cleared.
    """
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = column.combine_chunks().dictionary_encode() if isinstance(column, pa.ChunkedArray) else column.dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        known = np.array([hash_of(v) for v in encoded.dictionary.to_pylist()] + [-1], dtype=np.int64)
        indices = np.asarray(encoded.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False), dtype=np.int64)
        return known[indices]
    values = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)
    distinct, place = np.unique(values, return_inverse=True)
    return np.array([hash_of(v) for v in distinct.tolist()], dtype=np.int64)[place] if len(values) else np.zeros(0, np.int64)


def hash_of(value: str | float | None) -> int:
    """The hash of one value; -1 for null and NaN."""
    import struct

    import xxhash

    if value is None or value != value:
        return -1
    raw = value.encode() if isinstance(value, str) else struct.pack("<d", float(value) + 0.0)  # -0.0 is 0.0
    return int(xxhash.xxh64_intdigest(raw, seed=_SEED)) & (2**63 - 1)
