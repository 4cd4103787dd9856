"""The mean of a window's values; null where it holds none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streaming.aggregation.functions.base import NAN, Named, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import COUNT, SUM, Statistic


class Mean(Named):
    shown, examples = "mean", ("mean",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (COUNT, SUM)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        n = rows(COUNT)[0]
        return np.where(n > 0, rows(SUM)[0] / n, np.nan)

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        n = tiles.count(rows[0])
        return tiles.total(rows[1]) / n if n else NAN
