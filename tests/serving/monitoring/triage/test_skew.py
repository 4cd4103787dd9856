"""What is served otherwise than it is computed, or scored otherwise than it is logged: proof, and what is left to be explained then."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.records.verdict import Triage
from serving.monitoring.hours import Matrix, Moments
from serving.monitoring.triage.case import Case
from serving.monitoring.triage.explanation import explain_drift
from serving.monitoring.triage.recomputation import Compared, Recomputed
from serving.monitoring.triage.seen import Clues, Seen
from serving.monitoring.window import NOTHING
from tests.serving.monitoring.triage.made_year import Known, Linear, letters, said, window


def test_scores_that_are_not_of_the_logged_values_are_skew(known: Known) -> None:
    matrix, moments = window()
    matrix[:, -1] = Linear().score(matrix[:, [1, 0, 2, 3, 4, 5, 6]] * 1.5)
    found = explain_drift(Seen(matrix, moments, letters(matrix)), known.drift.test(matrix, moments), known, NOTHING)
    assert found is not None
    assert (found.cause, found.retrain) == ("training/serving skew", False)


@pytest.mark.parametrize("world", ["as ever", "the shop changes", "the road changes", "the truth changes"])
def test_a_view_that_is_served_late_is_skew_unless_something_else_has_changed(known: Known, world: str) -> None:
    """What recomputation explains of a drift is the pipe's; what it does not is left to be explained: of others, of the view, of the truth."""
    matrix, moments = window()
    right = matrix[:, :-1].copy()
    if world == "the shop changes":
        right[:, 4:6] += 4
    if world == "the road changes":
        right[:, 2:4] += 12
    matrix[:, :-1] = right
    matrix[:, 2:4] = matrix[:, 2:4] * 0.3  # the delays, as a store that is behind gives them
    matrix[:, -1] = Linear().score(matrix[:, :-1])
    odds = Linear().score(right) + (0.35 if world == "the truth changes" else 0)
    truth = (np.random.default_rng(2).random(len(right)) < odds).astype(np.float64)
    late = Compared("road", 2 * len(matrix), 2 * len(matrix), "late data", ["id1: road:delay_1h was served as 3.0, recomputed 10.0"])
    clues = Clues(recompute=lambda: Recomputed(len(matrix), [late], "", np.arange(len(matrix)), right))
    seen = Seen(matrix, moments, letters(matrix), truth=truth)
    answered = known.expected(moments).look(matrix[:, -1], truth, moments)  # type: ignore[union-attr]
    found = explain_drift(seen, known.drift.test(matrix, moments), known, clues, answered)
    assert found is not None
    assert found.cause == {"as ever": "training/serving skew", "the truth changes": "concept change"}.get(world, "population change")
    assert (found.retrain, found.proof) == ((False, True) if world == "as ever" else (True, False))
    if found.cause != "concept change":
        assert found.views[0] == ("shop" if world == "the shop changes" else "road")
    assert any(e.place == "recomputation" and e.of == "road" and e.proof and e.rows for e in found.evidence)


def test_values_that_are_wrong_are_skew_although_nothing_drifts(known: Known) -> None:
    """Two sevenths of the window read the rows of others: what each says is as usual. What only comes late is not told then."""
    matrix, moments = window(40)
    right = matrix[:, :-1].copy()
    matrix[:, 4:6] = right[np.random.default_rng(3).permutation(len(right))][:, 4:6]
    matrix[:, -1] = Linear().score(matrix[:, :-1])
    assert not any(one.drift for one in known.drift.test(matrix, moments))
    for wrong, cause in ((2 * len(matrix), "training/serving skew"), (0, None)):
        other = Compared("shop", 2 * len(matrix), 2 * len(matrix), "wrong", ["id1: shop:sold was served as 3, recomputed 5"], wrong)
        clues = Clues(recompute=lambda other=other: Recomputed(len(matrix), [other], "", np.arange(len(matrix)), right))  # type: ignore[misc]
        found = said(known, matrix, moments, clues=clues)
        assert (None if found is None else found.cause) == cause
    assert found is None or found.proof


@pytest.mark.parametrize(("first", "upto"), [(0.0, 0.05), (0.0, 0.5), (0.6, 1.0)])
def test_a_part_of_the_window_computed_again_does_not_stand_for_all_of_it(known: Known, first: float, upto: float) -> None:
    """The offline store reaches to a part of the window. What that part is like says nothing of views that were served right."""
    matrix, moments = window()
    right = matrix[:, :-1].copy()
    matrix[:, 2:4] = matrix[:, 2:4] * 0.3
    matrix[:, -1] = Linear().score(matrix[:, :-1])
    every = np.linspace(0, len(matrix) - 1, 300).astype(int)
    places = every[int(first * 300) : int(upto * 300)]
    late = Compared("road", 2 * len(places), 2 * len(places), "late data", ["id1: road:delay_1h was served as 3.0, recomputed 10.0"])
    clues = Clues(recompute=lambda: Recomputed(len(places), [late], "", places, right[places]))
    found = said(known, matrix, moments, clues=clues)
    assert found is not None
    assert (found.cause, found.views) == ("training/serving skew", ["road"])


def test_a_few_late_values_explain_no_drift_of_all(known: Known) -> None:
    """One value in forty is late, and the road has changed. The offline store reaches to the first twenty predictions."""
    matrix, moments = window()
    matrix[:, 2:4] += 12
    matrix[:, -1] = Linear().score(matrix[:, :-1])
    places = np.arange(20)
    late = Compared("road", 40, 1, "late data", ["id1: road:delay_1h was served as 3.0, recomputed 10.0"])
    found = said(known, matrix, moments, clues=Clues(recompute=lambda: Recomputed(20, [late], "", places, matrix[places, :-1])))
    assert found is not None
    assert found.cause == "population change"
    assert not found.proof


@pytest.mark.parametrize(("different", "enough"), [(4, False), (100, False), (400, True), (600, True)])
def test_a_gap_is_no_larger_than_the_share_of_the_values_that_differ(known: Known, different: int, enough: bool) -> None:
    """Of two inputs with 300 values each: the values that differ may all be of the one that drifted by .8."""
    matrix, moments = window()
    matrix[:, 2] += 12
    verdicts = known.drift.test(matrix, moments)
    assert 0.7 < verdicts[2].size < 1
    late = Compared("road", 600, different, "late data")
    clues = Clues(recompute=lambda: Recomputed(300, [late], "", np.arange(300), matrix[:300, :-1]))
    case = Case(Seen(matrix, moments, letters(matrix)), verdicts, known, clues, None)
    assert [view.view for view in case.enough] == (["road"] if enough else [])


def of_another_truth(known: Known, matrix: Matrix, moments: Moments, truth: Matrix, clues: Clues) -> Triage:
    """What triage says of a window whose truths are not what its scores let expect."""
    answered = known.expected(moments).look(matrix[:, -1], truth, moments)  # type: ignore[union-attr]
    assert answered is not None
    assert answered.changed
    found = explain_drift(Seen(matrix, moments, letters(matrix), truth=truth), known.drift.test(matrix, moments), known, clues, answered)
    assert found is not None
    return found


@pytest.mark.parametrize("reach", [1.0, 0.5])
@pytest.mark.parametrize("known_share", [1.0, 0.25])
def test_another_truth_is_not_explained_by_a_few_late_values(known: Known, reach: float, known_share: float) -> None:
    """The sample has 75 truths, or the offline store reaches to half of the window: the truths of the whole window stand."""
    matrix, moments = window(40)
    rng = np.random.default_rng(2)
    truth = (rng.random(len(matrix)) < matrix[:, -1] - 0.3).astype(np.float64)
    truth[rng.random(len(matrix)) > known_share] = np.nan
    places = np.linspace(0, reach * (len(matrix) - 1), 300).astype(int)
    right = matrix[places, :-1].copy()
    right[:4, 2] += 1
    late = Compared("road", 600, 8, "late data", ["id1: road:delay_1h was served as 3.0, recomputed 4.0"])
    clues = Clues(recompute=lambda: Recomputed(300, [late], "", places, right))
    found = of_another_truth(known, matrix, moments, truth, clues)
    assert (found.cause, found.retrain, found.proof) == ("concept change", True, False)


def test_scores_that_were_wrong_explain_another_truth(known: Known) -> None:
    """Few truths of the sample are known; but the scores that should have been say what the truths do."""
    matrix, moments = window(40)
    right = matrix[:, :-1].copy()
    matrix[:, 2:4] -= 25
    matrix[:, -1] = Linear().score(matrix[:, :-1])
    rng = np.random.default_rng(2)
    truth = (rng.random(len(matrix)) < Linear().score(right)).astype(np.float64)
    truth[rng.random(len(matrix)) > 0.25] = np.nan
    places = np.linspace(0, len(matrix) - 1, 300).astype(int)
    late = Compared("road", 600, 600, "late data", ["id1: road:delay_1h was served as 3.0, recomputed 28.0"])
    clues = Clues(recompute=lambda: Recomputed(300, [late], "", places, right[places]))
    found = of_another_truth(known, matrix, moments, truth, clues)
    assert (found.cause, found.proof) == ("training/serving skew", True)


def test_what_was_stale_is_not_once_it_is_computed_again(known: Known) -> None:
    """The shop's view was stale, and the shop has changed: nothing speaks for a fault of its source, since its rows came."""
    matrix, moments = window()
    matrix[:, 4] = np.random.default_rng(5).poisson(9, len(matrix))
    matrix[:, 5] = 5 + 0.5 * matrix[:, 4] + np.random.default_rng(6).normal(size=len(matrix))
    right = matrix[:, :-1].copy()
    statuses = letters(matrix)
    matrix[:, 4:6], statuses[:, 4:6] = np.nan, b"s"
    stale = Compared("shop", 2 * len(matrix), 2 * len(matrix), "stale materialization", ["id1: shop:sold was not served, recomputed 9"])
    clues = Clues(recompute=lambda: Recomputed(len(matrix), [stale], "", np.arange(len(matrix)), right))
    found = said(known, matrix, moments, statuses, clues)
    assert found is not None
    assert (found.cause, found.retrain) == ("population change", True)


def test_values_that_stock_feast_reads_differently_are_skew(known: Known) -> None:
    rows = ["17: road:speed of road 3 was served as 1.0, stock Feast reads 2.0"]
    found = said(known, *window(), unequal=(200, 30), differing=rows)
    assert found is not None
    assert found.cause == "training/serving skew"
    assert "30 of 200" in found.detail
    assert [one.rows for one in found.evidence if one.proof] == [rows]
