"""Changes that were once taken for faults, each in a made-up year of people who book rooms: nothing is broken in any of them."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.records.verdict import Triage
from serving.monitoring.hours import DAY_US, HOUR_US, Matrix, Moments
from serving.monitoring.reference import Fitted
from serving.monitoring.triage.calendar import Calendar
from serving.monitoring.triage.explanation import explain_drift
from serving.monitoring.triage.seen import Clues, Seen

NAMES = ["guest__birth_year", "guest__income", "guest__nights_7d", "guest__share_paid", "guest__share_kept", "asked__desk", "asked__hour"]
VIEWS = ["guest", "guest", "stays", "stays", "stays", "asked", "asked"]
MONDAY_US = 19_723 * DAY_US  # 2024-01-01, UTC
PARIS = Calendar("Europe/Paris")
DEFAULT = 1970.0


def year(days: int, seed: int, new: float = 0.0) -> tuple[Matrix, Moments]:
    """Rows float64 [n, 8] (NAMES and the score) and moments (UTC). `new`: by how much everybody is another kind of guest.

    A birth year that was not given is `DEFAULT`: with other guests it is the year after, and more give none. Shares are means of 0/1, so 1
    is their natural end. On Saturdays there is one desk only.
    """
    rng = np.random.default_rng(seed)
    local = np.sort(np.concatenate([d * 24 + rng.choice(np.arange(7, 23), 90) for d in range(days)]))
    n, day = len(local), local // 24
    lasting = np.zeros(days)
    for d in range(1, days):
        lasting[d] = 0.7 * lasting[d - 1] + 0.3 * rng.normal()
    kind = lasting[day] + new
    born = np.where(rng.random(n) < 0.15 + 0.1 * (new > 0), DEFAULT + (new > 0), np.round(1975 + 8 * rng.normal(size=n) - 4 * kind))
    income = 30 + 8 * kind + 6 * rng.normal(size=n)
    nights = rng.poisson(np.exp(0.8 + 0.3 * kind)).astype(np.float64)
    visits = 1 + rng.poisson(3, n)
    paid, kept = (rng.binomial(visits, 1 / (1 + np.exp(-(0.6 + 0.9 * kind + 0.3 * k)))) / visits for k in range(2))
    desk = np.where(day % 7 == 5, 3.0, rng.integers(1, 6, n).astype(np.float64))
    hour = (local % 24).astype(np.float64)
    score = 1 / (1 + np.exp(-(0.03 * (income - 30) + 0.1 * nights - 0.3)))
    as_local = MONDAY_US + local * HOUR_US + rng.integers(0, HOUR_US, n)
    order = np.argsort(as_local, kind="stable")
    rows = np.column_stack([born, income, nights, paid, kept, desk, hour, score])[order]
    return rows, to_utc(as_local[order]).astype(np.int64)


def to_utc(local: Moments) -> Moments:
    """By Paris' clock, on the hour before or after a change of it a little otherwise: nobody books then."""
    utc = local - HOUR_US
    return np.asarray(np.where(PARIS.local(utc) > local, utc - HOUR_US, utc), dtype=np.int64)


@pytest.fixture(scope="module")
def known() -> Fitted:
    """January to September: summer time begins in it."""
    rows, moments = year(270, 0)
    return Fitted(rows, NAMES, VIEWS, PARIS.local(moments), None, "scipy")


def window(first: int, days: int, new: float = 0.0) -> tuple[Matrix, Moments]:
    rows, moments = year(340, 1, new)
    inside = (moments >= MONDAY_US + first * DAY_US) & (moments < MONDAY_US + (first + days) * DAY_US)
    return rows[inside], moments[inside]


def said(known: Fitted, rows: Matrix, moments: Moments, clock: Moments) -> Triage | None:
    statuses = np.full(rows[:, :-1].shape, b"f", dtype="S1")
    clues = Clues(calendar=PARIS, sources={"guest": ("guests",), "stays": ("stays",)})
    return explain_drift(Seen(rows, moments, statuses, clock=clock), known.drift.test(rows, clock), known, clues)


@pytest.mark.parametrize("first", [100, 150, 200, 290])
def test_a_default_that_moves_on_and_a_natural_end_that_gains_are_the_worlds(known: Fitted, first: int) -> None:
    """More guests who give no birth year, stored as another one; and more shares at 1, because all shares have gained."""
    rows, moments = window(first, 6, new=1.5)
    usual = window(first, 6)[0]
    assert (rows[:, 0] == DEFAULT + 1).mean() > 0.2 > (usual[:, 0] == DEFAULT + 1).mean()
    assert (rows[:, 3] == 1).mean() > (usual[:, 3] == 1).mean() + 0.2
    found = said(known, rows, moments, PARIS.local(moments))
    assert found is not None
    assert (found.cause, found.retrain) == ("population change", True)


def test_a_request_s_input_that_is_constant_on_one_day_of_the_week_is_not_stuck(known: Fitted) -> None:
    """The newest part of the window is one Saturday; so is the whole of another window."""
    for first, days in ((180, 2), (187, 1)):
        rows, moments = window(first, days)
        saturday = PARIS.local(moments) // DAY_US % 7 == 2  # the epoch began on a Thursday
        assert len(set(rows[saturday, 5])) == 1
        found = known.drift.test(rows, PARIS.local(moments))
        assert not found[NAMES.index("asked__desk")].drift


def test_what_follows_the_local_clock_does_so_in_summer_and_in_winter(known: Fitted) -> None:
    """In November the clock of Paris is an hour nearer to UTC than in summer, when most of the reference was."""
    rows, moments = window(310, 6)
    verdicts = known.drift.test(rows, PARIS.local(moments))
    assert not verdicts[NAMES.index("asked__hour")].drift
    by_utc = Fitted(*_reference_by_utc(), "scipy")
    assert by_utc.drift.test(rows, moments)[NAMES.index("asked__hour")].drift, "else the test could not fail"


def _reference_by_utc() -> tuple[Matrix, list[str], list[str], Moments, None]:
    rows, moments = year(270, 0)
    summer = (moments >= MONDAY_US + 92 * DAY_US) & (moments < MONDAY_US + 265 * DAY_US)
    return rows[summer], NAMES, VIEWS, moments[summer], None


@pytest.mark.parametrize("first", [100, 200, 290])
def test_and_a_fault_of_the_same_column_is_suspected(known: Fitted, first: int) -> None:
    """Else the tests above would pass with a triage that suspects nothing."""
    rows, moments = window(first, 6)
    rows[np.random.default_rng(3).random(len(rows)) < 0.4, 0] = 0.0
    found = said(known, rows, moments, PARIS.local(moments))
    assert found is not None
    assert (found.cause, found.views, found.retrain) == ("pipeline fault", ["guest"], False)
