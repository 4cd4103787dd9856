"""The labelled suite that the watch and its triage are measured on: faults put into real predictions, and real changes of who asks.

The columns are the inputs of the flights' model; what is needed of another use case's is only that views and inputs are named so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serving.calibration import Matrix, Moments
from serving.triage import Model, Seen

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
        act: changes a copy's matrix and statuses, given the columns' names.
        rescored: the model scored what is logged (all but skew).
    """

    kind: str
    name: str
    view: str
    cause: str
    act: Callable[[Predictions, list[str]], None]
    rescored: bool = True


def inject(fault: Fault, rows: Predictions, names: list[str], model: Model) -> Predictions:
    """Predictions as the log would have them under the fault."""
    hurt = replace(rows, matrix=rows.matrix.copy(), statuses=rows.statuses.copy())
    fault.act(hurt, names)
    if fault.rescored:
        hurt.matrix[:, -1] = model.score(hurt.matrix[:, :-1])
    return hurt


def _columns(names: list[str], beginning: str) -> list[int]:
    return [j for j, name in enumerate(names) if name.startswith(beginning)]


def _unit(beginning: str) -> Callable[[Predictions, list[str]], None]:
    def act(rows: Predictions, names: list[str]) -> None:
        at = _columns(names, beginning)
        rows.matrix[:, at] = rows.matrix[:, at] * 1.8 + 32

    return act


def _stuck(beginning: str) -> Callable[[Predictions, list[str]], None]:
    def act(rows: Predictions, names: list[str]) -> None:
        for j in _columns(names, beginning):
            known = rows.matrix[~np.isnan(rows.matrix[:, j]), j]
            if len(known):
                rows.matrix[:, j] = known[0]
                rows.statuses[:, j] = b"f"

    return act


def _gone(beginning: str, letter: bytes, share: float = 1.0) -> Callable[[Predictions, list[str]], None]:
    def act(rows: Predictions, names: list[str]) -> None:
        hit = np.random.default_rng(0).random(len(rows)) < share
        for j in _columns(names, beginning):
            rows.matrix[hit, j] = np.nan
            rows.statuses[hit, j] = letter

    return act


def _clock(hours: int) -> Callable[[Predictions, list[str]], None]:
    def act(rows: Predictions, names: list[str]) -> None:
        minute, day = names.index("schedule__local_minute_of_day"), names.index("schedule__day_of_week")
        shifted = rows.matrix[:, minute] + 60 * hours
        rows.matrix[:, minute] = shifted % 1440
        rows.matrix[:, day] = (rows.matrix[:, day] - 1 + shifted // 1440) % 7 + 1

    return act


def _swapped(one: str, other: str) -> Callable[[Predictions, list[str]], None]:
    """Serving scores two columns in each other's place; the log has them in their own."""

    def act(rows: Predictions, names: list[str]) -> None:
        a, b = names.index(one), names.index(other)
        rows.matrix[:, [a, b]] = rows.matrix[:, [b, a]]

    return act


def faults() -> list[Fault]:
    """All faults of the suite. A skew's `act` makes what was scored; what is logged stays (see `skewed`)."""
    units = [
        ("weather__temp", "weather"),
        ("weather__wind_speed", "weather"),
        ("departures_by_origin__mean_dep_delay_1h", "departures_by_origin"),
        ("arrivals_by_route__mean_arr_delay_7d", "arrivals_by_route"),
        ("plane__seats", "plane"),
        ("schedule__miles", "schedule"),
        ("departures_by_carrier__mean", "departures_by_carrier"),
    ]
    found = [Fault("unit change", name, view, FAULT, _unit(name)) for name, view in units]
    found += [
        Fault("stuck sensor", view, view, FAULT, _stuck(f"{view}__")) for view in ("weather", "departures_by_origin", "arrivals_by_dest")
    ]
    found += [Fault("dropped join", view, view, FAULT, _gone(f"{view}__", b"m")) for view in ("plane", "weather", "arrivals_by_route")]
    found += [
        Fault("stale view", "weather, all", "weather", FAULT, _gone("weather__", b"s")),
        Fault("stale view", "weather, 1 in 5", "weather", FAULT, _gone("weather__", b"s", 0.2)),
        Fault("stale view", "departures_by_origin, 1 in 2", "departures_by_origin", FAULT, _gone("departures_by_origin__", b"s", 0.5)),
    ]
    found += [Fault("shifted clock", f"{hours} h", "schedule", FAULT, _clock(hours)) for hours in (1, 3, 6, 12)]
    return found


def skews() -> list[Fault]:
    pairs = [("weather__temp", "weather__dewp"), ("departures_by_carrier__mean_dep_delay_3h", "departures_by_carrier__mean_dep_delay_24h")]
    return [Fault("columns swapped at scoring", a, "", SKEW, _swapped(a, b)) for a, b in pairs]


def skewed(fault: Fault, rows: Predictions, names: list[str], model: Model) -> Predictions:
    """Predictions whose logged values are right, and whose scores are of others."""
    scored = inject(fault, rows, names, model)
    return replace(rows, matrix=np.column_stack([rows.matrix[:, :-1], scored.matrix[:, -1]]))
