"""What a metric is: a number for labels and scores, its 95 % interval, and which way is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], float]
"""The metric of rows drawn: counts `[n]` -> value, NaN where it is not defined for them."""
Z = 1.959963984540054
"""Standard errors to the bounds of a 95 % interval."""
NAN = float("nan")


class Estimate(msgspec.Struct, frozen=True):
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


class Metric(ABC):
    """
    Attributes:
        name: as YAML, contracts and `/metrics` have it.
        title: for people.
        better: 1 where a larger value is better, -1 where a smaller one is; 0: it does not say how
            good a model is, and models are not compared by it.
        drawn: whether its interval is drawn by bootstrap. A drawn one is shown of live answers only.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    better: ClassVar[int]
    drawn: ClassVar[bool] = False

    @abstractmethod
    def value(self, label: Floats, score: Floats) -> float:
        """
        Args:
            label: 0/1 `[n]`.
            score: probabilities `[n]`.

        Returns:
            NaN where it is not defined: no rows, or one class only where it needs two.
        """

    @abstractmethod
    def interval(self, label: Floats, score: Floats) -> tuple[float, float]:
        """The bounds of its 95 % interval; NaN where it has none. Arguments as for `value`."""

    @abstractmethod
    def weighted(self, label: Floats, score: Floats) -> Weighted:
        """The metric of rows that are drawn again and again, in O(n) a draw. Arguments as for `value`."""

    def worse(self, live: Estimate, than: float, by: float) -> bool:
        """Whether the whole interval is worse than a value by more than `by`."""
        return live.high < than - by if self.better > 0 else live.low > than + by


class MeanOfRows(Metric):
    """A metric that is the mean of a number per row: its interval is from the standard error."""

    @abstractmethod
    def of_rows(self, label: Floats, score: Floats) -> Floats:
        """The number of each row, `[n]`."""

    def interval(self, label: Floats, score: Floats) -> tuple[float, float]:
        values = self.of_rows(label, score)
        if len(values) < 2:
            return NAN, NAN
        error = Z * float(values.std(ddof=1)) / len(values) ** 0.5
        return float(values.mean()) - error, float(values.mean()) + error

    def weighted(self, label: Floats, score: Floats) -> Weighted:
        values = self.of_rows(label, score)
        return lambda weights: float(weights @ values / weights.sum())
