"""The reference as what windows are made of: stretches of it, changed as the world changes or as a pipeline breaks.

Nobody can tell from a column alone whether it broke or the world moved. But both can be tried out: the reference's own rows are
changed in many ways, and triage sees how each way looks *here*, with these inputs and these views (`serving.monitoring.triage.lineage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import Matrix, Moments

ROWS = 800
"""Rows of a made window, at most."""


@dataclass(frozen=True)
class Made:
    """A made window.

    Attributes:
        rows: inputs, float64 [m, F]; NaN is null.
        moments: int64 [m], ascending.
        labels: float64 [m]; NaN where unknown, or where the rows were never anybody's.
    """

    rows: Matrix
    moments: Moments
    labels: Matrix

    def __len__(self) -> int:
        return len(self.moments)

    def take(self, rows: NDArray[np.int64]) -> Made:
        """These rows, in order of time."""
        rows = rows[np.argsort(self.moments[rows], kind="stable")]
        return Made(self.rows[rows], self.moments[rows], self.labels[rows])

    def with_rows(self, rows: Matrix, labels: Matrix | None = None) -> Made:
        return replace(self, rows=rows, labels=self.labels if labels is None else labels)


class Pool:
    """
    Args:
        rows: the reference's inputs, float64 [n, F]; NaN is null.
        moments: int64 [n], ascending.
        labels: float64 [n]; NaN where unknown.
        views: the view of each input.
        codes: inputs whose values are codes, bool [F].
        sources: by view, what it is made of.
        clocked: inputs that the hour of the week determines, bool [F]: whoever comes, the clock stays as it is. Default: none is.

    Attributes:
        places: where a fault can be: columns by view, and by source where several views are made of it.
    """

    # wide: what a reference is
    def __init__(
        self,
        rows: Matrix,
        moments: Moments,
        labels: Matrix,
        views: Sequence[str],
        codes: NDArray[np.bool_],
        sources: Mapping[str, Sequence[str]] | None = None,
        clocked: NDArray[np.bool_] | None = None,
    ) -> None:
        self.whole, self.views = Made(rows, moments, labels), list(views)
        self.fixed = codes if clocked is None else codes | clocked
        """Inputs that have no level which could move."""
        self.codes = codes
        self.places = {view: [j for j, own in enumerate(self.views) if own == view] for view in dict.fromkeys(self.views)}
        for source in sorted({s for view in self.places for s in (sources or {}).get(view, ())}):
            below = [view for view in dict.fromkeys(self.views) if source in (sources or {}).get(view, ())]
            if len(below) > 1 and source not in self.places:
                self.places[source] = [j for j, own in enumerate(self.views) if own in below]
        with np.errstate(all="ignore"):
            known = ~np.isnan(rows)
            count = np.maximum(known.sum(axis=0), 1)
            filled = np.where(known, rows, 0.0)
            self.mean = filled.sum(axis=0) / count
            self.scale = np.sqrt((np.where(known, rows - self.mean, 0.0) ** 2).sum(axis=0) / count)
        self.low = np.where(known, rows, np.inf).min(axis=0)
        self.high = np.where(known, rows, -np.inf).max(axis=0)
        self.integer = np.where(known, rows == np.round(rows), True).all(axis=0)

    @cached_property
    def names(self) -> list[str]:
        """Of the places."""
        return list(self.places)

    def stretch(self, rng: np.random.Generator, length_us: int) -> Made:
        """A stretch of this length from anywhere, thinned to `ROWS`."""
        at = self.whole.moments
        start = rng.integers(int(at[0]), max(int(at[-1]) - length_us, int(at[0])) + 1)
        begin, end = np.searchsorted(at, [start, start + length_us])
        begin = min(begin, max(end - 50, 0))
        return self.whole.take(np.unique(np.linspace(begin, max(end - 1, begin), min(ROWS, max(end - begin, 1))).astype(np.int64)))

    def third(self, rng: np.random.Generator) -> Made:
        """A third of the reference's time: what other customers are drawn from."""
        count = len(self.whole)
        begin = int(rng.integers(0, max(count - count // 3, 1)))
        return self.whole.take(np.arange(begin, begin + max(count // 3, 1)))

    def natural(self, rows: Matrix) -> Matrix:
        """Values as the world can have them: none below 0 or above 1 where there never was one, whole where all are. Codes too."""
        low = np.where(self.low >= 0, 0.0, -np.inf)
        high = np.where((self.low >= 0) & (self.high <= 1), 1.0, np.inf)
        rows = np.clip(rows, low, high)
        return np.where(self.integer, np.round(rows), rows)

    def direction(self, rng: np.random.Generator, columns: Sequence[int]) -> Matrix:
        """How these columns go together: one of their first principal components, by column, largest 1. 0 for all others, float64 [F]."""
        part = (self.whole.rows[:: max(len(self.whole) // 3000, 1)][:, columns] - self.mean[columns]) / np.maximum(
            self.scale[columns], 1e-12
        )
        part = np.nan_to_num(np.clip(part, -5, 5))
        covariance = part.T @ part / len(part) + 1e-6 * np.eye(len(columns))
        vectors = np.linalg.eigh(covariance)[1][:, ::-1]
        chosen = vectors[:, int(rng.integers(0, min(3, len(columns))))]
        found = np.zeros(len(self.views))
        found[list(columns)] = chosen / max(np.abs(chosen).max(), 1e-12)
        return np.where(self.fixed, 0.0, found)
