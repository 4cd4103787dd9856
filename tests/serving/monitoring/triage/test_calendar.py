"""The local clock, holidays and seasons."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydantic import ValidationError

from feature_repo.spec.model import CalendarSpec
from infra.timestamps import FIRST_US, LAST_US, microseconds
from serving.monitoring.hours import DAY_US, HOUR_US, cells, core
from serving.monitoring.reference import Fitted
from serving.monitoring.triage.calendar import PLAIN, Calendar
from serving.monitoring.triage.explanation import explain_drift
from serving.monitoring.triage.seen import Clues, Seen

NEW_YORK = Calendar("America/New_York", "US")


def at(*when: int) -> int:
    return microseconds(datetime(*when, tzinfo=UTC))  # type: ignore[arg-type]


def test_the_local_hour_is_the_zone_s_own_on_every_hour_of_a_year() -> None:
    hours = np.arange(at(2024, 1, 1), at(2025, 1, 1), HOUR_US)
    zone = ZoneInfo("America/New_York")
    local = NEW_YORK.local(hours)
    wrong = [
        h for h, mine in zip(hours.tolist(), cells(local)[1].tolist(), strict=True) if mine != datetime.fromtimestamp(h / 1e6, zone).hour
    ]
    assert len(wrong) <= 1, "in the hour that comes twice the clock waits"
    assert (np.diff(local) >= 0).all()
    assert PLAIN.local(hours) is hours


def test_days_around_a_holiday_count_by_the_local_date() -> None:
    hit, names = NEW_YORK.holidays(NEW_YORK.local(np.array([at(2024, 7, 7, 3), at(2024, 7, 7, 6), at(2024, 7, 15)])))
    assert hit.tolist() == [True, False, False], "three in the morning of the 7th in UTC is the 6th in New York"
    assert names == ["Independence Day (2024-07-04)"]
    assert not PLAIN.holidays(np.array([at(2024, 12, 25)]))[0].any()


def test_a_season_is_of_another_year() -> None:
    days = np.arange(at(2022, 1, 1), at(2024, 6, 1), DAY_US)
    found = PLAIN.season(days, np.array([at(2024, 6, 2), at(2024, 6, 9)]))
    months = {datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m") for us in days[found].tolist()}
    assert months == {"2022-05", "2022-06", "2022-07", "2023-05", "2023-06", "2023-07"}


ENDS = (-(2**63), FIRST_US, -(10**17), 0, 10**17, LAST_US, 2**63 - 1)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York", "Europe/Paris", "Pacific/Kiritimati"])
@pytest.mark.parametrize("country", ["", "US", "FR", "IL", "CN"])
def test_no_moment_ends_the_watch(zone: str, country: str) -> None:
    """A client may send any; one that no calendar has is taken for the nearest that it has."""
    calendar = Calendar(zone, country, around=14)
    usual = np.array([at(2024, 5, 5), at(2024, 12, 25, 12)])
    moments = np.array([*ENDS, *usual.tolist()])
    local = calendar.local(moments)
    assert local[-2:].tolist() == calendar.local(usual).tolist()
    hit, _ = calendar.holidays(local)
    assert hit[-2:].tolist() == calendar.holidays(calendar.local(usual))[0].tolist()
    assert calendar.season(moments, usual).shape == (len(moments),)
    for one in ENDS:
        calendar.season(usual, np.array([one]))


def test_the_core_of_a_window_is_without_the_moments_that_are_far_from_all_others() -> None:
    moments = np.arange(at(2024, 5, 5), at(2024, 5, 7), HOUR_US)
    whole = (int(moments[0]), int(moments[-1]))
    assert core(moments) == whole
    assert core(np.append(moments, ENDS[:1])) == core(np.append(ENDS[-1:], moments)) == whole
    assert core(np.append(moments, 1)) == whole
    assert core(moments[:1]) == (whole[0], whole[0])
    late = np.append(moments, moments[-1] + DAY_US)
    assert core(late) == (whole[0], int(late[-1])), "a night's pause is no clock that is wrong"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"time_zone": "Mars/Base"}, "no IANA time zone"),
        ({"country": "Atlantis"}, "no holidays are known"),
        ({"country": "US", "subdivision": "Bavaria"}, "no subdivision"),
        ({"subdivision": "NY"}, "needs its country"),
        ({"around": 99}, "less than or equal to 14"),
    ],
)
def test_a_calendar_that_nobody_has_is_refused_with_what_to_write(said: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        CalendarSpec.model_validate(said)
    assert CalendarSpec(time_zone="Europe/Paris", country="FR").around == 2


def traffic(first_day: int, days: int, festive: set[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Baskets of a shop, much larger on festive days. Rows float64 [n, 3]: amount, items, score."""
    rng = np.random.default_rng([seed, first_day])
    moments = at(2024, 1, 1) + first_day * DAY_US + np.sort(rng.integers(0, days * DAY_US, days * 150))
    day = (moments - at(2024, 1, 1)) // DAY_US
    more = np.isin(day, list(festive)) * 6.0
    items = rng.normal(5, 1, len(moments)) + more
    return np.column_stack([items * 10 + rng.normal(0, 5, len(moments)), items, rng.random(len(moments))]), moments


def test_christmas_week_is_the_calendar_and_the_same_week_elsewhere_in_the_year_is_not() -> None:
    festive = {357, 358, 359, 360}
    rows, moments = traffic(0, 200, set(), 1)
    names, views = ["basket__amount", "basket__items"], ["basket", "basket"]
    calendar = Calendar(country="US")  # the shop is festive by UTC days
    reference = Fitted(rows, names, views, moments, None, "scipy")
    for days, cause in ((festive, "calendar"), ({d - 60 for d in festive}, None)):
        window, when = traffic(min(days) - 2, 7, days, 2)
        letters = np.full((len(window), 2), b"f", dtype="S1")
        verdicts = reference.drift.test(window, when)
        found = explain_drift(Seen(window, when, letters), verdicts, reference, Clues(calendar=calendar))
        assert found is not None
        assert (found.cause == "calendar") == (cause == "calendar")
        if cause:
            assert "Christmas Day" in found.detail
            assert not found.retrain
            assert not found.proof


@pytest.mark.parametrize(
    ("past", "broken", "calendar"),
    [(False, False, False), (True, False, True), (True, True, False)],
    ids=["no holiday was like that", "every holiday was", "a fault at a holiday"],
)
def test_a_window_of_holidays_alone_is_held_against_past_holidays(past: bool, broken: bool, calendar: bool) -> None:
    """Nothing of the window lies outside: what holidays of the reference were like has to say it. That it lies there says nothing."""
    whose = Calendar(country="DE", around=1)
    festive = {day for day in range(366) if whose.holidays(np.array([at(2024, 1, 1) + day * DAY_US]))[0][0]}
    rows, moments = traffic(0, 200, festive if past else set(), 1)
    names, views = ["basket__amount", "basket__items"], ["basket", "basket"]
    reference = Fitted(rows, names, views, moments, None, "scipy")
    window, when = traffic(358, 3, festive | {358, 359, 360}, 2)
    if broken:
        window[:, 0] *= 100  # in cents
    letters = np.full((len(window), 2), b"f", dtype="S1")
    found = explain_drift(Seen(window, when, letters), reference.drift.test(window, when), reference, Clues(calendar=whose))
    cause = "nothing" if found is None else found.cause
    assert cause in (("calendar", "nothing") if calendar else ("population change", "pipeline fault"))


def test_the_days_between_two_holidays_are_holidays_too() -> None:
    days = np.array([at(2023, 12, 20), at(2023, 12, 29), at(2024, 1, 6)])
    hit, names = Calendar("Europe/Berlin", "DE", around=2).holidays(days)
    assert hit.tolist() == [False, True, False]
    assert [name[-11:-1] for name in names] == ["2023-12-26", "2024-01-01"]
    alone = np.array([at(2024, 12, 10), at(2024, 10, 6), at(2024, 10, 8)])  # one holiday in October, and none near December 10
    assert Calendar("Europe/Berlin", "DE", around=2).holidays(alone)[0].tolist() == [False, False, False]


@pytest.mark.parametrize(("day", "off"), [((2023, 12, 30), 12), ((2024, 7, 15), 0), ((2024, 10, 3), 5), ((2024, 10, 5), 5)])
def test_how_long_a_holiday_lasts_is_told_by_any_of_its_days(day: tuple[int, int, int], off: int) -> None:
    """From two days before Christmas to two days after New Year; and Unity Day with two days on both sides."""
    around = Calendar("Europe/Berlin", "DE", around=2)
    assert around.days_off(np.array([at(*day)])) == off
    assert Calendar().days_off(np.array([at(*day)])) == 0
    assert around.days_off(np.zeros(0, dtype=np.int64)) == 0


def test_a_row_of_another_millennium_costs_no_more_than_another_row() -> None:
    whose, rows = Calendar("Europe/Berlin", "DE"), np.array([at(2024, 10, 3), at(2024, 10, 5)])
    looked: list[int] = []

    class Counted(Calendar):
        def holidays(self, clock: np.ndarray) -> tuple[np.ndarray, list[str]]:
            looked.append(len(clock))
            return whose.holidays(clock)

    assert Counted("Europe/Berlin", "DE").days_off(np.append(rows, at(3000, 1, 1))) >= 5
    assert sum(looked) < 200
