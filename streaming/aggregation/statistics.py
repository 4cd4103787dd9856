"""Statistics: the parts that a state is made of, such as a count or a sum.

Each is one or more rows of float64. It is made from an event (`prepare`), and two of them are merged (`merge`). Merging is commutative
and associative: the order and grouping do not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from streaming.aggregation.pairs import Floats, add, finite, two_product


class Statistic(ABC):
    """
    Attributes:
        name: what a state's rows are known by, beside the column they are of.
        identity: a state without events, a number per row.
    """

    name: str
    identity: tuple[float, ...]

    @property
    def rows(self) -> int:
        return len(self.identity)

    @abstractmethod
    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        """Make a state of each event.

        Args:
            values: float64 `[n]`, NaN where null.
            present: bool `[n]`: where they are not.
            event_us, known_us: int64 `[n]`, microseconds.
            out: `[rows, n]`, holds the identity.
        """

    @abstractmethod
    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        """Merge two states `[rows, n]`."""


class Count(Statistic):
    """How many values there are."""

    name, identity = "n", (0.0,)

    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        out[0] = present

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        out[0] = a[0] + b[0]


class Sum(Statistic):
    """Their sum, as a pair."""

    name, identity = "sum", (0.0, 0.0)

    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        out[0] = np.where(present, values, 0.0)

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        out[0], out[1] = add(a[0], a[1], b[0], b[1])


class Squares(Sum):
    """The sum of their squares, as a pair."""

    name = "square"

    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            hi, lo = finite(*two_product(values, values))
        out[0], out[1] = np.where(present, hi, 0.0), np.where(present, lo, 0.0)


class Least(Statistic):
    """The least of them."""

    name, identity = "min", (np.inf,)

    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        out[0] = np.where(present, values, out[0])

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        out[0] = np.minimum(a[0], b[0])


class Greatest(Least):
    """The greatest of them."""

    name, identity = "max", (-np.inf,)

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        out[0] = np.maximum(a[0], b[0])


class Newest(Statistic):
    """The newest value, with its event time and its known time.

    Of values with one event time, the one that became known later; of those with one known time as well, the greater one. So there is
    always exactly one, whatever the order of merging.
    """

    name, identity = "last", (-np.inf, -np.inf, np.nan)

    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        out[:, present] = np.stack([event_us[present], known_us[present], values[present]]).astype(np.float64)

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        newer = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] > a[1]))
        tie = (b[0] == a[0]) & (b[1] == a[1]) & (b[2] > a[2])
        out[:] = np.where(newer | tie, b, a)


class Oldest(Newest):
    """The oldest value, as `Newest`: of values with one event time, the one that became known earlier; then the lesser one."""

    name, identity = "first", (np.inf, np.inf, np.nan)

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        older = (b[0] < a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        tie = (b[0] == a[0]) & (b[1] == a[1]) & (b[2] < a[2])
        out[:] = np.where(older | tie, b, a)


class Decayed(Statistic):
    """Values weighted by `2 ** (time / half-life)`, where the time is the beginning of the event's hop.

    Such weights would grow beyond float64 as years pass. So a state has five rows: an exponent B, the weighted sum (a pair) and the sum of
    the weights (a pair). Both sums are to be multiplied by `2 ** B`. To merge two states, both are brought to the greater B; that only
    shifts exponents, which loses nothing. Then they are added. So a state does not grow with time, and the order of merging does not matter.
    """

    identity = (-np.inf, 0.0, 0.0, 0.0, 0.0)
    _LEAST: ClassVar[int] = -2200
    """An exponent that is lower than another by more than this counts for nothing: a float64 shifted so far is 0."""

    def __init__(self, half_life_us: int, hop_us: int) -> None:
        self.half_life_us, self.hop_us = half_life_us, hop_us
        self.name = f"decayed:{half_life_us}:{hop_us}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decayed) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def weights(self) -> Floats:
        """The weights of the hops of one half-life: from 1/2 up to, but below, 1. They stay below one so that no product with a value overflows."""
        hops = self.half_life_us // self.hop_us
        return np.array([2.0 ** (i / hops - 1) for i in range(hops)])

    def prepare(self, values: Floats, present: Any, event_us: Any, known_us: Any, out: Floats) -> None:
        power, hop = np.divmod(event_us[present] // self.hop_us, len(self.weights))
        weight = self.weights[hop]
        with np.errstate(over="ignore", invalid="ignore"):
            hi, lo = finite(*two_product(values[present], weight))
        out[:, present] = np.stack([power.astype(np.float64), hi, lo, weight, np.zeros(len(weight))])

    def merge(self, a: Floats, b: Floats, out: Floats) -> None:
        out[0] = np.maximum(a[0], b[0])
        left, right = (self._shifted(one, out[0]) for one in (a, b))
        out[1], out[2] = add(left[0], left[1], right[0], right[1])
        out[3], out[4] = add(left[2], left[3], right[2], right[3])

    def _shifted(self, state: Floats, power: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            by = np.clip(np.nan_to_num(state[0] - power, nan=0.0, neginf=self._LEAST), self._LEAST, 0).astype(np.int64)
        return np.asarray(np.ldexp(state[1:], by))


COUNT, SUM, SQUARES, LEAST, GREATEST, NEWEST, OLDEST = Count(), Sum(), Squares(), Least(), Greatest(), Newest(), Oldest()
