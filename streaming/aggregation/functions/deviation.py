"""The sample deviation (n - 1) of a window's values; null below two."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from streaming.aggregation.functions.base import NAN, Named, Tiles
from streaming.aggregation.pairs import Floats, add, add_numbers, two_product
from streaming.aggregation.statistics import COUNT, SQUARES, SUM, Statistic


class Std(Named):
    shown, examples = "std", ("std",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (COUNT, SUM, SQUARES)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        n, (hi, lo), (square, rest) = rows(COUNT)[0], rows(SUM), rows(SQUARES)
        # n * sum(x^2) - sum(x)^2, in pairs: cancellation costs bits of the 106, not of the 53
        p, e = two_product(hi, hi)
        e = e + 2.0 * hi * lo
        q, f = two_product(square, n)
        f = f + rest * n
        top, low = add(q, f, -p, -e)
        variance = np.maximum(top + low, 0.0) / (n * (n - 1.0))
        return np.where(n > 1, np.sqrt(variance), np.nan)

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        n = tiles.count(rows[0])
        if n <= 1:
            return NAN
        hi, lo = tiles.pair(rows[1])
        square, rest = tiles.pair(rows[2])
        # the same operations in the same order
        p, e = two_product(hi, hi)
        e = e + 2.0 * hi * lo
        q, f = two_product(square, n)
        f = f + rest * n
        top, low = add_numbers(q, f, -p, -e)
        variance = max(top + low, 0.0) / (n * (n - 1.0))
        return math.sqrt(variance) if variance == variance else NAN
