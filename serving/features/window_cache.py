"""Finished windows of entities that are asked for again and again: kept while they are exactly what would be computed anew.

Nothing here is a guess: the tiles are read for every request; only where they are byte for byte the ones before, and no tile has entered
or left a window since, are the values those of before.
"""

from __future__ import annotations

from streaming.aggregation.finisher import Finisher


class WindowCache:
    """
    Args:
        limit: bytes of tiles that are remembered; 0: none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[tuple[bytes, int], tuple[bytes, int, int, list[float]]] = {}
        self._size = 0

    def finish(self, identity: tuple[bytes, int], finisher: Finisher, blob: bytes, now_us: int) -> list[float]:
        """A view's windows at `now_us`; the list must not be changed.

        Args:
            identity: entity key and the view's number in the plan.
        """
        before = self._kept.get(identity)
        if before is not None and before[1] <= now_us < before[2] and before[0] == blob:
            return before[3]
        values, until_us = finisher.finish(blob, now_us)
        if self.limit:
            self._size += len(blob) - (len(before[0]) if before else 0)
            if self._size > self.limit:
                self._kept.clear()
                self._size = len(blob)
            self._kept[identity] = blob, now_us, until_us, values
        return values
