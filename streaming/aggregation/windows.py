"""The arithmetic of windowed features: make a partial state of an event, merge states, finish a window.

Example: a mean over one hour. The state of an event is (1, its value): a count and a sum. Merging two states adds both. Finishing
divides the sum by the count.

A window of length W with hop H, asked at *t*, covers the events of one entity with `floor_H(t - W) <= event_time <= t`. Its old end lies
on a whole hop; its new end is the moment itself (a *sawtooth* window; docs/semantics/windows.md). Every engine - batch join, backfill,
stream, online reader - takes the same steps:

1. `Layout.prepare`: raw values -> one state column per event (shape `[components, events]`);
2. `Layout.merge`: two states -> one; commutative and associative, so tiles may be built in any order and grouping;
3. `Layout.finish`: a state -> the feature's value, NaN for null.

A state is float64 throughout. A sum is carried as a pair of float64, which together hold about 106 bits (`streaming.aggregation.pairs`).
So the rounded result does not depend on the order of the additions: the stream adds event by event, the join adds as a tree, and both
get the same number.

Times are int64 microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streaming.aggregation.functions.table import function_of
from streaming.aggregation.statistics import Statistic

HASHED = "#"
"""Prefix of an input column that holds hashes of a column's values."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def default_hop(window_us: int) -> int:
    """Hop of a window that declares none: 5 minutes below 12 hours, 1 hour below 12 days, 1 day from there (Chronon's rule)."""
    if window_us < 12 * HOUR:
        return 5 * MINUTE
    return HOUR if window_us < 12 * DAY else DAY


@dataclass(frozen=True)
class Aggregation:
    """One windowed feature.

    Args:
        name: the feature's name in its view.
        column: column of the source that is aggregated; its nulls (and NaN) are skipped.
        function: by its name in `streaming.aggregation.functions.table`.
        window_us: length W, microseconds.
        hop_us: hop H, microseconds; 0 takes `default_hop`.
    """

    name: str
    column: str
    function: str
    window_us: int
    hop_us: int = 0

    def __post_init__(self) -> None:
        try:
            function = function_of(self.function)
        except ValueError as error:
            raise ValueError(f"aggregation {self.name!r}: {error}") from None
        if self.window_us <= 0:
            raise ValueError(f"aggregation {self.name!r}: a time_window longer than zero is needed")
        if not self.hop_us:
            object.__setattr__(self, "hop_us", default_hop(self.window_us))
        if not 0 < self.hop_us <= self.window_us:
            raise ValueError(f"aggregation {self.name!r}: the hop ({self.hop_us} us) must be within its window ({self.window_us} us)")
        try:
            function.check(self.window_us, self.hop_us)
        except ValueError as error:
            raise ValueError(f"aggregation {self.name!r}: {error}") from None

    @property
    def kind(self) -> str | None:
        """Of its sketch; None for an exact function."""
        return function_of(self.function).sketch

    @property
    def meaning(self) -> tuple[str, str, int, int]:
        """What it computes, whatever it is called."""
        return self.column, self.function, self.window_us, self.hop_us

    @property
    def input(self) -> str:
        """The column it reads, by its name among the inputs."""
        return HASHED + self.column if function_of(self.function).hashes else self.column


_WHOLE = {"int32": 2.0**31, "int64": 2.0**63}


def declared(values: Floats, dtype: str) -> Floats:
    """Finished windows as the feature's declared type has them. Every engine calls this, so all get the same number.

    Example: 29.7 is 29 as `int64`; 3e9 is null as `int32`, which cannot hold it.

    Single precision is rounded to. Whole numbers are cut towards zero, and are null where the type cannot hold them. A bool is whether the
    value is not zero.

    Args:
        values: float64 `[n]`, NaN for null.
        dtype: of the feature, as in `streaming.schema.feature_view`; one that is not named here leaves the values as they are.

    Returns:
        float64 `[n]`, NaN for null.
    """
    if dtype == "float":
        with np.errstate(over="ignore"):
            return values.astype(np.float32).astype(np.float64)
    if dtype == "bool":
        return np.where(np.isnan(values), np.nan, values != 0)
    if dtype in _WHOLE:
        most = _WHOLE[dtype]
        whole = np.trunc(values)
        return np.where((whole >= -most) & (whole < most), whole, np.nan)
    return values


def tail(t_us: Ints, window_us: int, hop_us: int) -> Ints:
    """First moment a window ending at `t_us` covers: `floor_H(t - W)`."""
    start = t_us - window_us
    return start - start % hop_us


@dataclass(frozen=True)
class Layout:
    """Which rows a state has for a set of aggregations, and the three operations on it.

    Attributes:
        aggregations: the features, in declared order.
        slots: `(column, statistic's name) -> first row`, of the exact ones.
        statistics: by name.
        size: rows of a state, C.
        sketches: `(input column, kind)` of the others, each once.
    """

    aggregations: tuple[Aggregation, ...]
    slots: Mapping[tuple[str, str], int] = field(init=False)
    statistics: Mapping[str, Statistic] = field(init=False)
    size: int = field(init=False)
    sketches: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        slots: dict[tuple[str, str], int] = {}
        statistics: dict[str, Statistic] = {}
        size = 0
        for aggregation in self.aggregations:
            for statistic in function_of(aggregation.function).needs(aggregation.hop_us):
                if (aggregation.column, statistic.name) not in slots:
                    slots[aggregation.column, statistic.name] = size
                    statistics[statistic.name] = statistic
                    size += statistic.rows
        object.__setattr__(self, "statistics", statistics)
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "sketches", tuple(dict.fromkeys((a.input, a.kind) for a in self.aggregations if a.kind)))

    @classmethod
    def of(cls, aggregations: Sequence[Aggregation]) -> Layout:
        return cls(tuple(aggregations))

    @classmethod
    def canonical(cls, aggregations: Sequence[Aggregation]) -> Layout:
        """The layout of a set of aggregations: the same whatever their order and names."""
        return cls(tuple(sorted(aggregations, key=lambda a: (a.meaning, a.name))))

    @property
    def widths(self) -> list[tuple[tuple[str, str], int]]:
        """Every slot with its number of rows, in the order of the rows."""
        return [(slot, self.statistics[slot[1]].rows) for slot in self.slots]

    @property
    def columns(self) -> list[str]:
        """Inputs of the aggregations, each once: source columns, or `#column` for the hashes of one."""
        return list(dict.fromkeys(a.input for a in self.aggregations))

    def identity(self, n: int) -> Floats:
        """n empty states, shape `[C, n]`."""
        state = np.empty((self.size, n))
        for (_, name), row in self.slots.items():
            for offset, value in enumerate(self.statistics[name].identity):
                state[row + offset] = value
        return state

    def prepare(self, columns: Mapping[str, Floats], event_us: Ints, known_us: Ints) -> Floats:
        """One state per event.

        Args:
            columns: float64 `[n]` per source column, NaN where null.
            event_us: event times, int64 `[n]`.
            known_us: known times, int64 `[n]` (breaks ties of `last`).

        Returns:
            float64 `[C, n]`.
        """
        state = self.identity(len(event_us))
        for (column, name), row in self.slots.items():
            statistic, values = self.statistics[name], columns[column]
            statistic.prepare(values, ~np.isnan(values), event_us, known_us, state[row : row + statistic.rows])
        return state

    def merge(self, a: Floats, b: Floats) -> Floats:
        """Merge two states of the same shape `[C, n]` column by column."""
        out = np.empty_like(a)
        with np.errstate(invalid="ignore", over="ignore"):
            for (_, name), row in self.slots.items():
                rows = slice(row, row + self.statistics[name].rows)
                self.statistics[name].merge(a[rows], b[rows], out[rows])
        return out

    def finish(self, aggregation: Aggregation, state: Floats) -> Floats:
        """The feature's value for each state `[C, n]`; NaN is null."""

        def rows(statistic: Statistic) -> Floats:
            first = self.slots[aggregation.column, statistic.name]
            return state[first : first + statistic.rows]

        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return function_of(aggregation.function).finish(rows, aggregation.hop_us)


class RangeTree:
    """Merged states of any contiguous range of leaves in O(log n), for many ranges at once.

    Level k holds the merge of each aligned block of 2**k leaves; a range is put together from at most two blocks per level.

    Args:
        layout: whose states.
        leaves: float64 `[C, n]`.
    """

    def __init__(self, layout: Layout, leaves: Floats) -> None:
        self.layout = layout
        self.levels = [leaves]
        while self.levels[-1].shape[1] > 1:
            below = self.levels[-1]
            pairs = below.shape[1] // 2
            # the odd one out at the end is never asked for above its own level
            self.levels.append(layout.merge(below[:, 0 : 2 * pairs : 2], below[:, 1 : 2 * pairs : 2]))

    def query(self, start: Ints, stop: Ints) -> Floats:
        """Merged states of the leaves `[start, stop)`; shape `[C, len(start)]`; empty ranges give the identity."""
        out = self.layout.identity(len(start))
        active = np.flatnonzero(start < stop)
        lo, hi = start[active], stop[active]
        for level in self.levels:
            if not len(active):
                break
            odd = (lo & 1) == 1
            if odd.any():
                out[:, active[odd]] = self.layout.merge(out[:, active[odd]], level[:, lo[odd]])
            lo = (lo + 1) >> 1
            odd = (hi & 1) == 1
            if odd.any():
                out[:, active[odd]] = self.layout.merge(out[:, active[odd]], level[:, hi[odd] - 1])
            hi >>= 1
            more = lo < hi
            active, lo, hi = active[more], lo[more], hi[more]
        return out


NEVER = np.iinfo(np.int64).min // 4
"""A time before every event, with room to subtract windows from."""
