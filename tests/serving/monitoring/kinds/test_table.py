"""Every kind of drift, as a member of its kind: what all of them promise, run over each that is in the table."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from serving.monitoring.dependence import Relations
from serving.monitoring.detectors import scipy
from serving.monitoring.hours import HOUR_US, Matrix, Moments, cells, matched, weights
from serving.monitoring.kinds.base import DriftKind, Shares, Window
from serving.monitoring.kinds.stretch import Ranked, Stretch
from serving.monitoring.kinds.table import FAMILIES, KINDS, MATTERS, TABLE

each = pytest.mark.parametrize("kind", TABLE, ids=KINDS)
VIEWS = ["one", "two", "one", "two", "two", ""]
CODES = np.array([False, False, False, True, False, False])


@lru_cache
def history(seed: int, rows: int = 1500) -> tuple[Matrix, Moments]:
    """Columns that go together, that follow the clock, codes, nulls and equal values, over sixty days."""
    random = np.random.default_rng(seed)
    at = np.sort(random.integers(0, 60 * 24, rows)) * HOUR_US
    found = random.normal(size=(rows, len(VIEWS)))
    found[:, 1] = 0.9 * found[:, 0] + 0.3 * found[:, 1]
    found[:, 2] = np.sin(2 * np.pi * (at / HOUR_US % 24) / 24) + 0.05 * found[:, 2]
    found[:, 3] = random.integers(0, 5, rows)
    found[:, 4] = np.round(found[:, 4])
    found[random.random(found.shape) < 0.05] = np.nan
    return found, at


@lru_cache
def ranked(seed: int) -> Ranked:
    rows, at = history(seed)
    return Ranked(rows, at, CODES, VIEWS)


@lru_cache
def windowed(seed: int, begin: int, end: int) -> Window:
    """The same stretch as a window, against all other rows: the naive twin of `Stretch`."""
    rows, at = history(seed)
    rest = np.r_[0:begin, end : len(rows)]
    inside = np.zeros(len(rows), dtype=bool)
    inside[begin:end] = True
    share = weights(at, at[begin:end], ~inside)
    reference = rows[rest]
    statistics = np.zeros(rows.shape[1])
    for j in range(rows.shape[1]):
        own, known = rows[begin:end, j], ~np.isnan(rows[:, j]) & ~inside
        points = np.unique(rows[~np.isnan(rows[:, j]), j])
        own = own[~np.isnan(own)]
        theirs = share[known] / share[known].sum()
        gaps = [abs((own <= x).mean() - theirs[rows[known, j] <= x].sum()) for x in points]
        statistics[j] = max(gaps)
    relations = ranked(seed).relations
    usual = [Shares.of(column[~np.isnan(column)]) for column in reference.T]
    departures = relations.departures(rows[begin:end], cells(at[begin:end])[0])[0]
    return Window(rows[begin:end], rows[matched(share)], usual, CODES, statistics, departures)


@each
def test_a_kind_is_one_class_in_one_file(kind: DriftKind) -> None:
    module = sys.modules[type(kind).__module__]
    own = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, DriftKind) and one is not DriftKind]
    assert own == [type(kind)]
    assert kind.cause
    assert kind.matters > 0


def test_every_kind_is_of_one_family_and_the_families_share_all_false_alarms() -> None:
    assert sorted(np.concatenate([kinds for kinds, _ in FAMILIES]).tolist()) == list(range(len(TABLE)))
    assert sum(share for _, share in FAMILIES) == pytest.approx(1)
    assert len(set(KINDS)) == len(KINDS)


@each
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("bounds", [(0, 300), (500, 700), (1200, 1500)])
def test_a_stretch_of_the_reference_is_a_window_against_the_rest(kind: DriftKind, seed: int, bounds: tuple[int, int]) -> None:
    fast = kind.of_stretch(Stretch(ranked(seed), *bounds))
    slow = kind.of_window(windowed(seed, *bounds))
    # null rates: of the rest by weights, and by as many rows of it as a window is compared with
    assert fast == pytest.approx(slow, abs=0.01 if kind.name == "nulls" else 1e-6)


@each
def test_effects_are_one_number_a_column_and_never_less_than_zero(kind: DriftKind) -> None:
    for found in (kind.of_stretch(Stretch(ranked(4), 0, 400)), kind.of_window(windowed(4, 0, 400))):
        assert found.shape == (len(VIEWS),)
        assert (found >= 0).all()
        assert np.isfinite(found).all()


@each
def test_columns_of_nulls_and_constant_columns_break_nothing(kind: DriftKind) -> None:
    rows, at = (column.copy() for column in history(5))
    rows[:, 0], rows[:, 1], rows[:700, 4] = np.nan, 3.0, np.nan
    found = kind.of_stretch(Stretch(Ranked(rows, at, CODES, VIEWS), 0, 300))
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx(0, abs=1e-12) or kind.name not in ("values", "range", "repeated"), "a constant column stays what it is"


@each
def test_whatever_a_window_and_its_reference_hold_an_effect_is_finite_and_of_the_same_rows_it_is_zero(kind: DriftKind) -> None:
    rows, at = history(7)
    strange = [np.full(len(rows), np.nan), np.full(len(rows), 3.0), np.where(np.arange(len(rows)) % 2, np.inf, -np.inf), rows[:, 3]]
    for reference in (*strange, rows[:, 1]):
        for window in (*strange, rows[:, 1]):
            theirs, ours = rows.copy(), rows.copy()
            theirs[:, 0], ours[:, 0] = reference, window
            with np.errstate(all="ignore"):
                found = kind.of_window(window_of(theirs, ours[:400], at))
            assert (found >= 0).all()
            assert np.isfinite(found).all()
    same = kind.of_window(window_of(rows, rows, at))
    assert same == pytest.approx(np.zeros(len(VIEWS)), abs=kind.matters / 3)


def window_of(theirs: np.ndarray, ours: np.ndarray, at: np.ndarray) -> Window:
    """Rows against all of a reference."""
    relations = Relations(theirs, cells(at)[0], VIEWS)
    usual = [Shares.of(column[~np.isnan(column)]) for column in theirs.T]
    pairs = ((a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in zip(ours.T, theirs.T, strict=True))
    statistics = np.array([stats.ks_2samp(a, b, method="asymp").statistic if min(len(a), len(b)) else 0.0 for a, b in pairs])
    return Window(ours, theirs, usual, CODES, statistics, relations.departures(ours, cells(at[: len(ours)])[0])[0])


BREAKS = {
    "values": (0, lambda rows, at: rows[:, 0] + 1.0),
    "nulls": (0, lambda rows, at: np.where(np.arange(len(rows)) % 2, np.nan, rows[:, 0])),
    "range": (0, lambda rows, at: rows[:, 0] + 9.0),
    "repeated": (4, lambda rows, at: np.where(np.arange(len(rows)) % 3, 1.0, rows[:, 4])),
    "views": (1, lambda rows, at: rows[:, 1] + 2.0),
    "columns": (1, lambda rows, at: rows[:, 1] + 2.0),
    "clock": (2, lambda rows, at: np.roll(rows[:, 2], len(rows) // 3)),
    "rows": (1, lambda rows, at: rows[::-1, 1]),
}
"""For each kind a column and what is done to it, which it must see: a kind that sees nothing is none."""


@each
def test_there_is_a_change_that_it_sees_and_is_named_for(kind: DriftKind) -> None:
    rows, at = history(6, 6000)
    column, change = BREAKS[kind.name]
    detector = scipy.Drift().fit(rows[:5000], list("abcdef"), at[:5000], CODES, views=VIEWS)
    window = rows[5000:].copy()
    assert kind.name not in detector.test(window, at[5000:])[column].kinds
    window[:, column] = change(window, at[5000:])
    found = detector.test(window, at[5000:])[column]
    assert kind.name in found.kinds
    assert found.drift


def test_the_smallest_effects_are_those_of_the_kinds() -> None:
    assert MATTERS.tolist() == [kind.matters for kind in TABLE]
