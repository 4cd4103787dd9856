"""The point-in-time join over plain arrays: for each example, what was known of its entity at its moment.

An event is *visible* to an example at time *t* when `event_time <= t` and it was *known* by then: `known <= t`. The skew proof
narrows this to what had reached the online store: `known < mark`, plus the first `ties` events of `known == mark` (a high-water mark).

Late events (known after they happened) make visibility a condition on two times at once. Events are therefore split into classes by
their lag, `known - event_time` in (2^(k-1), 2^k]: within a class everything older than `cutoff - 2^k` is visible for certain (a contiguous
range: one tree query), and only a span as long as the lag itself has to be looked at event by event. Punctual sources have one class.

Keys are dense integer codes; -1 (a null key) matches nothing. Times are int64 microseconds, UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.window import Floats, Ints, Layout, RangeTree, tail

Bools = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).min // 4
"""A time before every event, with room to subtract windows from."""


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
    index: Ints  # rows of the events table, sorted by key, event time, known time, row
    composite: Ints  # key * stride + rank of the event time: sorted, so one searchsorted finds any (key, time)
    after_us: int  # lags in (after_us, upto_us]
    upto_us: int


class Events:
    """Events of many entities, indexed for the join.

    Args:
        key: int64 `[n]` entity codes, >= 0.
        event_us, known_us: int64 `[n]`. The row order is the canonical order of events with equal times.
    """

    def __init__(self, key: Ints, event_us: Ints, known_us: Ints) -> None:
        self.key, self.event_us, self.known_us = key, event_us, known_us
        row = np.arange(len(key))
        self._times = np.unique(event_us)
        self._stride = len(self._times) + 1
        rank = np.searchsorted(self._times, event_us)
        # place of each event among its entity's in the order they became known: visibility is one comparison with it
        self._known_order = np.lexsort((row, known_us, key))
        self.place = np.empty(len(key), dtype=np.int64)
        self.place[self._known_order] = row
        self._knowns = np.unique(known_us)
        self._known_stride = len(self._knowns) + 1
        ordered = self._known_order
        self._known_composite = key[ordered] * self._known_stride + np.searchsorted(self._knowns, known_us[ordered])
        # precedence of `latest`: by event time, then known time, then row
        self.precedence = np.empty(len(key), dtype=np.int64)
        order = np.lexsort((row, known_us, event_us))
        self.precedence[order] = row
        lag = known_us - event_us
        self.classes = []
        for after, upto, members in _lag_classes(lag):
            members = members[np.lexsort((self.precedence[members], key[members]))]
            self.classes.append(_LagClass(members, key[members] * self._stride + rank[members], after, upto))

    def _position(self, part: _LagClass, key: Ints, t_us: Ints, side: str) -> Ints:
        """First place in `part` of each key whose event time is >= t (`left`) or > t (`right`)."""
        rank = np.searchsorted(self._times, t_us, side)  # type: ignore[call-overload]
        return np.searchsorted(part.composite, key * self._stride + rank)

    def visible_below(self, spine: Spine) -> Ints:
        """For each example: events with `place` below this are known to it. int64 `[q]`."""
        if spine.mark_us is None:
            rank = np.searchsorted(self._knowns, spine.t_us, "right")
            return np.searchsorted(self._known_composite, spine.key * self._known_stride + rank)
        rank = np.searchsorted(self._knowns, spine.mark_us, "left")
        below = np.searchsorted(self._known_composite, spine.key * self._known_stride + rank)
        exact = np.searchsorted(self._knowns, spine.mark_us, "right")
        upto = np.searchsorted(self._known_composite, spine.key * self._known_stride + exact)
        ties = np.zeros(len(spine.key), dtype=np.int64) if spine.ties is None else spine.ties
        return np.minimum(below + ties, upto)

    def first_unknown(self, spine: Spine) -> Ints:
        """Known-time of each example's first event that its cutoff hides, int64 `[q]`; `NEVER` where nothing is hidden."""
        below = self.visible_below(spine)
        found = np.full(len(below), NEVER)
        inside = np.flatnonzero(below < len(self.key))
        event = self._known_order[below[inside]]
        same = (self.key[event] == spine.key[inside]) & (self.known_us[event] <= spine.t_us[inside])
        found[inside[same]] = self.known_us[event[same]]
        return found

    def ranges(self, spine: Spine, from_us: Ints) -> Iterator[tuple[_LagClass, Ints, Ints, Ints, Ints]]:
        """Per lag class: the certain range `[start, stop)` and the visible pairs `(example, position)` beyond it.

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


def _lag_classes(lag: Ints) -> Iterator[tuple[int, int, Ints]]:
    """`(after, upto, rows)`: punctual events first, then lags by powers of two from one second."""
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


def aggregate(layout: Layout, events: Events, columns: Mapping[str, Floats], spine: Spine) -> dict[str, Floats]:
    """Windowed features of each example.

    Args:
        layout: the aggregations.
        columns: float64 `[n]` per source column, NaN where null, rows as in `events`.
        spine: the examples.

    Returns:
        float64 `[q]` per feature name, NaN for null, in the order of `layout.aggregations`.
    """
    leaves = layout.prepare(columns, events.event_us, events.known_us)
    trees = [RangeTree(layout, leaves[:, part.index]) for part in events.classes]
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for aggregation in layout.aggregations:
        groups[aggregation.window_us, aggregation.hop_us].append(aggregation.name)
    found: dict[str, Floats] = {}
    for (window, hop), names in groups.items():
        state = layout.identity(len(spine.key))
        for tree, (_, start, stop, example, position) in zip(trees, events.ranges(spine, tail(spine.t_us, window, hop)), strict=True):
            state = layout.merge(state, tree.query(start, stop))
            if len(example):
                pairs = RangeTree(layout, tree.levels[0][:, position])
                edges = np.arange(len(spine.key))
                state = layout.merge(state, pairs.query(np.searchsorted(example, edges), np.searchsorted(example, edges, "right")))
        for aggregation in layout.aggregations:
            if aggregation.name in names:
                found[aggregation.name] = layout.finish(aggregation, state)
    return {a.name: found[a.name] for a in layout.aggregations}


def latest(events: Events, spine: Spine, ttl_us: int) -> Ints:
    """Row of the latest visible event of each example's entity, -1 where there is none within the ttl.

    Latest is by event time, then known time, then row order. `ttl_us` 0 means for ever; otherwise `event_time >= t - ttl`.
    """
    oldest = np.full(len(spine.t_us), NEVER) if ttl_us == 0 else spine.t_us - ttl_us
    best = np.full(len(spine.t_us), -1, dtype=np.int64)
    rank = np.full(len(spine.t_us), -1, dtype=np.int64)
    for part, start, stop, example, position in events.ranges(spine, oldest):
        some = np.flatnonzero(stop > start)
        for who, row in ((some, part.index[stop[some] - 1]), (example, part.index[position])):
            # of several candidates of one example the one of highest precedence must be written last
            order = np.argsort(events.precedence[row], kind="stable")
            who, row = who[order], row[order]
            better = events.precedence[row] > rank[who]
            best[who[better]] = row[better]
            rank[who[better]] = events.precedence[row[better]]
    return best


def encode_keys(*tables: list[NDArray[np.object_]]) -> list[Ints]:
    """Dense codes for composite keys, the same across tables: equal codes mean equal in every key column.

    Args:
        tables: for each table its key columns (object arrays `[n]`, None for null), the same number of columns in each.

    Returns:
        int64 `[n]` per table; -1 where any key column is null.
    """
    import pandas as pd

    lengths = [len(t[0]) for t in tables]
    code = np.zeros(sum(lengths), dtype=np.int64)
    missing = np.zeros(sum(lengths), dtype=bool)
    for column in range(len(tables[0])):
        part, values = pd.factorize(np.concatenate([t[column] for t in tables]), use_na_sentinel=True)
        missing |= part < 0
        # re-densify after each column, so that the product never leaves int64
        code = np.unique(code * (len(values) + 1) + part + 1, return_inverse=True)[1].astype(np.int64)
    code[missing] = -1
    return list(np.split(code, np.cumsum(lengths)[:-1]))
