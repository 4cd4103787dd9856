"""A made-up year whose days differ as days do: one season, storms that last, views that go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from feature_repo.records.verdict import Triage
from serving.monitoring.hours import DAY_US, HOUR_US, Matrix, Moments
from serving.monitoring.reference import Fitted
from serving.monitoring.triage.explanation import explain_drift
from serving.monitoring.triage.seen import Clues, Seen
from serving.monitoring.window import NOTHING

NAMES = ["sky__warmth", "sky__moisture", "road__delay_1h", "road__delay_3h", "shop__sold", "shop__price", "when__minute"]
VIEWS = ["sky", "sky", "road", "road", "shop", "shop", "when"]
PER_HOUR = 8
MONDAY_US = 19_723 * DAY_US  # 2024-01-01


class Linear:
    """A model that is a formula, so that nothing has to be trained."""

    WEIGHTS = np.array([0.02, 0.0, 0.05, 0.0, 0.0, 0.1, 0.0])

    def score(self, matrix: Matrix) -> Matrix:
        return np.asarray(1 / (1 + np.exp(-(np.nan_to_num(matrix) @ self.WEIGHTS))), dtype=np.float64)


def year(days: int, seed: int) -> tuple[Matrix, Moments]:
    """Rows float64 [n, 8] (NAMES and the score) and moments: what a day is like lasts for days, and mornings are not evenings."""
    rng = np.random.default_rng(seed)
    hours = np.repeat(np.arange(days * 24), PER_HOUR)
    hours = hours[(hours % 24 >= 6) & (hours % 24 < 22)]
    n, day = len(hours), hours // 24
    lasting = np.zeros((days, 2))
    for d in range(1, days):
        lasting[d] = 0.7 * lasting[d - 1] + rng.normal(size=2)
    warmth = 15 + 8 * np.sin(2 * np.pi * day / 365) + 3 * lasting[day, 0] + 2 * np.sin(hours % 24 / 24 * 2 * np.pi) + rng.normal(size=n)
    moisture = 0.8 * warmth + rng.normal(size=n)
    delay = 10 + 4 * lasting[day, 1] + (hours % 24) / 2 + 2 * rng.normal(size=n)
    sold = rng.poisson(3, n).astype(np.float64)
    matrix = np.column_stack(
        [
            warmth,
            moisture,
            delay,
            delay + rng.normal(size=n),
            sold,
            5 + 0.5 * sold + rng.normal(size=n),
            hours % 24 * 60 + rng.integers(0, 60, n),
        ]
    )
    matrix[rng.random(n) < 0.1, 5] = np.nan
    moments = MONDAY_US + hours * HOUR_US + np.sort(rng.integers(0, HOUR_US, n))
    order = np.argsort(moments, kind="stable")
    return np.column_stack([matrix, Linear().score(matrix)])[order], moments[order].astype(np.int64)


class Known(Fitted):
    @property
    def scorer(self) -> Linear:
        return Linear()


def window(start: int = 100, days: int = 6) -> tuple[Matrix, Moments]:
    """Days of another year with the same ways."""
    matrix, moments = year(300, 1)
    inside = (moments >= MONDAY_US + start * DAY_US) & (moments < MONDAY_US + (start + days) * DAY_US)
    return matrix[inside].copy(), moments[inside]


def letters(matrix: Matrix) -> np.ndarray:
    return np.where(np.isnan(matrix[:, :-1]), b"n", b"f").astype("S1")


def some(share: float, values: np.ndarray) -> np.ndarray:
    return np.asarray(np.random.default_rng(8).random(len(values)) < share)


def said(
    known: Known,
    matrix: Matrix,
    moments: Moments,
    statuses: np.ndarray | None = None,
    clues: Clues = NOTHING,
    **seen: Any,
) -> Triage | None:
    """What triage says once the model has scored what is in the window."""
    matrix[:, -1] = Linear().score(matrix[:, :-1])
    shown = Seen(matrix, moments, letters(matrix) if statuses is None else statuses, **seen)
    return explain_drift(shown, known.drift.test(matrix, moments), known, clues)
