"""The worked examples of docs/semantics/drift.md: each number is computed, and the page has to hold it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_repo.records.verdict import FeatureVerdict
from infra.settings import ROOT
from serving.monitoring.dependence import BOND, _regression
from serving.monitoring.detectors import scipy
from serving.monitoring.detectors.base import NOMINAL_RATE
from serving.monitoring.hours import CELL, DAY_US, HOUR_US, weights
from serving.monitoring.kinds.table import FAMILIES, KINDS, MATTERS
from serving.monitoring.null_distribution import FEW, WINDOWS, Null
from serving.monitoring.reference import CODES
from serving.monitoring.window import FEWEST_TRUTHS

PAGE = (ROOT / "docs" / "semantics" / "drift.md").read_text()
TEXT = re.sub(r"\s+", " ", PAGE)
Floats = NDArray[np.float64]
NEW_YEAR = 15_706 * DAY_US  # 2013-01-01


def rows_of(first: str) -> list[list[str]]:
    """The cells below the header of the table whose header begins with this cell."""
    lines = PAGE.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_reference_takes_the_window_s_hours() -> None:
    reference = np.array([day * DAY_US + hour * HOUR_US for day in range(84) for hour in (3, 15)], dtype=np.int64)
    values = np.tile([10.0, 30.0], 84)
    window = np.array([(84 + day) * DAY_US + 15 * HOUR_US for day in range(7)], dtype=np.int64)
    assert values.mean() == 20
    assert weights(reference, window) @ values == pytest.approx(30)
    for said in ("worth 10 at night and 30 in the afternoon", "its mean is 20", "weighted mean of the reference is 30"):
        assert said in TEXT
    assert "fewer than ten rows for an hour" in TEXT
    assert CELL == 10


def temperature(hours: NDArray[np.int64]) -> Floats:
    """12 degrees on average, 14 up and down with the season, 4 with the hour, and 6 by the day, as if by chance."""
    of_day = 6 * np.sin(2.4 * (hours // 24))
    season, clock = np.cos(2 * np.pi * (hours / 24 - 20) / 365), np.sin(2 * np.pi * (hours % 24 - 9) / 24)
    return np.asarray(12 - 14 * season + 4 * clock + of_day)


def january_against(hours: NDArray[np.int64]) -> FeatureVerdict:
    """The verdict on a week of the second January."""
    window = np.arange((365 + 14) * 24, (365 + 21) * 24)
    detector = scipy.Drift().fit(temperature(hours)[:, None], ["temperature"], NEW_YEAR + hours * HOUR_US)
    return detector.test(temperature(window)[:, None], NEW_YEAR + window * HOUR_US)[0]


def test_a_winter_week_is_usual_where_the_reference_has_seen_winter() -> None:
    year = np.arange(365 * 24)
    whole, summer = january_against(year), january_against(year[151 * 24 : 243 * 24])
    assert (whole.drift, summer.drift) == (False, True)
    assert f"its distance is {whole.effect:.2f}" in TEXT
    assert f"the farthest is at {whole.usual:.2f}. So {whole.effect:.2f} is nothing unusual" in TEXT
    assert f"the same week is at {summer.effect:.2f}, where the farthest of its own weeks is at {summer.usual:.2f}. That is drift" in TEXT


def test_the_sizes_that_count() -> None:
    said = {cells[0].strip("`"): float(cells[2].split(" ")[0]) for cells in rows_of("kind")}
    assert said == dict(zip(KINDS, MATTERS.tolist(), strict=True))
    shares = {share: {KINDS[i] for i in kinds} for kinds, share in FAMILIES}
    assert shares[0.4] == {"nulls", "range", "repeated"}
    assert "`nulls`, `range` and `repeated` get 40 %" in TEXT
    for number, what in ((CODES, "at most 64 different values"), (FEW, "fewer than 19 windows"), (FEWEST_TRUTHS, "at least 100")):
        assert str(number) in what
        assert what in TEXT
    assert (NOMINAL_RATE, BOND) == (0.05, 0.4)


def test_an_effect_is_measured_by_the_record() -> None:
    effects = np.zeros((WINDOWS, len(KINDS), 2))
    effects[:, 0] = np.linspace([0.002, 0.0002], [0.30, 0.04], WINDOWS)
    now = np.zeros((len(KINDS), 2))
    now[0] = 0.20
    p_values, usual = Null(effects, 30.0, MATTERS, [(i, i + 1) for i in range(WINDOWS)]).p_values(now)
    said = [[cell.split(" ")[0] for cell in cells] for cells in rows_of("input")]
    assert [cells[1] for cells in said] == ["0.30", "0.04,"]
    assert usual[0].tolist() == [0.30, 0.075]
    assert rows_of("input")[1][1].endswith("taken as 0.075")
    assert [cells[3] for cells in said] == [f"{ratio:.2f}" for ratio in now[0] / usual[0]]
    assert [cells[4] for cells in said] == [f"{p:.3f}" for p in p_values[0]]
    assert p_values[0, 1] == pytest.approx(1 / 151 / 0.6)
    assert f"1 / 151 / 0.6 = {p_values[0, 1]:.3f}" in TEXT
    assert (p_values[0, 1] <= NOMINAL_RATE, p_values[0, 0] <= NOMINAL_RATE) == (True, False)


def slope_and_correlation(values: Floats, predicted: Floats) -> tuple[float, float]:
    slope, correlation = _regression(values[:, None], np.stack([predicted[:, None]] * 2))
    return float(slope[0, 0]), float(correlation[0, 0])


def test_only_a_wrong_key_ends_both_slope_and_correlation() -> None:
    predicted = np.repeat([-2.0, -1.0, 0.0, 1.0, 2.0], 2)
    values, some = predicted + np.tile([-1.0, 1.0], 5), np.abs(predicted) <= 1
    of_another_key = np.repeat([2.0, -2.0, -1.0, 0.0, 1.0], 2)
    usual = slope_and_correlation(values, predicted)
    cases = [usual, slope_and_correlation(values[some], predicted[some])]
    cases += [slope_and_correlation(values, 2 * predicted), slope_and_correlation(values, of_another_key)]
    rows = rows_of("what happens")
    assert len(rows) == len(cases)
    for cells, case in zip(rows, cases, strict=True):
        lost = [1 - now / before for now, before in zip(case, usual, strict=True)]
        assert cells[1:] == [f"{abs(one):.2f}" for one in case] + [f"{round(100 * one)} %" for one in (*lost, min(lost))]


def test_two_inputs_that_only_follow_the_clock_do_not_go_together() -> None:
    said = {cells[0]: np.array(cells[1:], dtype=np.float64) for cells in rows_of("two days")}
    departures, arrivals = said["delay of departures"], said["delay of arrivals"]
    hour = np.repeat([departures[:2].mean(), departures[2:].mean()], 2)
    before, after = (slope_and_correlation(departures - less, arrivals - less)[1] for less in (0 * hour, hour))
    assert arrivals[:2].mean() == departures[:2].mean()
    assert arrivals[2:].mean() == departures[2:].mean()
    assert f"Over all four the correlation is {before:.2f}." in TEXT
    assert f"Then the correlation is {after:.2f}." in TEXT
