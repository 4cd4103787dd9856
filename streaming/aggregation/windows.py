"""The arithmetic of windowed features: make a partial state of an event, merge states, finish a window.

A windowed feature at time *t* covers the events of one entity with `floor_H(t - W) <= event_time <= t`: aligned to hops of H at the
tail, exact at the head (a *sawtooth* window). Every engine - batch join, backfill, stream, online reader - goes through the same steps:

1. `Layout.prepare`: raw values -> one state column per event (shape `[components, events]`);
2. `Layout.merge`: two states -> one; commutative and associative, so tiles may be built in any order and grouping;
3. `Layout.finish`: a state -> the feature's value, NaN for null.

A state is float64 throughout. Sums and sums of squares are carried as unevaluated pairs (hi, lo) of about 106 bits, so that the rounded
result does not depend on the order or grouping of the additions: what the stream adds up event by event is the very number that the join
adds up as a tree. (Dekker 1971; Hida, Li & Bailey 2001, "Library for double-double arithmetic".)

Times are int64 microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from streaming.aggregation import sketches

Function = Literal["count", "sum", "mean", "min", "max", "std", "last", "first"]
FUNCTIONS: tuple[str, ...] = get_args(Function)
"""Exact ones; `count_distinct`, `p50`, `p99.9` and the like are sketches (`streaming.aggregation.sketches`)."""

HASHED = "#"
"""Prefix of an input column that holds hashes of a column's values."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Number = TypeVar("Number", float, Floats)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# What each function needs to know about a column, and how many rows of state that takes.
_NEEDS: dict[str, tuple[str, ...]] = {
    "count": ("n",),
    "sum": ("n", "sum"),
    "mean": ("n", "sum"),
    "min": ("n", "min"),
    "max": ("n", "max"),
    "std": ("n", "sum", "square"),
    "last": ("last",),
    "first": ("first",),
}
_ROWS = {"n": 1, "sum": 2, "square": 2, "min": 1, "max": 1, "last": 3, "first": 3}
_IDENTITY = {
    "n": (0.0,),
    "sum": (0.0, 0.0),
    "square": (0.0, 0.0),
    "min": (np.inf,),
    "max": (-np.inf,),
    "last": (-np.inf, -np.inf, np.nan),
    "first": (np.inf, np.inf, np.nan),
}


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
        function: one of `FUNCTIONS`, `count_distinct`, or a quantile such as `p95` (`median` is `p50`).
        window_us: length W, microseconds.
        hop_us: hop H, microseconds; 0 takes `default_hop`.
    """

    name: str
    column: str
    function: str
    window_us: int
    hop_us: int = 0

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS and sketches.kind_of(self.function) is None:
            known = ", ".join((*FUNCTIONS, "count_distinct", "p50 (any p0 to p100)", "median"))
            raise ValueError(f"aggregation {self.name!r}: function {self.function!r} is not one of {known}")
        if self.window_us <= 0:
            raise ValueError(f"aggregation {self.name!r}: a time_window longer than zero is needed")
        if not self.hop_us:
            object.__setattr__(self, "hop_us", default_hop(self.window_us))
        if not 0 < self.hop_us <= self.window_us:
            raise ValueError(f"aggregation {self.name!r}: the hop ({self.hop_us} us) must be within its window ({self.window_us} us)")

    @property
    def kind(self) -> str | None:
        """Of its sketch; None for an exact function."""
        return sketches.kind_of(self.function)

    @property
    def meaning(self) -> tuple[str, str, int, int]:
        """What it computes, whatever it is called."""
        return self.column, self.function, self.window_us, self.hop_us

    @property
    def input(self) -> str:
        """The column it reads, by its name among the inputs."""
        return HASHED + self.column if self.kind == "distinct" else self.column


_WHOLE = {"int32": 2.0**31, "int64": 2.0**63}


def declared(values: Floats, dtype: str) -> Floats:
    """Finished windows, float64 `[n]` with NaN for null, as the feature's declared type has them: everywhere the same number.

    Single precision is rounded to; whole numbers are cut towards zero, and null where the type cannot hold them; a bool is whether it is
    not zero.
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


def two_sum(a: Number, b: Number) -> tuple[Number, Number]:
    """a + b as (rounded, error), exactly. Knuth's branch-free form."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def two_product(a: Number, b: Number) -> tuple[Number, Number]:
    """a * b as (rounded, error), exactly where nothing overflows. Dekker's splitting."""
    p = a * b
    ca, cb = 134217729.0 * a, 134217729.0 * b
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def _finite(hi: Floats, lo: Floats) -> tuple[Floats, Floats]:
    # An infinite sum has no meaningful error term: without this, inf would decay into NaN.
    return hi, np.where(np.isfinite(hi) & np.isfinite(lo), lo, 0.0)


def _add(ah: Floats, al: Floats, bh: Floats, bl: Floats) -> tuple[Floats, Floats]:
    """(ah + al) + (bh + bl), accurate to about 2**-104."""
    s, e = two_sum(ah, bh)
    t, f = two_sum(al, bl)
    e = e + t
    hi = s + e
    e = (e - (hi - s)) + f
    hi2 = hi + e
    lo = e - (hi2 - hi)
    # s itself, where it is infinite or NaN: the renormalisation above would turn inf into NaN
    return _finite(np.where(np.isfinite(s), hi2, s), lo)


@dataclass(frozen=True)
class Layout:
    """Which rows a state has for a set of aggregations, and the three operations on it.

    Attributes:
        aggregations: the features, in declared order.
        slots: `(column, statistic) -> first row`, of the exact ones.
        size: rows of a state, C.
        sketches: `(input column, kind)` of the others, each once.
    """

    aggregations: tuple[Aggregation, ...]
    slots: Mapping[tuple[str, str], int] = field(init=False)
    size: int = field(init=False)
    sketches: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        slots: dict[tuple[str, str], int] = {}
        size = 0
        for aggregation in self.aggregations:
            for statistic in _NEEDS.get(aggregation.function, ()):
                if (aggregation.column, statistic) not in slots:
                    slots[aggregation.column, statistic] = size
                    size += _ROWS[statistic]
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
        return [(slot, _ROWS[slot[1]]) for slot in self.slots]

    @property
    def columns(self) -> list[str]:
        """Inputs of the aggregations, each once: source columns, or `#column` for the hashes of one."""
        return list(dict.fromkeys(a.input for a in self.aggregations))

    def identity(self, n: int) -> Floats:
        """n empty states, shape `[C, n]`."""
        state = np.empty((self.size, n))
        for (_, statistic), row in self.slots.items():
            for offset, value in enumerate(_IDENTITY[statistic]):
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
        for (column, statistic), row in self.slots.items():
            values = columns[column]
            present = ~np.isnan(values)
            if statistic == "n":
                state[row] = present
            elif statistic == "sum":
                state[row] = np.where(present, values, 0.0)
            elif statistic == "square":
                with np.errstate(over="ignore", invalid="ignore"):
                    hi, lo = _finite(*two_product(values, values))
                state[row], state[row + 1] = np.where(present, hi, 0.0), np.where(present, lo, 0.0)
            elif statistic in ("min", "max"):
                state[row] = np.where(present, values, state[row])
            else:  # last, first
                state[row : row + 3, present] = np.stack([event_us[present], known_us[present], values[present]]).astype(np.float64)
        return state

    def merge(self, a: Floats, b: Floats) -> Floats:
        """Merge two states of the same shape `[C, n]` column by column."""
        out = np.empty_like(a)
        with np.errstate(invalid="ignore", over="ignore"):
            for (_, statistic), row in self.slots.items():
                if statistic == "n":
                    out[row] = a[row] + b[row]
                elif statistic in ("sum", "square"):
                    out[row], out[row + 1] = _add(a[row], a[row + 1], b[row], b[row + 1])
                elif statistic == "min":
                    out[row] = np.minimum(a[row], b[row])
                elif statistic == "max":
                    out[row] = np.maximum(a[row], b[row])
                elif statistic == "first":
                    older = (b[row] < a[row]) | ((b[row] == a[row]) & (b[row + 1] < a[row + 1]))
                    tie = (b[row] == a[row]) & (b[row + 1] == a[row + 1]) & (b[row + 2] < a[row + 2])
                    out[row : row + 3] = np.where(older | tie, b[row : row + 3], a[row : row + 3])
                else:
                    # later event wins; then the one known later; then the greater value, so that the order of merging never shows
                    newer = (b[row] > a[row]) | ((b[row] == a[row]) & (b[row + 1] > a[row + 1]))
                    tie = (b[row] == a[row]) & (b[row + 1] == a[row + 1]) & (b[row + 2] > a[row + 2])
                    out[row : row + 3] = np.where(newer | tie, b[row : row + 3], a[row : row + 3])
        return out

    def finish(self, aggregation: Aggregation, state: Floats) -> Floats:
        """The feature's value for each state `[C, n]`; NaN is null.

        count and sum of nothing are 0; everything else of nothing is null. `std` is the sample deviation (n - 1), null below two values.
        """
        column, function = aggregation.column, aggregation.function
        if function in ("last", "first"):
            return state[self.slots[column, function] + 2].copy()
        n = state[self.slots[column, "n"]]
        if function in ("min", "max"):
            return np.where(n > 0, state[self.slots[column, function]], np.nan)
        if function == "count":
            return n.copy()
        row = self.slots[column, "sum"]
        hi, lo = state[row], state[row + 1]
        if function == "sum":
            return hi.copy()
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if function == "mean":
                return np.where(n > 0, hi / n, np.nan)
            square = self.slots[column, "square"]
            # n * sum(x^2) - sum(x)^2, in pairs: cancellation costs bits of the 106, not of the 53
            p, e = two_product(hi, hi)
            e = e + 2.0 * hi * lo
            q, f = two_product(state[square], n)
            f = f + state[square + 1] * n
            top, rest = _add(q, f, -p, -e)
            variance = np.maximum(top + rest, 0.0) / (n * (n - 1.0))
            return np.where(n > 1, np.sqrt(variance), np.nan)


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
