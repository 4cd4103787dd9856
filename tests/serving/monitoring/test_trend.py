"""Inputs that have always gone on: they may go on, stop or be as they were, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from serving.monitoring.detectors.base import DriftDetector
from serving.monitoring.detectors.table import detectors
from serving.monitoring.hours import DAY_US, Matrix, Moments
from serving.monitoring.trend import Trend

NAMES = ["level", "age", "other", "score"]
WEEK_US = 7 * DAY_US
PER_DAY, DAYS = 150, 98


def rows(first: int, days: int, seed: int = 0, more: float = 0.0) -> tuple[Matrix, Moments]:
    """Whole levels that rise by half a level a week, ages that fall by a fifth of a year a week, and what stays as it is."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(first * DAY_US, (first + days) * DAY_US, days * PER_DAY))
    week = at / WEEK_US
    level = np.round(20 + 0.5 * week + more + 2 * rng.normal(size=len(at)))
    return np.column_stack([level, 40 - 0.2 * week + rng.normal(size=len(at)), rng.normal(size=len(at)), rng.beta(2, 5, len(at))]), at


@pytest.fixture(scope="module")
def detector() -> DriftDetector:
    codes = np.array([True, False, False, False])  # whole, and few of them: taken for codes
    return detectors("scipy")[0].fit(*_named(rows(0, DAYS)), categories=codes, views=["a", "a", "b", ""])


def _named(drawn: tuple[Matrix, Moments]) -> tuple[Matrix, list[str], Moments]:
    return drawn[0], NAMES, drawn[1]


def test_how_fast_an_input_goes_on_is_told_and_of_others_nothing() -> None:
    trend = Trend.of(*rows(0, DAYS))
    assert trend.slopes * WEEK_US == pytest.approx([0.5, -0.2, 0, 0], abs=0.05)
    assert (trend.slopes[2:] == 0).all()


@pytest.mark.parametrize("days", [7, 49])
def test_a_reference_of_a_few_weeks_has_no_trend(days: int) -> None:
    assert (Trend.of(*rows(0, days)).slopes == 0).all()


def test_nulls_gaps_constants_and_infinities_have_no_trend_and_raise_nothing() -> None:
    drawn, at = rows(0, DAYS)
    drawn[:, 0], drawn[:, 1] = 7, np.inf
    drawn[at > 20 * DAY_US, 2] = np.nan
    assert (Trend.of(drawn, at).slopes == 0).all()


def test_what_is_taken_away_is_the_trend_alone() -> None:
    drawn, at = rows(0, DAYS)
    left = Trend.of(drawn, at).removed(drawn, at)
    assert (Trend.of(left, at).slopes == 0).all()
    np.testing.assert_array_equal(left[:, 2:], drawn[:, 2:])


@pytest.mark.parametrize("first", [100, 112, 126])
def test_an_input_that_goes_on_has_not_drifted(detector: DriftDetector, first: int) -> None:
    window, at = rows(first, 6, seed=first)
    assert [one.name for one in detector._test(window, at) if one.drift], "against the reference alone it has"
    assert [one.name for one in detector.test(window, at) if one.drift] == []


def test_one_infinite_row_hides_no_trend() -> None:
    drawn, at = rows(0, DAYS)
    drawn[7, 0] = np.inf
    assert Trend.of(drawn, at).slopes[0] * WEEK_US == pytest.approx(0.5, abs=0.05)


def test_an_input_that_is_as_it_was_in_the_middle_of_the_reference_has_not_drifted_either(detector: DriftDetector) -> None:
    window, _ = rows(60, 6, seed=3)
    _, at = rows(102, 6, seed=3)
    assert [one.name for one in detector.test(window, at) if one.drift] == []


@pytest.mark.parametrize(("more", "act"), [(6.0, None), (-25.0, None), (0.0, "constant"), (0.0, "null")])
def test_a_leap_beside_the_trend_is_drift(detector: DriftDetector, more: float, act: str | None) -> None:
    window, at = rows(110, 6, seed=5, more=more)
    if act is not None:
        window[:, 0] = window[0, 0] if act == "constant" else np.where(np.arange(len(at)) % 3, window[:, 0], np.nan)
    assert "level" in [one.name for one in detector.test(window, at) if one.drift]
