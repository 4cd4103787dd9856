"""The mean of a window's values, weighted by their age: `ewma_6h` halves a value's weight every six hours. Null where the window holds none.

Example: 10 at noon and 40 at 18:00 have the weights 1 and 2, so the mean is (10 + 2 * 40) / 3 = 30.

All events of one hop weigh the same, `2 ** (beginning of the hop / half-life)`. A mean does not change when all weights are multiplied by
one number. So the value does not depend on when one asks: it changes only when an event comes, or leaves the window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from streaming.aggregation.functions.base import NAN, Function, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import Decayed, Statistic

_NAME = re.compile(r"ewma_([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
MOST = 4096
"""Hops in a half-life."""


class Ewma(Function):
    """
    Args:
        half_life_us: age at which a value weighs half, microseconds.
    """

    shown, examples = "ewma_6h (any half-life in s, m, h or d)", ("ewma_1h", "ewma_1d")

    def __init__(self, half_life_us: int) -> None:
        self.half_life_us = half_life_us

    @classmethod
    def of(cls, name: str) -> Function | None:
        found = _NAME.fullmatch(name)
        if found:
            return cls(int(found[1]) * _UNITS[found[2]])
        if name.startswith("ewma"):
            raise ValueError(f"{name!r} has no half-life: write one, such as ewma_6h (s, m, h or d)")
        return None

    def check(self, window_us: int, hop_us: int) -> None:
        hops, rest = divmod(self.half_life_us, hop_us)
        if rest or not 0 < hops <= MOST:
            raise ValueError(f"the half-life ({self.half_life_us} us) must be 1 to {MOST} whole hops, of {hop_us} us each")

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (Decayed(self.half_life_us, hop_us),)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        state = rows(Decayed(self.half_life_us, hop_us))
        return np.where(state[3] > 0, state[1] / state[3], np.nan)

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        row = rows[0]
        powers = tiles.row(row)
        most = max(powers)
        if most == -math.inf:
            return NAN
        by = [max(int(power - most), -2200) if power > -math.inf else 0 for power in powers]
        value, weight = (_sum(tiles, first, by) for first in (row + 1, row + 3))
        return value / weight if weight > 0 else NAN


def _sum(tiles: Tiles, row: int, by: list[int]) -> float:
    """The sum of a row of pairs, each shifted by its own power of two, rounded once."""
    terms = [math.ldexp(one, k) for half in (row, row + 1) for one, k in zip(tiles.row(half), by, strict=True)]
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):  # beyond float64, or inf - inf
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.array(terms).sum())
