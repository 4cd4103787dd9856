"""One contract for every implementation of the detectors, and the pure arithmetic against naive twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from feature_repo.records.verdict import FeatureVerdict
from infra.statistics import holm
from serving.monitoring.detectors.base import ALPHA, NOMINAL, DriftDetector, OutlierDetector, null_p_values
from serving.monitoring.detectors.table import detectors
from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.values import Values

NAMES = ["normal", "skewed", "count", "constant", "holey", "heavy", "score"]


def population(rows: int, seed: int) -> Matrix:
    """Rows of NAMES: a normal, a lognormal, small counts with ties, a constant, a column that is 30 % null, heavy tails, a score."""
    rng = np.random.default_rng(seed)
    holey = rng.normal(size=rows)
    holey[rng.random(rows) < 0.3] = np.nan
    columns = [
        rng.normal(size=rows),
        rng.lognormal(3, 1, rows),
        rng.poisson(2, rows),
        np.full(rows, 7.0),
        holey,
        rng.standard_t(2, rows),
        rng.beta(2, 5, rows),
    ]
    return np.column_stack(columns).astype(np.float64)


@pytest.fixture(scope="module", params=["scipy", "alibi"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def drift(kind: Any) -> DriftDetector:
    return detectors(kind)[0].fit(population(5000, 0), NAMES)


@pytest.fixture(scope="module")
def outliers(kind: Any) -> OutlierDetector:
    return detectors(kind)[1].fit(population(5000, 0))


def drifted(verdicts: list[FeatureVerdict]) -> list[str]:
    return [v.name for v in verdicts if v.drift]


def test_two_halves_of_the_reference_do_not_drift(kind: Any) -> None:
    rows = population(4000, 1)
    detector = detectors(kind)[0].fit(rows[:2000], NAMES)
    verdicts = detector.test(rows[2000:])
    assert drifted(verdicts) == []
    assert [v.name for v in verdicts] == NAMES
    assert all(v.cause == "" for v in verdicts)


@pytest.mark.parametrize("name", ["normal", "count", "heavy", "score"])
def test_a_shifted_column_drifts_and_is_named(drift: DriftDetector, name: str) -> None:
    window = population(1000, 2)
    j = NAMES.index(name)
    window[:, j] += 1.0 * np.std(window[:, j]) if name != "heavy" else 1.0
    verdicts = drift.test(window)
    assert drifted(verdicts) == [name]
    assert verdicts[j].cause == "values"
    assert verdicts[j].effect >= Values.matters
    assert verdicts[j].p_value < ALPHA


def test_a_stuck_column_and_a_changed_constant_drift(drift: DriftDetector) -> None:
    window = population(1000, 3)
    window[:, NAMES.index("normal")] = 0.4
    window[:, NAMES.index("constant")] = 8.0
    assert drifted(drift.test(window)) == ["normal", "constant"]


def test_a_shift_too_small_to_matter_is_not_called_however_significant(kind: Any) -> None:
    detector = detectors(kind)[0].fit(population(50_000, 4), NAMES)
    window = population(50_000, 5)
    window[:, 0] += 0.1
    verdict = detector.test(window)[0]
    assert verdict.p_value < 1e-20
    assert verdict.effect < Values.matters
    assert not verdict.drift


def test_a_large_effect_on_too_few_rows_is_not_called(drift: DriftDetector) -> None:
    window = population(25, 6)
    verdict = max(drift.test(window), key=lambda v: v.effect)
    assert verdict.effect >= Values.matters  # by chance alone
    assert not verdict.drift


def test_a_jump_of_the_null_rate_is_called_as_nulls(drift: DriftDetector) -> None:
    window = population(1000, 7)
    window[:200, 0] = np.nan
    verdicts = drift.test(window)
    assert drifted(verdicts) == ["normal"]
    assert verdicts[0].cause == "nulls"
    assert verdicts[0].null_rate == 0.2
    assert verdicts[0].reference_null_rate == 0.0


def test_nulls_that_disappear_are_called(drift: DriftDetector) -> None:
    window = population(1000, 8)
    j = NAMES.index("holey")
    window[:, j] = np.where(np.isnan(window[:, j]), np.nanmedian(window[:, j]), window[:, j])
    verdict = drift.test(window)[j]
    assert verdict.drift
    assert "nulls" in verdict.cause


def test_a_column_that_is_all_null_is_called_and_has_no_effect_on_values(drift: DriftDetector) -> None:
    window = population(1000, 9)
    window[:, 0] = np.nan
    verdict = drift.test(window)[0]
    assert (verdict.drift, verdict.cause, verdict.effect) == (True, "nulls", 0.0)


def test_a_column_null_in_reference_and_window_is_quiet(kind: Any) -> None:
    rows = np.column_stack([np.full(400, np.nan), np.arange(400.0)])
    assert drifted(detectors(kind)[0].fit(rows, ["never", "some"]).test(rows[::2])) == []


def test_infinite_values_are_compared_like_any_others(drift: DriftDetector, outliers: OutlierDetector) -> None:
    window = population(1000, 10)
    window[:400, 0] = np.inf
    assert drifted(drift.test(window)) == ["normal"]
    assert outliers.test(window).share >= 0


@pytest.mark.slow
def test_the_alarm_rate_without_drift_is_at_most_nominal(kind: Any, record_property: Callable[[str, object], None]) -> None:
    """40 shuffles of one population, split into reference and window each time: at most one window in 40 may alarm (nominal: 0.4)."""
    rows, alarms, outlier_alarms, significant = population(3000, 11), 0, 0, 0
    trials = 40
    for trial in range(trials):
        shuffled = rows[np.random.default_rng(trial).permutation(len(rows))]
        detector, unusual = detectors(kind)
        verdicts = detector.fit(shuffled[:2000], NAMES).test(shuffled[2000:])
        alarms += any(v.drift for v in verdicts)
        significant += any(v.p_value < ALPHA for v in verdicts)
        outlier_alarms += unusual.fit(shuffled[:2000]).test(shuffled[2000:]).alarm
    record_property("windows", trials)
    record_property("drift_alarms", alarms)
    record_property("outlier_alarms", outlier_alarms)
    assert alarms == 0  # two conditions must meet; the significance alone may err once in a hundred windows
    assert significant <= 2
    assert outlier_alarms <= 2


def test_the_share_of_outliers_is_nominal_on_new_rows_and_no_alarm(outliers: OutlierDetector) -> None:
    verdict = outliers.test(population(20_000, 12))
    assert verdict.nominal == pytest.approx(NOMINAL, rel=0.05)
    assert 0.3 * NOMINAL < verdict.share < 2.5 * NOMINAL
    assert not verdict.alarm


def test_strange_rows_raise_the_outlier_alarm(outliers: OutlierDetector) -> None:
    window = population(1000, 13)
    window[:100] += np.array([6, 900, 20, 3, 8, 60, 2.0])
    verdict = outliers.test(window)
    assert verdict.alarm
    assert verdict.share >= 0.08
    assert verdict.p_value < ALPHA


def test_the_same_window_gets_the_same_verdict(kind: Any) -> None:
    window = population(500, 14)
    first, second = (detectors(kind) for _ in range(2))
    reference = population(1000, 15)
    assert first[0].fit(reference, NAMES).test(window) == second[0].fit(reference, NAMES).test(window)
    assert first[1].fit(reference).test(window) == second[1].fit(reference).test(window)


def test_both_implementations_agree_on_drift() -> None:
    reference, window = population(2000, 16), population(1000, 17)
    window[:, 1] *= 1.8
    ours, alibi = (detectors(k)[0].fit(reference, NAMES).test(window) for k in ("scipy", "alibi"))  # type: ignore[arg-type]
    for a, b in zip(ours, alibi, strict=True):
        assert (a.name, a.drift, a.cause) == (b.name, b.drift, b.cause)
        assert a.effect == pytest.approx(b.effect, abs=1e-6)
        assert a.p_value == pytest.approx(b.p_value, rel=1e-4, abs=1e-30)


def test_scipy_sees_a_broken_dependence_that_no_single_column_shows() -> None:
    rng = np.random.default_rng(18)
    x = rng.normal(size=4000)
    reference = np.column_stack([x, x + 0.1 * rng.normal(size=4000)])
    window = np.column_stack([reference[:1000, 0], rng.permutation(reference[:1000, 1])])
    drift, outliers = detectors("scipy")
    assert drifted(drift.fit(reference, ["a", "b"]).test(window)) == []
    assert outliers.fit(reference).test(window).share > 0.3


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda d: d.fit(np.zeros((3, 2)), ["a"]), "2 columns for 1 names"),
        (lambda d: d.fit(np.zeros((0, 2)), ["a", "b"]), "at least one row"),
        (lambda d: d.fit(np.zeros((30, 2)), ["a", "b"]).test(np.zeros((3, 1))), "the window has 1 columns, the reference 2"),
    ],
)
def test_a_matrix_of_the_wrong_shape_is_refused(kind: Any, act: Callable[[DriftDetector], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        act(detectors(kind)[0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    rejected: set[int] = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):  # the definition, one hypothesis at a time
        if not p[i] * (len(p) - step) < ALPHA:
            break
        rejected.add(i)
    assert {i for i, a in enumerate(holm(np.array(p))) if a < ALPHA} == rejected


@given(st.integers(0, 60), st.integers(0, 90))
def test_the_null_test_is_the_chi_square_of_the_two_by_two_table(nulls: int, reference_nulls: int) -> None:
    p = null_p_values(np.array([float(nulls)]), 60, np.array([float(reference_nulls)]), 90)[0]
    if nulls + reference_nulls in (0, 150):
        assert p == 1
    else:
        table = [[nulls, 60 - nulls], [reference_nulls, 90 - reference_nulls]]
        assert p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-9, abs=1e-12)
