"""What an aggregation function is: which statistics it needs of a column, and how a window's value is finished from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from streaming.aggregation.pairs import Floats
from streaming.aggregation.statistics import Statistic

NAN = float("nan")
"""Null, as a window's value."""


class Tiles(Protocol):
    """The tiles of one window of one entity, ascending in time, row by row of their state. What is computed once is kept.

    A pair takes two rows: those of its first and second halves.
    """

    def row(self, row: int) -> list[float]:
        """A number per tile."""

    def count(self, row: int) -> float:
        """The sum of a row of whole numbers."""

    def total(self, row: int) -> float:
        """The sum of a row of pairs, rounded once."""

    def pair(self, row: int) -> tuple[float, float]:
        """The sum of a row of pairs as a pair: rounded once, and what the rounding left."""

    def edge(self, row: int, last: bool) -> float:
        """The value of the first or last tile that has one, of rows (event time, known time, value); NaN where none has."""


class Function(ABC):
    """
    Attributes:
        shown: how its names are written, for people: `mean`, `p50 (any p0 to p100)`.
        examples: names by which the conformance suite runs it.
        sketch: the kind of its sketch (`streaming.aggregation.sketches`); None: it is finished from statistics.
        hashes: whether it reads hashes of its column's values instead of numbers.
    """

    shown: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    sketch: str | None = None
    hashes: bool = False

    @classmethod
    @abstractmethod
    def of(cls, name: str) -> Function | None:
        """The function of this name; None where it is another's.

        Raises:
            ValueError: it is this one's, and says something that it cannot do.
        """

    def check(self, window_us: int, hop_us: int) -> None:  # noqa: B027  # most can be computed over any
        """Whether it can be computed over such a window.

        Raises:
            ValueError: it cannot; the message says what to change.
        """

    def needs(self, hop_us: int) -> tuple[Statistic, ...]:
        """The statistics it is finished from, of tiles of such a hop."""
        return ()

    def finish(self, rows: Callable[[Statistic], Floats], hop_us: int) -> Floats:
        """The value of each of n states; NaN is null.

        Args:
            rows: of a statistic, `[rows, n]`.
        """
        raise NotImplementedError

    def finish_tiles(self, tiles: Tiles, rows: tuple[int, ...]) -> float:
        """The same number from an entity's tiles, without NumPy: the hot path of a request.

        Args:
            rows: the first row of each statistic that it needs.
        """
        raise NotImplementedError


class Named(Function):
    """One with a single name."""

    @classmethod
    def of(cls, name: str) -> Function | None:
        return cls() if name == cls.shown else None
