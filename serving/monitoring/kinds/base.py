"""What a kind of drift is: the effect of a window, and of every stretch of the reference where nothing has drifted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import Matrix

if TYPE_CHECKING:
    from serving.monitoring.kinds.stretch import Stretch


@dataclass(frozen=True)
class Shares:
    """The different values of a column, float64 [u] ascending, and the share of each, 0..1."""

    value: Matrix
    share: Matrix

    @classmethod
    def of(cls, values: Matrix) -> Shares:
        """`values`: float64 [m] without nulls."""
        found, counts = np.unique(values, return_counts=True)
        return cls(found, counts / max(len(values), 1))

    def at(self, values: Matrix) -> Matrix:
        """The share of each of these values, float64 [m]; 0 for those it lacks."""
        if not len(self.value):
            return np.zeros(len(values))
        place = np.searchsorted(self.value, values).clip(max=len(self.value) - 1)
        return np.where(self.value[place] == values, self.share[place], 0.0)

    def gains(self, usual: Shares) -> Matrix:
        """By how much the share of each of its values exceeds the usual one, float64 [u]."""
        return self.share - usual.at(self.value)

    def unseen(self, values: Matrix, codes: bool) -> float:
        """The share of these that are none of its values (`codes`), or beyond its smallest or largest. `values`: float64 [m], m > 0."""
        if codes:
            return float((self.at(values) == 0).mean())
        low, high = (self.value[0], self.value[-1]) if len(self.value) else (0.0, 0.0)
        return float(((values < low) | (values > high)).mean())


@dataclass(frozen=True)
class Window:
    """A window and what it is compared with.

    Attributes:
        rows: float64 [m, F]; NaN is null.
        reference: as many reference rows as there are, in the window's mix of hours, float64 [n, F].
        usual: the values of the whole reference, by column.
        categories: columns whose values are codes, bool [F].
        statistics: Kolmogorov–Smirnov statistic by column, float64 [F]; 0 where there are too few values.
        departures: from `Relations.departures`, float64 [4, F]; 0 where the reference has no moments.
    """

    rows: Matrix
    reference: Matrix
    usual: list[Shares]
    categories: NDArray[np.bool_]
    statistics: Matrix
    departures: Matrix

    @cached_property
    def values(self) -> list[Matrix]:
        """Of each column, without nulls."""
        return [column[~np.isnan(column)] for column in self.rows.T]

    @cached_property
    def shares(self) -> list[Shares]:
        return [Shares.of(values) for values in self.values]


class DriftKind(ABC):
    """
    Attributes:
        name: as verdicts have it.
        cause: what a verdict says where this kind is the one that drifted the most.
        matters: the smallest effect that counts as drift.
        family: kinds that are judged together. What is `rare` (a record cold, an outage) is far out, and would hide the
            smaller records of what is `gradual`.
        relational: whether it compares a column with what it goes with, instead of with itself.
    """

    name: ClassVar[str]
    cause: ClassVar[str]
    matters: ClassVar[float]
    family: ClassVar[Literal["gradual", "rare"]]
    relational: ClassVar[bool] = False

    @abstractmethod
    def of_window(self, at: Window) -> Matrix:
        """The effect by column, float64 [F], 0 or more."""

    @abstractmethod
    def of_stretch(self, at: Stretch) -> Matrix:
        """The same of a stretch of the reference against all its other rows, float64 [F]."""
