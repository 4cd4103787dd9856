"""The watch in a rehearsal: verdicts on rows of a training set, by the very code that judges the prediction log.

What it cannot have is told: nothing is served, so there is nothing to compute again, and sources are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.verdict import Kind, Verdict
from serving.monitoring.hours import Matrix, Moments
from serving.monitoring.reference import Fitted
from serving.monitoring.triage.calendar import Calendar
from serving.monitoring.triage.case import Model
from serving.monitoring.triage.seen import Clues, Seen
from serving.monitoring.window import verdict_on


class Version(Protocol):
    """A model of the rehearsal (`training.retraining.backtest.Model`).

    Attributes:
        names: of the inputs, then `score`.
        reference: float64 `[n, inputs + 1]`, with its moments (ascending, UTC) and truths `[n]`; `validated`: rows it was not fitted on.
        whole: inputs that are whole numbers, bool `[inputs]`.
    """

    names: list[str]
    views: list[str]
    reference: Matrix
    moments: Moments
    truths: Matrix
    validated: NDArray[np.bool_]
    whole: NDArray[np.bool_]

    def score(self, rows: Matrix) -> Matrix: ...


class _Watched(Fitted):
    def __init__(self, version: Version, calendar: Calendar, kind: Kind) -> None:
        self._version = version
        super().__init__(
            version.reference,
            version.names[:-1],
            version.views,
            calendar.local(version.moments),
            version.truths,
            kind,
            version.whole,
            version.validated,
        )

    @property
    def scorer(self) -> Model | None:
        return self._version


class Rehearsal:
    """
    Args:
        sources: by view, what it is made of.
    """

    def __init__(self, kind: Kind, calendar: Calendar, sources: Mapping[str, Sequence[str]]) -> None:
        self.kind, self.clues = kind, Clues(calendar=calendar, sources=sources)
        self._watched: list[tuple[Version, _Watched]] = []

    def verdict(self, version: Version, number: int, rows: Matrix, moments: Moments, truth: Matrix) -> Verdict:
        """
        Args:
            number: what the version is called in the rehearsal.
            rows: inputs and score as they were served, float64 `[m, inputs + 1]`, by moment (UTC).
            truth: as far as it is known by now, float64 `[m]`; else NaN.
        """
        statuses = np.where(np.isnan(rows[:, :-1]), b"n", b"f").astype("S1")
        seen = Seen(rows, moments, statuses, clock=self.clues.calendar.local(moments))
        identity = f"{number}@{int(moments[-1]) // 1000}-{len(moments)}"
        return verdict_on(identity, ("rehearsal", number), seen, truth, self._of(version), self.clues, self.kind)

    def _of(self, version: Version) -> _Watched:
        """Made when a version is first judged (seconds). Of earlier ones only the newest is kept: one takes hundreds of megabytes."""
        for known, watched in self._watched:
            if known is version:
                return watched
        made = _Watched(version, self.clues.calendar, self.kind)
        self._watched = [*self._watched[-1:], (version, made)]
        return made
