"""The newest of a window's values; null where it holds none. Of equally new ones, the one that became known later; then the greater one."""

from __future__ import annotations

from collections.abc import Callable

from streaming.aggregation.functions.base import Named, Tiles
from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import NEWEST, Statistic


class Last(Named):
    shown, examples = "last", ("last",)

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        return (NEWEST,)

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        return rows(NEWEST)[2].copy()

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        return tiles.edge(rows[0], last=True)
