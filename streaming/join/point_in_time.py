"""The point-in-time join over plain arrays: for each example, what was known of its entity at its moment.

An event is *visible* to an example at time *t* when `event_time <= t` and it was *known* by then: `known <= t`. The skew proof asks for
less: only what had reached the online store. That is `known < mark`, plus the first `ties` events of `known == mark` (a high-water mark).

The difficulty. Events are sorted by event time, and a window is a contiguous range of them, which a tree sums up quickly. But an event
may become known late, so not all events of the range are visible, and those that are need not lie side by side.

The way out: events are split into classes by their lag, `known - event_time`. Example: in the class of lags between 32 and 64 seconds,
whatever happened more than 64 seconds before *t* is known for certain, and whatever happened in the last 32 seconds is certainly not.
So the older events are a contiguous range (one query of the tree), and only what lies between is looked at event by event. Lags of
class k lie in (2^(k-1), 2^k] seconds. A source that is never late has one class, and nothing to look at.

Keys are dense integer codes; -1 (a null key) matches nothing. Times are int64 microseconds, UTC.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.aggregation import sketches
from streaming.aggregation.windows import NEVER, Aggregation, Floats, Ints, Layout, RangeTree, tail

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Spine:
    """The examples.

    Attributes:
        key: int64 `[q]` entity codes.
        t_us: int64 `[q]` moments.
        mark_us: int64 `[q]` or None: known-time cutoff of each example (`NEVER`: nothing had been applied); None means `t_us`.
        ties: int64 `[q]`: with `mark_us`, how many events of exactly that known-time count.
    """

    key: Ints
    t_us: Ints
    mark_us: Ints | None = None
    ties: Ints | None = None


@dataclass(frozen=True)
class _LagClass:
    index: Ints  # places in the sorted events, ascending
    composite: Ints  # of key and event time: sorted, so one searchsorted finds any (key, time)
    after_us: int  # lags in (after_us, upto_us]
    upto_us: int


class _Clock:
    """Packs (key, time) into one integer, in such a way that the integers sort as the pairs do. Then one search finds any (key, time)."""

    def __init__(self, key: Ints, time_us: Ints) -> None:
        self.low, high = (int(time_us.min()), int(time_us.max())) if len(time_us) else (0, 0)
        self.stride = high - self.low + 3
        self.times = None
        if (int(key.max(initial=0)) + 2) * self.stride >= 2**62:  # too wide for an int64: count distinct times instead
            self.times = np.unique(time_us)
            self.stride = len(self.times) + 2
        self.high = high

    def events(self, key: Ints, time_us: Ints) -> Ints:
        rank = time_us - self.low if self.times is None else np.searchsorted(self.times, time_us)
        return np.asarray(key * self.stride + rank + 1)

    def first(self, composite: Ints, key: Ints, time_us: Ints, side: str) -> Ints:
        """First place of each key in `composite` (sorted, of `events`) whose time is >= t (`left`) or > t (`right`)."""
        if self.times is not None:
            rank = np.searchsorted(self.times, time_us, side)  # type: ignore[call-overload]
            return np.searchsorted(composite, key * self.stride + rank + 1)
        rank = np.clip(time_us, self.low - 1, self.high + 1) - self.low
        return np.searchsorted(composite, key * self.stride + rank + 1, side)  # type: ignore[call-overload]


class Events:
    """Events of many entities, indexed for the join. They are sorted by key, event time, known time; equal ones stay in the order given.

    Args:
        key: int64 `[n]` entity codes, >= 0.
        event_us, known_us: int64 `[n]`. Where both are equal, the order of the rows counts: it must be the canonical one.

    Attributes:
        row: int64 `[n]`: which of the given rows lies at each place of the sorted order. All other arrays are in the sorted order.
    """

    def __init__(self, key: Ints, event_us: Ints, known_us: Ints) -> None:
        places = np.arange(len(key))
        self.row, self.key, self.event_us, self.known_us = places, key, event_us, known_us
        if not _sorted(key, event_us, known_us):
            self.row = np.lexsort((known_us, event_us, key))
            self.key, self.event_us, self.known_us = key[self.row], event_us[self.row], known_us[self.row]
        # place of each event among its entity's in the order they became known: visibility is one comparison with it.
        # Of events of one known time the canonical order is by event time, which is the order they lie in
        in_order = _sorted(self.key, self.known_us)
        self._known_order = places if in_order else np.lexsort((self.known_us, self.key))
        self.place = places
        if not in_order:
            self.place = np.empty(len(key), dtype=np.int64)
            self.place[self._known_order] = places
        self._knowns = _Clock(self.key, self.known_us)
        self._times = _Clock(self.key, self.event_us)
        composite = self._times.events(self.key, self.event_us)
        punctual = self.known_us is self.event_us or (in_order and bool((self.known_us == self.event_us).all()))
        if punctual:
            self._knowns, self._known_composite = self._times, composite
        else:
            self._known_composite = self._knowns.events(self.key[self._known_order], self.known_us[self._known_order])
        self.classes = []
        for after, upto, members in _lag_classes(self.known_us - self.event_us):
            everything = len(members) == len(key)
            self.classes.append(_LagClass(members, composite if everything else composite[members], after, upto))

    def _position(self, part: _LagClass, key: Ints, t_us: Ints, side: str) -> Ints:
        """First place in `part` of each key whose event time is >= t (`left`) or > t (`right`)."""
        return self._times.first(part.composite, key, t_us, side)

    def visible_below(self, spine: Spine) -> Ints:
        """For each example a bound, int64 `[q]`: the events of its entity whose `place` lies below the bound are known to it."""
        if spine.mark_us is None:
            return self._knowns.first(self._known_composite, spine.key, spine.t_us, "right")
        below = self._knowns.first(self._known_composite, spine.key, spine.mark_us, "left")
        upto = self._knowns.first(self._known_composite, spine.key, spine.mark_us, "right")
        ties = np.zeros(len(spine.key), dtype=np.int64) if spine.ties is None else spine.ties
        return np.minimum(below + ties, upto)

    def first_unknown(self, spine: Spine) -> Ints:
        """When the first event that an example's mark hides became known, int64 `[q]`; `NEVER` where the mark hides nothing."""
        below = self.visible_below(spine)
        found = np.full(len(below), NEVER)
        inside = np.flatnonzero(below < len(self.key))
        event = self._known_order[below[inside]]
        same = (self.key[event] == spine.key[inside]) & (self.known_us[event] <= spine.t_us[inside])
        found[inside[same]] = self.known_us[event[same]]
        return found

    def ranges(self, spine: Spine, from_us: Ints) -> Iterator[tuple[_LagClass, Ints, Ints, Ints, Ints]]:
        """What is visible to the examples, per lag class: a range `[start, stop)` that is visible for certain, and the pairs `(example, position)`
        of visible events that lie beyond the range.

        Only events with `event_time >= from_us` count.
        """
        below = self.visible_below(spine)
        cutoff = spine.t_us if spine.mark_us is None else np.maximum(spine.mark_us, NEVER)
        for part in self.classes:
            first = self._position(part, spine.key, from_us, "left")
            last = self._position(part, spine.key, spine.t_us, "right")
            certain = np.minimum(self._position(part, spine.key, cutoff - part.upto_us, "left"), last)
            certain = np.maximum(certain, first)
            if part.after_us > NEVER:
                last = np.minimum(last, self._position(part, spine.key, cutoff - part.after_us, "right"))
            count = np.maximum(last - certain, 0)
            example = np.repeat(np.arange(len(count)), count)
            position = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + certain[example]
            known = self.place[part.index[position]] < below[example]
            yield part, first, certain, example[known], position[known]


def _sorted(*columns: Ints) -> bool:
    """Whether rows are in the order of these columns, the first counting most."""
    undecided = np.ones(max(len(columns[0]) - 1, 0), dtype=bool)
    for column in columns:
        before, after = column[:-1], column[1:]
        if (undecided & (before > after)).any():
            return False
        undecided &= before == after
    return True


def _lag_classes(lag: Ints) -> Iterator[tuple[int, int, Ints]]:
    """The classes as `(after, upto, rows)`: lags in (after, upto]. First the punctual events (no lag), then lags of up to a second, and from
    there each class reaches twice as far as the one before.
    """
    if not len(lag):
        return
    bound, after = 0, NEVER
    while True:
        members = np.flatnonzero((lag > after) & (lag <= bound))
        if len(members):
            yield after, bound, members
        if bound >= int(lag.max()):
            return
        after, bound = bound, max(1_000_000, 2 * bound)


def aggregate(layout: Layout, events: Events, columns: Mapping[str, Any], spine: Spine) -> dict[str, Floats]:
    """Windowed features of each example.

    Args:
        layout: the aggregations.
        columns: per input of the layout float64 `[n]`, NaN where null (hashes: int64, -1), rows as in the events given.
        spine: the examples.

    Returns:
        float64 `[q]` per feature name, NaN for null, in the order of `layout.aggregations`.
    """
    if len(events.row) and (events.row[1:] < events.row[:-1]).any():
        columns = {name: values[events.row] for name, values in columns.items()}
    leaves = layout.prepare(columns, events.event_us, events.known_us)
    whole = len(events.classes) == 1
    trees = [RangeTree(layout, leaves if whole else leaves[:, part.index]) for part in events.classes]
    sketched = {(name, kind): sketches.leaves(kind, columns[name]) for name, kind in layout.sketches}
    groups: dict[tuple[int, int], list[Aggregation]] = defaultdict(list)
    for aggregation in layout.aggregations:
        groups[aggregation.window_us, aggregation.hop_us].append(aggregation)
    found: dict[str, Floats] = {}
    for (window, hop), some in groups.items():
        state = layout.identity(len(spine.key))
        runs: list[_Runs] = []
        for tree, (part, start, stop, example, position) in zip(trees, events.ranges(spine, tail(spine.t_us, window, hop)), strict=True):
            state = layout.merge(state, tree.query(start, stop))
            edges = np.arange(len(spine.key))
            first, last = np.searchsorted(example, edges), np.searchsorted(example, edges, "right")
            if len(example):
                state = layout.merge(state, RangeTree(layout, tree.levels[0][:, position]).query(first, last))
            runs += [_Runs(part.index, start, stop), _Runs(part.index[position], first, last)]
        for aggregation in some:
            if aggregation.kind is None:
                found[aggregation.name] = layout.finish(aggregation, state)
            else:
                found[aggregation.name] = _sketched(aggregation, sketched[aggregation.input, aggregation.kind], runs, len(spine.key))
    return {a.name: found[a.name] for a in layout.aggregations}


@dataclass(frozen=True)
class _Runs:
    """For each example a run of events: `places[start:stop]`, places in the sorted order."""

    places: Ints
    start: Ints
    stop: Ints


def _sketched(aggregation: Aggregation, events: sketches.Ragged, runs: Sequence[_Runs], examples: int, chunk: int = 10_000_000) -> Floats:
    """A sketched feature of each example, from one sketch per event. Costs as much as its windows hold events."""
    assert aggregation.kind is not None
    if not len(events.counts):
        return np.repeat(sketches.finish(aggregation.function, sketches.Ragged.empty(1)), examples)
    counts = [np.maximum(r.stop - r.start, 0) for r in runs]
    total = np.cumsum(np.sum(counts, axis=0))
    found = np.empty(len(total))
    at = 0
    while at < len(total):
        upto = max(at + 1, int(np.searchsorted(total, (total[at - 1] if at else 0) + chunk, "right")))
        who, owner, places = np.arange(upto - at), [], []
        for run, count in zip(runs, counts, strict=True):
            owner.append(np.repeat(who, count[at:upto]))
            places.append(run.places[sketches.spread(run.start[at:upto], count[at:upto])])
        place, owners = np.concatenate(places), np.concatenate(owner)
        has = events.counts[place] > 0  # an event is one pair, or none where its value is null
        item = events.offsets[place[has]]
        merged = sketches.combine(aggregation.kind, owners[has], events.items[item], events.weights[item], upto - at)
        found[at:upto] = sketches.finish(aggregation.function, merged)
        at = upto
    return found


def latest(events: Events, spine: Spine, ttl_us: int) -> Ints:
    """Row of the latest visible event of each example's entity, -1 where there is none within the ttl.

    Latest is by event time, then known time, then row order. `ttl_us` 0 means for ever; otherwise `event_time >= t - ttl`.
    """
    oldest = np.full(len(spine.t_us), NEVER) if ttl_us == 0 else spine.t_us - ttl_us
    best = np.full(len(spine.t_us), -1, dtype=np.int64)  # a place in the sorted order: the greater, the later
    for part, start, stop, example, position in events.ranges(spine, oldest):
        some = np.flatnonzero(stop > start)
        best[some] = np.maximum(best[some], part.index[stop[some] - 1])
        np.maximum.at(best, example, part.index[position])
    return np.where(best >= 0, events.row[best], -1) if len(events.row) else best


def encode_keys(*tables: list[NDArray[np.object_]]) -> list[Ints]:
    """Dense codes for composite keys, the same across tables: equal codes mean equal in every key column.

    Args:
        tables: for each table its key columns (object arrays `[n]`, None for null), the same number of columns in each.

    Returns:
        int64 `[n]` per table; -1 where any key column is null.
    """
    lengths = [len(t[0]) for t in tables]
    code = np.zeros(sum(lengths), dtype=np.int64)
    missing = np.zeros(sum(lengths), dtype=bool)
    for column in range(len(tables[0])):
        part, values, nulls = _numbered([t[column] for t in tables])
        missing |= nulls
        # re-densify after each column, so that the product never leaves int64
        code = np.unique(code * values + part, return_inverse=True)[1].astype(np.int64)
    code[missing] = -1
    return list(np.split(code, np.cumsum(lengths)[:-1]))


def _numbered(columns: list[NDArray[Any]]) -> tuple[Ints, int, Bools]:
    """Each value's number, how many numbers there are, and which values are null.

    Without pandas: it takes longer to load than a killed worker of the stream may be away.
    """
    if all(c.dtype.kind in "iu" for c in columns):
        found, part = np.unique(np.concatenate(columns), return_inverse=True)
        return part.astype(np.int64), max(len(found), 1), np.zeros(len(part), dtype=bool)
    numbers: defaultdict[Any, int] = defaultdict(itertools.count().__next__)
    null = numbers[None]
    part = np.fromiter(map(numbers.__getitem__, itertools.chain.from_iterable(c.tolist() for c in columns)), np.int64)
    return part, len(numbers), part == null
