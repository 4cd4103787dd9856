"""The reference, sorted once, so that any stretch of it can be held against the rest quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.dependence import Relations
from serving.monitoring.hours import Matrix, Moments, cells, weights


class Ranked:
    """
    Args:
        rows: the reference, float64 [n, F]; NaN is null.
        moments: int64 [n], microseconds since the epoch, ascending.
        categories: columns whose values are codes, bool [F].
        views: the view of each column, for `serving.monitoring.dependence`; default: no relations.

    Attributes:
        rows: as given.
        known: where there is a value, bool [n, F].
        order: of each column, its rows by value; nulls last. int64 [F, n].
        last: whether a place of `order` is the last of its value, bool [F, n].
        ids: of each value, the number of smaller ones: equal where values are equal. int64 [n, F].
        totals: of each column, how many rows each id has.
    """

    def __init__(self, rows: Matrix, moments: Moments, categories: NDArray[np.bool_], views: Sequence[str] = ()) -> None:
        self.rows, self.moments, self.categories = rows, moments, categories
        self.relations = Relations(rows, cells(moments)[0], views or [""] * rows.shape[1])
        self.known = ~np.isnan(rows)
        self.order = np.argsort(rows.T, axis=1, kind="stable")  # NaN comes last
        ordered = np.take_along_axis(rows.T, self.order, axis=1)
        last = np.ones(ordered.shape, dtype=bool)
        last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
        self.last = last & ~np.isnan(ordered)
        self.ids = np.empty(rows.shape, dtype=np.int64)
        ids = np.cumsum(np.concatenate([np.zeros((len(ordered), 1), dtype=bool), last[:, :-1]], axis=1), axis=1)
        np.put_along_axis(self.ids.T, self.order, ids, axis=1)
        low, high = np.where(self.known, self.ids, len(rows)), np.where(self.known, self.ids, -1)
        self._before = np.minimum.accumulate(low), np.maximum.accumulate(high)
        self._after = np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high[::-1])[::-1]
        self.totals = [np.bincount(self.ids[:, j]) for j in range(rows.shape[1])]

    def range_without(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The least and the greatest id of all rows but [begin, end), by column, int64 [F] each."""
        count, columns = self.known.shape
        low, high = np.full(columns, count, dtype=np.int64), np.full(columns, -1, dtype=np.int64)
        if begin:
            low, high = self._before[0][begin - 1], self._before[1][begin - 1]
        if end < count:
            low, high = np.minimum(low, self._after[0][end]), np.maximum(high, self._after[1][end])
        return low, high


@dataclass(frozen=True)
class Stretch:
    """Rows [begin, end) of a reference, against all its others."""

    reference: Ranked
    begin: int
    end: int

    @cached_property
    def rest(self) -> Matrix:
        """Weights of the other rows that give them the stretch's mix of hours, float64 [n]; 0 for its own."""
        inside = np.zeros(len(self.reference.known), dtype=bool)
        inside[self.begin : self.end] = True
        return weights(self.reference.moments, self.reference.moments[self.begin : self.end], ~inside)

    @cached_property
    def shares_known(self) -> tuple[Matrix, Matrix]:
        """The share of rows with a value, of the stretch and of the rest, by column, float64 [F] each."""
        return self.reference.known[self.begin : self.end].mean(axis=0), self.rest @ self.reference.known

    @property
    def known(self) -> NDArray[np.bool_]:
        return self.reference.known[self.begin : self.end]

    @property
    def ids(self) -> NDArray[np.int64]:
        return self.reference.ids[self.begin : self.end]

    @cached_property
    def values(self) -> NDArray[np.int64]:
        """How many values the stretch has, by column, at least 1."""
        return np.asarray(np.maximum(self.known.sum(axis=0), 1))

    @cached_property
    def counts(self) -> list[NDArray[np.int64]]:
        """Of each column, how many of the stretch's rows each id has."""
        known, ids = self.known, self.ids
        return [np.bincount(ids[known[:, j], j], minlength=len(total)) for j, total in enumerate(self.reference.totals)]

    @cached_property
    def departures(self) -> Matrix:
        """From `Relations.own`, float64 [4, F]."""
        return self.reference.relations.own(self.begin, self.end)
