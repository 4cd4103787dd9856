"""The least of a window's values; null where it holds none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streaming.aggregation.functions.base import NAN, Named, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import COUNT, LEAST, Statistic


class Min(Named):
    shown, examples = "min", ("min",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (COUNT, LEAST)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        return np.where(rows(COUNT)[0] > 0, rows(LEAST)[0], np.nan)

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        return min(tiles.row(rows[1])) if tiles.count(rows[0]) else NAN
