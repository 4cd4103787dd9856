"""Rows of the prediction log as arrays: what the watch is measured on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import Matrix, Moments
from serving.monitoring.triage.seen import Seen


@dataclass(frozen=True)
class Predictions:
    """Rows of the prediction log, in order of time.

    Attributes:
        matrix: inputs and the score, float64 [n, F + 1]; NaN is null.
        moments: int64 [n], microseconds since the epoch.
        statuses: one letter per input, S1 [n, F].
        labels: float64 [n]; NaN where unknown.
        groups: what a change of population is made of, by name, each [n].
    """

    matrix: Matrix
    moments: Moments
    statuses: NDArray[np.bytes_]
    labels: Matrix
    groups: dict[str, NDArray[np.object_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
        groups = {name: values[rows] for name, values in self.groups.items()}
        return Predictions(self.matrix[rows], self.moments[rows], self.statuses[rows], self.labels[rows], groups)

    def seen(self) -> Seen:
        return Seen(self.matrix, self.moments, self.statuses)


def joined(before: Predictions, after: Predictions) -> Predictions:
    """One after the other; groups are left out."""
    return Predictions(
        np.concatenate((before.matrix, after.matrix)),
        np.concatenate((before.moments, after.moments)),
        np.concatenate((before.statuses, after.statuses)),
        np.concatenate((before.labels, after.labels)),
    )
