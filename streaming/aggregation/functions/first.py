"""The oldest of a window's values; null where it holds none. Of equally old ones, the one that became known earlier; then the lesser one."""

from __future__ import annotations

from collections.abc import Callable

from streaming.aggregation.functions.base import Named, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import OLDEST, Statistic


class First(Named):
    shown, examples = "first", ("first",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (OLDEST,)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        return rows(OLDEST)[2].copy()

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        return tiles.edge(rows[0], last=False)
