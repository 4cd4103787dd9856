"""Another unit and a sentinel are told from what a world does: seasons, storms, more and less of everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streaming.profiles.breaks import CONVERSIONS, find_stranger, is_constant, is_new_spike
from streaming.profiles.facts import DAY_US, Rows
from streaming.profiles.unusual import find_unusual
from streaming.profiles.violation import Violation

START_US = 19_700 * DAY_US
TRAINED_DAYS, LIVE_DAYS, CHANGED = 90, 8, 5
FROM_US, CHANGED_US, END_US = (START_US + day * DAY_US for day in (TRAINED_DAYS, TRAINED_DAYS + CHANGED, TRAINED_DAYS + LIVE_DAYS))


def weather(seed: int, mean: float = 55.0, spread: float = 8.0) -> Rows:
    """Hourly readings at three places: a season, days that last, and mornings that are not evenings."""
    rng = np.random.default_rng(seed)
    hours = np.arange((TRAINED_DAYS + LIVE_DAYS) * 24)
    lasting = np.zeros(len(hours) // 24 + 1)
    for day in range(1, len(lasting)):
        lasting[day] = 0.7 * lasting[day - 1] + rng.normal()
    smooth = np.interp(hours / 24, np.arange(len(lasting)), lasting)
    level = mean + spread * (0.6 * np.sin(hours / 24 / 58) + 0.5 * smooth + 0.5 * np.sin(hours / 24 * 2 * np.pi))
    values = (level[:, None] + 0.2 * spread * rng.normal(size=(len(hours), 3))).ravel()
    at = START_US + np.repeat(hours, 3) * (DAY_US // 24)
    return Rows(at, at, np.tile(np.arange(3), len(hours)), {"x": values})


def said(whole: Rows, values: np.ndarray) -> list[Violation]:
    """Of the live days, where the column has these values."""
    rows = replace(whole, columns={"x": values})

    def part(from_us: int, upto_us: int) -> Rows:
        hit = (rows.at_us >= from_us) & (rows.at_us < upto_us)
        return Rows(rows.at_us[hit], rows.known_us[hit], rows.key[hit], {"x": values[hit]})

    return [v for v in find_unusual("weather", part(START_US, FROM_US), part(FROM_US - DAY_US, END_US), FROM_US, END_US, END_US) if v.hint]


def since(whole: Rows, changed: np.ndarray, at_us: int = CHANGED_US) -> np.ndarray:
    return np.where(whole.at_us >= at_us, changed, whole.columns["x"])


LARGE = [name for name, (factor, _) in CONVERSIONS.items() if not 0.1 < factor < 10]
"""What begins in the middle of a day leaves fewer days to be held against each other."""


@pytest.mark.parametrize(("name", "hours"), [*((name, 0) for name in CONVERSIONS), *((name, 11) for name in LARGE)])
def test_another_unit_is_told_with_the_day_since_when(name: str, hours: int) -> None:
    """Also one that begins in the middle of a day, and where values overlap with those of before."""
    factor, offset = CONVERSIONS[name]
    whole = weather(3)
    at_us = CHANGED_US - hours * 3_600_000_000
    found = said(whole, since(whole, whole.columns["x"] * factor + offset, at_us))
    assert [one.kind for one in found if one.kind == "unit"] == ["unit"]
    (one,) = (one for one in found if one.kind == "unit")
    assert not one.proof
    assert abs(one.since_us - at_us) <= DAY_US
    assert one.rows


def test_the_conversion_is_named() -> None:
    for seed in range(5):
        whole = weather(seed)
        (one,) = [v for v in said(whole, since(whole, whole.columns["x"] + 273.15)) if v.kind == "unit"]
        assert one.text.endswith("as x + 273.15 would")
        first, _, _, last = (float(row.partition("x = ")[2]) for row in one.rows)
        assert last - first > 200, "rows of before and of after"


def test_minutes_that_are_seconds_are_told_where_their_middle_is_nought() -> None:
    """Such as delays: no level moves, all is wider."""
    for seed in range(5):
        whole = weather(seed, mean=0.0)
        for factor in (60, 1 / 60):
            (one,) = [v for v in said(whole, since(whole, whole.columns["x"] * factor)) if v.kind == "unit"]
            assert abs(one.since_us - CHANGED_US) <= DAY_US


def test_what_a_world_does_is_taken_for_no_unit_in_nineteen_of_twenty() -> None:
    """A year of sources: as ever, warmer, in a storm, more changeable."""
    wrong = 0
    changes = (lambda x: x, lambda x: x + 8, lambda x: x - 12, lambda x: 55 + (x - 55) * 1.6, lambda x: x * 1.15)
    for seed in range(20):
        whole = weather(seed)
        wrong += sum(bool(said(whole, since(whole, change(whole.columns["x"])))) for change in changes)
    assert wrong <= 0.05 * 20 * len(changes)


def test_a_leap_that_is_over_is_not_told() -> None:
    whole = weather(3)
    hit = (whole.at_us >= FROM_US + 2 * DAY_US) & (whole.at_us < FROM_US + 4 * DAY_US)
    assert said(whole, np.where(hit, whole.columns["x"] * 100, whole.columns["x"])) == []


def test_a_sentinel_in_one_row_of_ten_is_told_and_one_that_always_was_is_not() -> None:
    whole = weather(3)
    lost = np.random.default_rng(0).random(len(whole)) < 0.15
    (one,) = said(whole, np.where(lost & (whole.at_us >= CHANGED_US), -9999.0, whole.columns["x"]))
    assert (one.kind, one.column) == ("one value", "x")
    assert "never was before" in one.text
    assert all(row.endswith("x = -9999") for row in one.rows)
    rarely = lost & ((whole.at_us >= CHANGED_US) | (np.arange(len(whole)) % 10 == 0))
    assert said(whole, np.where(rarely, -9999.0, whole.columns["x"])) == []


def test_values_beyond_all_that_was_are_no_sentinel_where_they_differ() -> None:
    usual = np.arange(100.0)
    assert find_stranger(np.r_[usual, np.full(10, -100.0)], usual) == (-100.0, 10 / 110)
    assert find_stranger(np.r_[usual, np.full(10, 100.0)], usual) is None, "a default that moves on, such as the year"
    assert find_stranger(np.r_[usual, np.arange(100.0, 110.0)], usual) is None
    assert find_stranger(np.r_[usual, np.full(4, -100.0)], usual) is None, "too few"
    assert find_stranger(np.full(5, np.nan), usual) is None
    assert find_stranger(usual, np.full(5, np.nan)) is None


def test_a_flag_that_is_stuck_is_told_and_one_that_is_seldom_set_is_not() -> None:
    whole = weather(3)
    chance = np.random.default_rng(0).random(len(whole))
    often, seldom = (chance < 0.4).astype(float), (chance < 0.02).astype(float)
    assert said(whole, often) == []
    (one,) = said(whole, np.where(whole.at_us >= CHANGED_US, 0.0, often))
    assert (one.kind, one.column) == ("one value", "x")
    assert abs(one.since_us - CHANGED_US) <= DAY_US // 4
    assert "in all rows of a day" in one.text
    assert said(whole, np.where(whole.at_us >= CHANGED_US, 0.0, seldom)) == [], "so it is on many a day"


def test_a_constant_is_one_that_chance_does_not_make() -> None:
    assert is_constant(np.zeros(100), np.array([0.8, 0.7]))
    assert not is_constant(np.zeros(100), np.array([0.8, 0.9])), "ten are expected"
    assert not is_constant(np.r_[np.zeros(99), 1.0], np.array([0.5]))
    assert not is_constant(np.full(100, np.nan), np.array([0.5]))
    assert not is_constant(np.zeros(100), np.array([np.nan]))


def _stock(count: int, seed: int) -> np.ndarray:
    """Whole amounts, of which a twentieth is 0."""
    return np.random.default_rng(seed).negative_binomial(3, 0.25, count).astype(np.float64)


def test_a_zero_for_what_is_unknown_is_a_new_spike() -> None:
    usual, day = _stock(5000, 1), _stock(400, 2)
    assert not is_new_spike(day, usual)
    assert is_new_spike(np.where(np.arange(400) % 4 == 0, 0.0, day), usual)
    assert is_new_spike(np.minimum(day, 8), usual), "a cut at a bound"
    assert is_new_spike(np.where(np.arange(400) % 4 == 0, 7.0, day + 0.25), usual + 0.25), "a value that never was"


def test_what_the_world_does_is_no_new_spike() -> None:
    usual, day = _stock(5000, 1), _stock(400, 2)
    default = np.where(np.arange(5000) % 8 == 0, 40.0, usual)
    assert not is_new_spike(np.where(np.arange(400) % 3 == 0, 40.0, day), default), "a default gains share"
    assert not is_new_spike(np.where(np.arange(400) % 3 == 0, 41.0, day), default), "and moves on"
    assert not is_new_spike(np.floor(day / 4), usual), "the end of a scale gains with all that lies near it"
    codes = np.random.default_rng(3).choice(12, 5000, p=np.random.default_rng(4).dirichlet(np.ones(12))).astype(np.float64)
    assert not is_new_spike(np.where(np.arange(400) % 2 == 0, 5.0, codes[:400]), codes), "one product sells"
    assert not is_new_spike(np.repeat([0.0, 1.0], [380, 20]), np.repeat([0.0, 1.0], [2500, 2500])), "a flag"
    assert not is_new_spike(np.full(3, np.nan), usual)
