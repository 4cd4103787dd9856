"""How many values a window holds; 0 where it holds none."""

from __future__ import annotations

from collections.abc import Callable

from streaming.aggregation.functions.base import Named, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import COUNT, Statistic


class Count(Named):
    shown, examples = "count", ("count",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (COUNT,)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        return rows(COUNT)[0].copy()

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        return float(tiles.count(rows[0]))
