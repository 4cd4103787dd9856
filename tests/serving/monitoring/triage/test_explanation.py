"""Calibration and triage on a made-up year whose days differ as days do: one season, storms that last, views that go together."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from feature_repo.records.contract import Input
from serving.monitoring.dependence import BOND
from serving.monitoring.detectors.base import NOMINAL_RATE
from serving.monitoring.detectors.table import detectors, label_detector
from serving.monitoring.hours import CELL, DAY_US, HOUR_US, Matrix, Moments, cells, matched, weights
from serving.monitoring.null_distribution import Calibration
from serving.monitoring.window import Row, Window
from tests.serving.monitoring.triage.made_year import MONDAY_US, NAMES, VIEWS, Known, Linear, letters, said, some, window, year
from tests.serving.shop import make_contract


@pytest.mark.slow
def test_the_alarm_rate_of_windows_without_drift_is_at_most_nominal() -> None:
    """Another year of the same ways, week by week; days that last make the independent test call most of them."""
    matrix, moments = year(300, 0)
    fitted = detectors("scipy")[0].fit(matrix[::2], [*NAMES, "score"], moments[::2], views=[*VIEWS, ""])
    calibrated = independent = 0
    starts = range(5, 290, 7)
    for start in starts:
        rows, at = window(start)
        calibrated += any(v.drift for v in fitted.test(rows, at))
        independent += any(v.drift for v in fitted.test(rows))
    assert independent > len(starts) / 2
    assert calibrated <= NOMINAL_RATE * len(starts) + 2 * np.sqrt(NOMINAL_RATE * len(starts))


@pytest.mark.parametrize(
    ("view", "column", "act", "words"),
    [
        ("sky", 0, lambda values: values * 1.8 + 32, "outside"),
        ("shop", 5, lambda values: values * 25, "outside"),
        ("road", 2, lambda values: np.full(len(values), values[0]), "in 100% of the predictions"),
        ("shop", 4, lambda values: np.full(len(values), np.nan), "null in 100%"),
        ("when", 6, lambda values: (values + 300) % 1440, ""),
        ("shop", 5, lambda values: np.random.default_rng(7).permutation(values), "goes with"),
        ("sky", 0, lambda values: np.where(some(0.1, values), -9999.0, values), "is -9999 in"),
        ("road", 2, lambda values: np.minimum(values, np.quantile(values, 0.7)), "in 3"),
        ("shop", 5, lambda values: np.where(np.isnan(values), 0.0, values), "is 0 in"),
        ("shop", 4, lambda values: np.where(some(0.3, values), np.nan, values), "null in 29%"),
    ],
)
def test_a_fault_is_suspected_of_its_view_and_asks_for_no_training(known: Known, view: str, column: int, act: object, words: str) -> None:
    matrix, moments = window()
    matrix[:, column] = act(matrix[:, column])  # type: ignore[operator]
    found = said(known, matrix, moments)
    assert found is not None
    assert (found.cause, found.views[0], found.retrain, found.proof) == ("pipeline fault", view, False, False)
    assert words in next(f for f in found.features if f.name == NAMES[column]).evidence
    shown = next(e for e in found.evidence if e.place == "lineage")
    assert shown.of == view
    assert shown.odds is not None
    assert shown.odds >= 2
    assert shown.rows


def test_a_stale_view_is_told_from_one_that_is_null(known: Known) -> None:
    matrix, moments = window()
    statuses = letters(matrix)
    hit = np.arange(len(matrix)) % 4 == 0
    statuses[np.ix_(hit, [2, 3])] = b"s"
    served = matrix[:, :-1].copy()
    served[np.ix_(hit, [2, 3])] = np.nan  # what the model got, and scored
    # what the log holds is the old value itself, and a letter that says so
    matrix[np.ix_(hit, [2, 3])] = matrix[np.ix_(np.roll(hit, 400), [2, 3])][: hit.sum()]
    matrix[:, -1] = Linear().score(served)
    made = make_contract(inputs=[Input(n, f"{v}:{n}", "feature", "float64") for n, v in zip(NAMES, VIEWS, strict=True)])
    entries = [
        (str(i), Row(str(i), "m", 1, int(at), [None if v != v else v for v in row[:-1]], row[-1], statuses=letters_of.tobytes().decode()))
        for i, (row, at, letters_of) in enumerate(zip(matrix.tolist(), moments, statuses, strict=True))
    ]
    watched = Window(SimpleNamespace(contract=made), len(entries), entries)  # type: ignore[arg-type]
    np.testing.assert_array_equal(watched.matrix()[:, :-1], served)
    found = said(known, watched.matrix(), moments, watched.statuses())
    assert found is not None
    assert (found.cause, found.views) == ("pipeline fault", ["road"])
    assert "stale in 25%" in next(f.evidence for f in found.features if f.name == "road__delay_1h")


def test_a_population_that_changes_moves_what_goes_together_and_pulls_retraining(known: Known) -> None:
    matrix, moments = window()
    rng = np.random.default_rng(5)
    matrix[:, 4] = rng.poisson(9, len(matrix))
    matrix[:, 5] = 5 + 0.5 * matrix[:, 4] + rng.normal(size=len(matrix))
    found = said(known, matrix, moments)
    assert found is not None
    assert (found.cause, found.retrain) == ("population change", True)
    assert found.features[0].name == "shop__price"  # the only one of the two that the model weighs
    assert found.features[0].score_effect is not None
    assert found.features[0].score_effect > 0.01


def test_nulls_that_come_with_other_customers_are_no_fault(known: Known) -> None:
    matrix, moments = window()
    matrix[matrix[:, 4] > 3, 5] = np.nan  # who buys much is not told the price
    found = said(known, matrix, moments)
    assert found is not None
    assert (found.cause, found.retrain) == ("population change", True)


def test_customers_of_a_narrow_kind_still_go_with_their_relatives(known: Known) -> None:
    """They spread less and so correlate less: that alone is no wrong key."""
    matrix, moments = year(300, 1)
    inside = (np.abs(matrix[:, 2] - 14) < 1.5) & (moments >= MONDAY_US + 100 * DAY_US) & (moments < MONDAY_US + 130 * DAY_US)
    rows, at = matrix[inside], moments[inside]
    assert known.drift.calibration is not None
    relations = known.drift.calibration.relations
    assert np.corrcoef(rows[:, 2], rows[:, 3])[0, 1] < relations.bond[1, 3] - 0.2
    found = said(known, rows, at)
    assert found is not None
    assert found.cause == "population change"


def test_the_slope_of_a_window_is_the_regressions(known: Known) -> None:
    """The naive twin: numpy's own, column by column, over the rows that are known, each less its hour's mean in the reference."""
    assert known.drift.calibration is not None
    relations, (rows, at) = known.drift.calibration.relations, window()
    rows[some(0.5, at), 3] = np.random.default_rng(9).permutation(rows[some(0.5, at), 3])
    scores, hours = relations.scores(rows), cells(at)[0]
    theirs, their_hours = relations.scores(known.drift.reference), cells(known.drift.calibration.moments)[0]
    lost = relations.departures(rows, hours)[0][3]
    for j in range(rows.shape[1]):
        known, parts = ~np.isnan(rows[:, j]), [0.0]
        for k in (0, 1):
            if relations.bond[k, j] >= BOND:
                ahead, all_ahead = scores @ relations._from[k][:, j], theirs @ relations._from[k][:, j]
                usual = {h: (theirs[their_hours == h, j].mean(), all_ahead[their_hours == h].mean()) for h in set(hours)}
                own, said = (
                    np.array([s - usual[h][n] for s, h in zip(x, hours, strict=True)])[known] for n, x in enumerate((scores[:, j], ahead))
                )
                slope, correlation = np.polyfit(said, own, 1)[0], np.corrcoef(said, own)[0, 1]
                parts.append(min(1 - slope / relations.slope[k, j], 1 - correlation / relations.bond[k, j]))
        assert lost[j] == pytest.approx(min(max(parts), 2), abs=1e-5)
    assert 0.3 < lost[3] < 0.7


def test_nothing_is_said_of_a_quiet_window(known: Known) -> None:
    assert said(known, *window(40), unequal=(200, 0)) is None


def test_a_window_of_some_weekdays_or_hours_is_compared_with_these(known: Known) -> None:
    matrix, moments = window()
    mornings = cells(moments)[1] < 11
    verdict = known.drift.test(matrix[mornings], moments[mornings])[-2]
    assert not verdict.drift
    assert verdict.effect < 0.1
    assert known.drift.test(matrix[mornings])[-2].effect > 0.4  # against all hours


def test_weights_give_the_reference_the_windows_mix_of_hours() -> None:
    at = np.arange(0, 28 * DAY_US, HOUR_US // 6, dtype=np.int64)
    wanted = at[(at // DAY_US % 7 == 3) & (at // HOUR_US % 24 == 9)]
    weight = weights(at, wanted)
    assert weight.sum() == pytest.approx(1)
    assert set(cells(at)[0][weight > 0]) == set(cells(wanted)[0])
    assert set(cells(at[matched(weight)])[0]) == set(cells(wanted)[0])


def test_an_hour_of_a_weekday_that_the_reference_hardly_has_borrows_from_other_days() -> None:
    at = np.repeat(np.arange(7) * DAY_US + 9 * HOUR_US, CELL - 1)
    weight = weights(at, np.array([2 * DAY_US + 9 * HOUR_US]))
    assert np.allclose(weight, 1 / len(at))


def test_the_null_is_what_the_definition_gives_row_by_row(reference: tuple[Matrix, Moments]) -> None:
    """The naive twin: each stretch against the rest with weights, one column at a time, from the definition."""
    rows, at = reference[0][::40], reference[1][::40]
    codes = np.array([False] * 4 + [True] + [False] * 3)
    calibration = Calibration(rows, at, codes)
    null = calibration.null(20 * DAY_US)
    for w in (0, 40, len(null.bounds) - 1):
        a, b = null.bounds[w]
        inside = np.zeros(len(rows), dtype=bool)
        inside[a:b] = True
        weight = weights(at, at[a:b], ~inside)
        for j in range(rows.shape[1]):
            own, rest, heavy = rows[a:b, j], rows[~inside, j], weight[~inside]
            known, mine = ~np.isnan(rest), own[~np.isnan(own)]
            grid = np.unique(np.concatenate([mine, rest[known]]))
            theirs = [heavy[known][rest[known] <= x].sum() / heavy[known].sum() for x in grid]
            ours = [(mine <= x).mean() for x in grid]
            odd = ~np.isin(mine, rest) if codes[j] else (mine < np.nanmin(rest)) | (mine > np.nanmax(rest))
            expected = [
                np.abs(np.array(ours) - theirs).max(),
                abs(np.isnan(own).mean() - heavy[~known].sum()),
                odd.mean(),
                max((float((mine == v).mean() - (rest[known] == v).mean()) for v in np.unique(mine)), default=0.0),
            ]
            assert null.effects[w, :4, j] == pytest.approx(expected, abs=1e-9)


def test_a_reference_of_a_few_windows_asks_for_more_than_a_record(reference: tuple[Matrix, Moments]) -> None:
    few = reference[1] < MONDAY_US + 28 * DAY_US
    calibration = Calibration(reference[0][few], reference[1][few], np.zeros(8, dtype=bool))
    null = calibration.null(6 * DAY_US)
    assert null.blocks < 5
    record = null.effects.max(axis=0) * 1.05
    assert null.p_values(record)[0].min() > NOMINAL_RATE


def test_moments_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        Calibration(np.zeros((3, 1)), np.array([3, 2, 1]), np.array([False]))


def test_a_base_rate_that_moves_is_label_drift() -> None:
    rng = np.random.default_rng(0)
    _, at = year(200, 2)
    labels = (rng.random(len(at)) < 0.25).astype(np.float64)
    recent = at >= at[-1] - 6 * DAY_US
    detector = label_detector(labels, at)
    assert not detector.test(labels[recent, None], at[recent])[0].drift
    verdict = detector.test((rng.random((recent.sum(), 1)) < 0.4).astype(np.float64), at[recent])[0]
    assert verdict.drift
    assert verdict.effect == pytest.approx(0.15, abs=0.05)
