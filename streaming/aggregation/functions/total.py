"""The sum of a window's values; 0 where it holds none."""

from __future__ import annotations

from collections.abc import Callable

from streaming.aggregation.functions.base import Named, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import COUNT, SUM, Statistic


class Sum(Named):
    shown, examples = "sum", ("sum",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (COUNT, SUM)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        return rows(SUM)[0].copy()

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        return tiles.total(rows[1])
