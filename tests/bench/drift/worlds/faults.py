"""What may break, by place: functions that make a fault which begins at a moment. `tests.bench.drift.worlds.cases` puts them together.

Of the source: raw rows → raw rows. Of the stream: deliveries → deliveries. Of the request: requests → requests. Of the store: changes what
a view gives. Rows before `begins_us` are never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from serving.monitoring.hours import HOUR_US
from tests.bench.drift.worlds.pipe import NOBODY, Rows, Served
from tests.bench.drift.worlds.tables import DELIVERED, EVENT_TIME, KNOWN_TIME, US, moments, replaced
from tests.bench.drift.worlds.world import Floats, Ints, chosen

Store = Callable[[Served], None]
NEVER_US = 2**62
"""A delivery that does not come."""


def _numbers(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].cast(pa.float64()).fill_null(np.nan).to_numpy(), dtype=np.float64)


def _hit(table: pa.Table, begins_us: int, share: float = 1.0, seed: int = 3) -> np.ndarray:
    """Rows since then, or a share of them, drawn; bool [n]."""
    since = moments(table) >= begins_us
    return since if share >= 1 else since & (np.random.default_rng(seed).random(table.num_rows) < share)


# Of raw rows, and of requests


def changed(name: str, change: Callable[[Floats], Floats], begins_us: int, share: float = 1.0) -> Rows:
    """A column's values are others: `change` float64 [n] → [n], NaN is null. Examples: another unit, a bound, a sign, a sentinel."""

    def act(table: pa.Table) -> pa.Table:
        values = change(_numbers(table, name))
        return replaced(table, name, pa.array(values, mask=np.isnan(values)), _hit(table, begins_us, share))

    return act


def constant(name: str, value: float, begins_us: int, share: float = 1.0) -> Rows:
    """A column is one value: a stuck sensor, a sentinel."""
    return changed(name, lambda x: np.full_like(x, value), begins_us, share)


def emptied(name: str, begins_us: int, share: float = 1.0) -> Rows:
    """A column is null."""
    return changed(name, lambda x: np.full_like(x, np.nan), begins_us, share)


def exchanged(one: str, other: str, begins_us: int) -> Rows:
    """Two columns in each other's place."""

    def act(table: pa.Table) -> pa.Table:
        hit = _hit(table, begins_us)
        first, second = table[one], table[other]
        return replaced(replaced(table, one, second, hit), other, first, hit)

    return act


def silent(begins_us: int) -> Rows:
    """A source from which nothing comes any more."""
    return lambda table: table.filter(pa.array(moments(table) < begins_us))


def without(key: str, share: float, begins_us: int) -> Rows:
    """A source from which nothing comes any more of some keys."""

    def act(table: pa.Table) -> pa.Table:
        gone = _hit(table, begins_us) & chosen(table[key].to_numpy(zero_copy_only=False), share)
        return table.filter(pa.array(~gone))

    return act


def doubled(begins_us: int, share: float = 1.0) -> Rows:
    """Rows that are there twice."""

    def act(table: pa.Table) -> pa.Table:
        again = table.filter(pa.array(_hit(table, begins_us, share)))
        return pa.concat_tables([table, again]).sort_by(KNOWN_TIME if KNOWN_TIME in table.column_names else EVENT_TIME)

    return act


def misdated(hours: float, begins_us: int) -> Rows:
    """Rows of a source that say another time than it was (local time taken for UTC); they become known when they did."""

    def act(table: pa.Table) -> pa.Table:
        at = moments(table) + np.where(_hit(table, begins_us), int(hours * HOUR_US), 0)
        return table.set_column(table.column_names.index(EVENT_TIME), EVENT_TIME, pa.array(at, US))

    return act


def shifted(name: str, hours: float, begins_us: int) -> Rows:
    """A moment in the request is another (its time zone is lost)."""

    def act(table: pa.Table) -> pa.Table:
        at = moments(table, name) + np.where(_hit(table, begins_us), int(hours * HOUR_US), 0)
        return table.set_column(table.column_names.index(name), name, pa.array(at, US))

    return act


def renamed(key: str, prefix: str, begins_us: int, share: float = 1.0) -> Rows:
    """A key is written otherwise, so that nobody knows it."""

    def act(table: pa.Table) -> pa.Table:
        names = np.array([prefix + name for name in table[key].to_pylist()], dtype=object)
        return replaced(table, key, pa.array(names, pa.string()), _hit(table, begins_us, share))

    return act


# Of the stream


def lost(share: float, begins_us: int) -> Rows:
    """A share of the events never reaches the online store."""
    return lambda table: table.filter(pa.array(~_hit(table, begins_us, share)))


def late(hours: float, begins_us: int, share: float = 1.0) -> Rows:
    """Events (or a share, which puts them out of order) reach the online store so many hours after they were known."""

    def act(table: pa.Table) -> pa.Table:
        at = table[DELIVERED].to_numpy() + np.where(_hit(table, begins_us, share), int(hours * HOUR_US), 0)
        return table.set_column(table.column_names.index(DELIVERED), DELIVERED, pa.array(at, pa.int64()))

    return act


def stopped(begins_us: int) -> Rows:
    """Nothing reaches the online store any more."""
    return lambda table: table.filter(pa.array(table[DELIVERED].to_numpy() < begins_us))


# Of the store


def _since(served: Served, begins_us: int) -> np.ndarray:
    return served.at_us >= begins_us


def _take(served: Served, other: Served, rows: np.ndarray) -> None:
    for name in ("values", "known_us", "ties", "event_us", "letters"):
        getattr(served, name)[rows] = getattr(other, name)[rows]


def frozen(begins_us: int) -> Store:
    """What was read at that moment is given ever since."""

    def act(served: Served) -> None:
        assert served.again is not None
        then: Ints = np.minimum(served.at_us, begins_us)
        _take(served, served.again(then, served.key), _since(served, begins_us))

    return act


def wrong_key(begins_us: int, seed: int = 5) -> Store:
    """The row of another entity is given."""

    def act(served: Served) -> None:
        assert served.again is not None
        unique = np.unique(served.key.astype(str))
        moved = dict(zip(unique, np.roll(np.random.default_rng(seed).permutation(unique), 1), strict=True))
        others = np.array([moved[str(name)] for name in served.key], dtype=object)
        _take(served, served.again(served.at_us, others), _since(served, begins_us))

    return act


def missing(share: float, begins_us: int) -> Store:
    """The rows of some keys are gone."""

    def act(served: Served) -> None:
        assert served.again is not None
        nobody = np.full(len(served.key), "nobody at all", dtype=object)
        _take(served, served.again(served.at_us, nobody), _since(served, begins_us) & chosen(served.key, share))

    return act


def overwritten(name: str, change: Callable[[Floats], Floats], begins_us: int) -> Store:
    """A feature's values are others: another unit, nulls as zeros, a rounding. `change`: float64 [n] → [n]."""

    def act(served: Served) -> None:
        rows, place = _since(served, begins_us) & (served.known_us != NOBODY), served.names.index(name)
        after = change(served.values[rows, place])
        letters = served.letters[rows, place]
        letters[np.isnan(after)], letters[~np.isnan(after) & (letters == b"n")] = b"n", b"f"
        served.values[rows, place], served.letters[rows, place] = after, letters

    return act


def scored_otherwise(place: int, change: Callable[[Floats], Floats], begins_us: int) -> Any:
    """The model gets another value than the one that is logged: input number `place`."""

    def act(matrix: Floats, at_us: Ints) -> Floats:
        rows = at_us >= begins_us
        matrix[rows, place] = change(matrix[rows, place])
        return matrix

    return act
