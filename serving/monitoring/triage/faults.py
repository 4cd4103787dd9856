"""How a pipeline breaks: what is done to the values of one view, and to nothing else.

Each takes the values of one column, or of all columns of a view, and gives what is served instead. The others stay as they are: that is
what tells a fault from a change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serving.monitoring.hours import Matrix

Fault = Callable[[Matrix, np.random.Generator], Matrix]
"""Of values float64 [m, k], in order of time; NaN is null."""


def unit(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Another unit."""
    factor, more = [(1.8, 32.0), (1 / 1.609, 0.0), (60.0, 0.0), (1 / 60, 0.0), (1000.0, 0.0), (0.01, 0.0), (100.0, 0.0), (0.4536, 0.0)][
        int(rng.integers(0, 8))
    ]
    return values * factor + more


def offset(values: Matrix, rng: np.random.Generator) -> Matrix:
    """A constant is added."""
    spread = np.nan_to_num(np.nanstd(values, axis=0)) if np.isfinite(values).any() else np.zeros(values.shape[1])
    return np.asarray(values + rng.uniform(1, 4) * rng.choice([-1, 1]) * spread)


def sign(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Minus became plus."""
    return -values


def twice(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Counted twice."""
    return values * 2


def constant(values: Matrix, rng: np.random.Generator) -> Matrix:
    """The value of one moment, for ever."""
    known = values[~np.isnan(values).any(axis=1)]
    return np.tile(known[int(rng.integers(0, len(known)))], (len(values), 1)) if len(known) else values


def old(values: Matrix, rng: np.random.Generator) -> Matrix:
    """As it was some time before."""
    return np.roll(values, int(len(values) * rng.uniform(0.2, 0.8)), axis=0)


def wrong_key(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Those of another row."""
    return values[rng.permutation(len(values))]


def lost(values: Matrix, rng: np.random.Generator) -> Matrix:
    """None is there, in some of the rows or in all."""
    hit = rng.random(len(values)) < rng.choice([0.15, 0.3, 0.6, 1.0])
    return np.where(hit[:, None], np.nan, values)


def sentinel(values: Matrix, rng: np.random.Generator) -> Matrix:
    """A number that stands for none."""
    hit = rng.random(len(values)) < rng.choice([0.1, 0.3, 0.8])
    return np.where(hit[:, None], float(rng.choice([-9999.0, -999.0, -1.0, 0.0, 9999.0])), values)


def null_as_zero(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Zeros where there is nothing; where there always is something, a part of it is written over."""
    hit = np.isnan(values) if np.isnan(values).any() else (rng.random(len(values)) < 0.2)[:, None]
    return np.where(hit, 0.0, values)


def cut(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Cut off at a bound."""
    share = rng.uniform(0.2, 0.7)
    bound = [np.quantile(column[~np.isnan(column)], share) if (~np.isnan(column)).any() else 0.0 for column in values.T]
    return np.minimum(values, bound) if rng.random() < 0.5 else np.maximum(values, bound)


def another_clock(values: Matrix, rng: np.random.Generator) -> Matrix:
    """As it is some rows later or earlier, by a few percent of the window."""
    return np.roll(values, int(len(values) * rng.uniform(0.01, 0.1)) * int(rng.choice([-1, 1])), axis=0)


FAULTS: tuple[Fault, ...] = (unit, offset, sign, twice, constant, old, wrong_key, lost, sentinel, null_as_zero, cut, another_clock)
"""Every way; one that is not here is not there."""
