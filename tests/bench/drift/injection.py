"""The labelled suite that the watch and its triage are measured on: faults put into real predictions, and real changes of who asks.

The columns are the inputs of the flights' model; what is needed of another use case's is only that views and inputs are named so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import Matrix, Moments
from serving.monitoring.triage.explanation import Model
from serving.monitoring.triage.seen import Seen

if TYPE_CHECKING:
    from tests.bench.drift.watch import Baseline

Act = Callable[["Predictions", list[str]], None]
"""Changes a copy's matrix and statuses, given the columns' names."""
Which = Callable[["Predictions"], NDArray[np.bool_]]
"""Rows to change, bool [n]."""
FAULT, SKEW, POPULATION = "pipeline fault", "training/serving skew", "population change"


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


@dataclass(frozen=True)
class Fault:
    """What is done to predictions from some moment on.

    Attributes:
        kind: what the table is by.
        name: which one.
        view: against which it should be reported; empty for none.
        cause: what triage should say.
    """

    kind: str
    name: str
    view: str
    cause: str
    act: Act


@dataclass(frozen=True)
class Suite:
    """What triage is measured on.

    Attributes:
        reference: what the live predictions are held against.
        live: predictions in order of time, into which the faults are put.
        others: predictions that really are others: name, reference, window.
    """

    title: str
    reference: Baseline
    live: Predictions
    faults: list[Fault]
    skews: list[Fault]
    others: Iterable[tuple[str, Baseline, Predictions]]


def inject(fault: Fault, rows: Predictions, names: list[str], model: Model) -> Predictions:
    """Predictions as the log would have them under the fault."""
    hurt = replace(rows, matrix=rows.matrix.copy(), statuses=rows.statuses.copy())
    fault.act(hurt, names)
    hurt.matrix[:, -1] = model.score(hurt.matrix[:, :-1])
    return hurt


def some(share: float, seed: int = 1) -> Which:
    """A share of the rows, drawn."""
    return lambda rows: np.asarray(np.random.default_rng(seed).random(len(rows)) < share)


def columns(names: list[str], beginning: str) -> list[int]:
    return [j for j, name in enumerate(names) if name.startswith(beginning)]


def changed(beginning: str, change: Callable[[np.ndarray], np.ndarray], share: float = 1.0) -> Act:
    """Change the columns that begin so, in a share of the rows; what comes of a null is taken as served fresh."""

    def act(rows: Predictions, names: list[str]) -> None:
        hit = some(share)(rows)
        for j in columns(names, beginning):
            before = rows.matrix[hit, j]
            rows.matrix[hit, j] = after = change(before)
            letters = rows.statuses[hit, j]
            letters[np.isnan(before) & ~np.isnan(after)] = b"f"
            rows.statuses[hit, j] = letters

    return act


def gone(beginning: str, letter: bytes, which: Which) -> Act:
    """The columns that begin so have no value in these rows, for the reason that the letter gives."""

    def act(rows: Predictions, names: list[str]) -> None:
        hit = which(rows)
        for j in columns(names, beginning):
            rows.matrix[hit, j], rows.statuses[hit, j] = np.nan, letter

    return act


def rearranged(beginning: str, order: Callable[[int], np.ndarray]) -> Act:
    """A view's values are those of other rows, all columns together. `order`: of so many rows, which one's each has, int64 [n]."""

    def act(rows: Predictions, names: list[str]) -> None:
        at, of = columns(names, beginning), order(len(rows))
        rows.matrix[:, at], rows.statuses[:, at] = rows.matrix[of][:, at], rows.statuses[of][:, at]

    return act


def exchanged(one: str, other: str) -> Act:
    """Two columns in each other's place."""

    def act(rows: Predictions, names: list[str]) -> None:
        there = [names.index(one), names.index(other)]
        rows.matrix[:, there], rows.statuses[:, there] = rows.matrix[:, there[::-1]], rows.statuses[:, there[::-1]]

    return act


def skewed(fault: Fault, rows: Predictions, names: list[str], model: Model) -> Predictions:
    """Predictions whose logged values are right, and whose scores are of others."""
    scored = inject(fault, rows, names, model)
    return replace(rows, matrix=np.column_stack([rows.matrix[:, :-1], scored.matrix[:, -1]]))
