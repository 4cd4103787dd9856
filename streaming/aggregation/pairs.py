"""Sums of about 106 bits, so that the rounded result does not depend on the order of the additions.

A sum is a pair of float64 (hi, lo): `hi` is the rounded sum, `lo` is what the rounding left. The sum itself is hi + lo, and is never
added up (an *unevaluated* pair). Example: 1e16 + 1 is (1e16, 1.0); plain float64 would lose the 1.

Dekker 1971; Hida, Li & Bailey 2001, "Library for double-double arithmetic".
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)


def two_sum(a: Number, b: Number) -> tuple[Number, Number]:
    """a + b as (rounded, error), exactly. Knuth's branch-free form."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def two_product(a: Number, b: Number) -> tuple[Number, Number]:
    """a * b as (rounded, error), exactly where nothing overflows. Dekker's splitting."""
    p = a * b
    ca, cb = 134217729.0 * a, 134217729.0 * b
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def finite(hi: Floats, lo: Floats) -> tuple[Floats, Floats]:
    # An infinite sum has no meaningful error term: without this, inf would decay into NaN.
    return hi, np.where(np.isfinite(hi) & np.isfinite(lo), lo, 0.0)


def add(ah: Floats, al: Floats, bh: Floats, bl: Floats) -> tuple[Floats, Floats]:
    """(ah + al) + (bh + bl), accurate to about 2**-104."""
    s, e = two_sum(ah, bh)
    t, f = two_sum(al, bl)
    e = e + t
    hi = s + e
    e = (e - (hi - s)) + f
    hi2 = hi + e
    lo = e - (hi2 - hi)
    # s itself, where it is infinite or NaN: the renormalisation above would turn inf into NaN
    return finite(np.where(np.isfinite(s), hi2, s), lo)


def add_numbers(ah: float, al: float, bh: float, bl: float) -> tuple[float, float]:
    """`add`, of plain numbers: the same operations in the same order."""
    s, e = two_sum(ah, bh)
    t, f = two_sum(al, bl)
    e = e + t
    hi = s + e
    e = (e - (hi - s)) + f
    total = hi + e
    lo = e - (total - hi)
    total = total if math.isfinite(s) else s
    return total, lo if math.isfinite(total) and math.isfinite(lo) else 0.0
