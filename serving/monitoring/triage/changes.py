"""How the world changes: other customers, another level of what belongs together, newcomers, or nothing but the time.

Each takes a stretch and gives what would have been seen there. What belongs together moves together, since one cause moves it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import Matrix
from serving.monitoring.triage.pool import Made, Pool

Change = Callable[[Pool, Made, np.random.Generator], Made]


def _ranks(column: Matrix) -> Matrix:
    """0..1 by value; nulls lie at the one end or the other, all of them: who has no value is another kind of customer."""
    order = np.argsort(np.argsort(np.nan_to_num(column, nan=-np.inf), kind="stable"), kind="stable")
    return order / max(len(column) - 1, 1)


def _shown(pool: Pool, rng: np.random.Generator, made: Made) -> int:
    """A column that has different values."""
    apart = [j for j in range(len(pool.views)) if np.unique(made.rows[:, j]).size > 1]
    return int(rng.choice(apart)) if apart else 0


def season(pool: Pool, made: Made, rng: np.random.Generator) -> Made:
    """Nothing but the time."""
    return made


def other_customers(pool: Pool, made: Made, rng: np.random.Generator) -> Made:
    """Those with a high (or low) value of an input come more often."""
    third = pool.third(rng)
    rank = _ranks(third.rows[:, _shown(pool, rng, third)])
    weight = np.exp(rng.uniform(2, 6) * rng.choice([-1, 1]) * rank)
    return third.take(np.sort(rng.choice(len(third), len(made), p=weight / weight.sum())))


def one_kind_of_customer(pool: Pool, made: Made, rng: np.random.Generator) -> Made:
    """Mostly those with a high (or low) value of an input come, or those with a frequent value: seldom nobody else does."""
    third = pool.third(rng)
    column = third.rows[:, _shown(pool, rng, third)]
    values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    if len(values) and len(values) <= 64 and rng.random() < 0.7:
        keep: NDArray[np.bool_] = column == rng.choice(values, p=counts / counts.sum())
    else:
        rank, share = _ranks(column), rng.uniform(0.15, 0.5)
        keep = rank >= 1 - share if rng.random() < 0.5 else rank <= share
    if not keep.any():
        return made
    others = max(1 - rng.uniform(0.4, 1.0), 0.02)
    weight = np.where(keep, (1 - others) / keep.sum(), others / max((~keep).sum(), 1))
    return third.take(np.sort(rng.choice(len(third), len(made), p=weight / weight.sum())))


def another_level(pool: Pool, made: Made, rng: np.random.Generator) -> Made:
    """What goes together goes up or down together, also beyond what there was: in one view, or in all of them."""
    view = str(rng.choice(pool.names))
    at = pool.places[view] if rng.random() < 0.5 else list(range(len(pool.views)))
    step = pool.direction(rng, at) * rng.uniform(0.7, 3) * rng.choice([-1, 1]) * pool.scale
    ramp = np.clip(np.linspace(0, rng.uniform(1, 4), len(made)), 0, 1)[:, None]
    rows = np.where(np.isnan(made.rows), np.nan, pool.natural(made.rows + ramp * step))
    untouched = np.broadcast_to(step == 0, rows.shape)
    return made.with_rows(np.where(untouched, made.rows, rows), np.full(len(made), np.nan))


def more_of_all(pool: Pool, made: Made, rng: np.random.Generator) -> Made:
    """The amounts of one view, or of all, grow or shrink by a factor (more customers, another currency of the whole world)."""
    positive = (pool.low >= 0) & (pool.high > 1) & ~pool.fixed
    view = str(rng.choice(pool.names))
    at = positive & (np.array([own == view for own in pool.views]) if rng.random() < 0.5 else True)
    factor = float(rng.choice([0.3, 0.5, 0.7, 1.4, 2, 3]))
    rows = np.where(at, pool.natural(made.rows * factor), made.rows)
    return made.with_rows(rows, np.full(len(made), np.nan))


def newcomers(pool: Pool, made: Made, rng: np.random.Generator) -> Made:
    """Some of the rows are of a few entities that nobody knew: one view's values are theirs, and of another view they have none yet."""
    at = pool.places[str(rng.choice(pool.names))]
    hit = rng.random(len(made)) < rng.uniform(0.1, 0.6)
    count = int(rng.choice([1, 3, 30, 200]))
    of = rng.integers(0, len(pool.whole), count)
    theirs = pool.whole.rows[of][:, at] + rng.normal(size=(count, len(at))) * pool.scale[at] * rng.choice([0, 0.5, 1.5])
    rows = made.rows.copy()
    whose = rng.integers(0, count, int(hit.sum()))
    full = np.tile(pool.mean, (len(whose), 1))
    full[:, at] = theirs[whose]
    rows[np.ix_(hit.nonzero()[0], np.array(at))] = np.where(np.isnan(theirs[whose]), np.nan, pool.natural(full)[:, at])
    nullable = [v for v in pool.names if np.isnan(pool.whole.rows[:, pool.places[v]]).any()]
    if nullable and rng.random() < 0.6:
        rows[np.ix_(hit.nonzero()[0], np.array(pool.places[str(rng.choice(nullable))]))] = np.nan
    return made.with_rows(rows, np.full(len(made), np.nan))


CHANGES: tuple[Change, ...] = (season, other_customers, one_kind_of_customer, another_level, more_of_all, newcomers)
"""Every way; one that is not here is not there."""
