"""What triage looks at: the window, and what is known beyond it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import Matrix, Moments
from serving.monitoring.triage.calendar import PLAIN, Calendar
from serving.monitoring.triage.recomputation import Recomputed
from streaming.profiles.lookup import Looked


@dataclass(frozen=True)
class Seen:
    """The window of predictions that is looked at.

    Attributes:
        matrix: inputs and the score, float64 [m, F + 1]; NaN is null.
        moments: int64 [m], microseconds since the epoch (UTC).
        statuses: one letter per value as in `Prediction`, S1 [m, F]; `r` where nothing is known.
        unequal: how many values the equality check has compared, and how many of these were not equal.
        ids: of the predictions, to show some.
        clock: the moments by the local clock; None: it is UTC.
        differing: some of the values that were not equal, with their entity and both values, as text.
        truth: of each row as far as it is known, float64 [m], else NaN; None: nobody asked.
    """

    matrix: Matrix
    moments: Moments
    statuses: NDArray[np.bytes_]
    unequal: tuple[int, int] = (0, 0)
    ids: Sequence[str] = ()
    clock: Moments | None = None
    truth: Matrix | None = None
    differing: Sequence[str] = ()

    @property
    def local(self) -> Moments:
        return self.moments if self.clock is None else self.clock

    def some(self, hit: NDArray[np.bool_], column: int, name: str, most: int = 3) -> list[str]:
        """A few of these rows with their value of a column, as text."""
        places = np.flatnonzero(hit)
        chosen = places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))] if len(places) else []
        return [f"{self.ids[i] if i < len(self.ids) else f'row {i}'}: {name} = {self.matrix[i, column]:g}" for i in chosen]


@dataclass(frozen=True)
class Clues:
    """What is known beyond the window. Each is asked only where something has moved.

    Attributes:
        calendar: of the use case.
        recompute: computes a sample of the window again; None: nobody can here.
        look: at the sources, between two moments (microseconds since the epoch, UTC); None: nobody can here.
        sources: by view, the sources that it is made of. A view that is not here has none: callers send its values.
    """

    calendar: Calendar = PLAIN
    recompute: Callable[[], Recomputed] | None = None
    look: Callable[[int, int], Looked] | None = None
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)
