"""What is unusual about a source: faults are found with their rows, and what the world does is not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from streaming.profiles.facts import DAY_US, Rows, profile, records
from streaming.profiles.unusual import find_unusual
from streaming.profiles.violation import Violation

HOUR_US = DAY_US // 24
START_US = 19_700 * DAY_US
TRAINED_DAYS, LIVE_DAYS = 90, 10


def source(first_day: int, days: int, seed: int = 0, level: float = 0.0, more: float = 1.0) -> Rows:
    """A shop's tills: busy by day, quieter on Sundays, one season; prices go with the season, and some are not known."""
    rng = np.random.default_rng([seed, first_day])
    at, price, key = [], [], []
    for day in range(first_day, first_day + days):
        count = int(rng.poisson((300 if day % 7 else 180) * more * (1 + 0.1 * np.sin(day / 15))))
        moments = START_US + day * DAY_US + (np.sort(rng.beta(3, 3, count)) * DAY_US).astype(np.int64)
        at.append(moments)
        price.append(20 + level + 3 * np.sin(day / 15) + 4 * rng.normal(size=count))
        key.append(rng.integers(0, 60, count))
    moments, prices = np.concatenate(at), np.concatenate(price)
    prices[rng.random(len(prices)) < 0.02] = np.nan
    return Rows(moments, moments + 30_000_000, np.concatenate(key), {"price": prices})


@pytest.fixture(scope="module")
def before() -> Rows:
    return source(0, TRAINED_DAYS)


def said(before: Rows, rows: Rows, upto_us: int | None = None) -> list[Violation]:
    """Of the last days, while other sources live on."""
    end = START_US + (TRAINED_DAYS + LIVE_DAYS) * DAY_US if upto_us is None else upto_us
    return find_unusual("tills", before, rows, START_US + TRAINED_DAYS * DAY_US, end, end)


def since(rows: Rows, change: Callable[[np.ndarray], np.ndarray], day: float = 4) -> Rows:
    """Prices changed from a day on."""
    price = rows.columns["price"].copy()
    hit = rows.at_us >= START_US + round((TRAINED_DAYS + day) * DAY_US)
    price[hit] = change(price[hit])
    return replace(rows, columns={"price": price})


def without(rows: Rows, keep: np.ndarray) -> Rows:
    return Rows(rows.at_us[keep], rows.known_us[keep], rows.key[keep], {n: v[keep] for n, v in rows.columns.items()})


def late(rows: Rows) -> np.ndarray:
    return rows.at_us >= START_US + (TRAINED_DAYS + 4) * DAY_US


FAULTS: dict[str, Callable[[Rows], Rows]] = {
    "volume": lambda rows: without(rows, ~late(rows) | (np.arange(len(rows)) % 3 == 0)),
    "keys": lambda rows: without(rows, ~late(rows) | (rows.key < 20)),
    "late": lambda rows: replace(rows, known_us=np.where(late(rows), rows.at_us + 5 * HOUR_US, rows.known_us)),
    "twice": lambda rows: replace(
        rows, at_us=np.where(late(rows), rows.at_us // HOUR_US * HOUR_US, rows.at_us), key=np.where(late(rows), 1, rows.key)
    ),
    "nulls": lambda rows: since(rows, lambda x: np.where(np.arange(len(x)) % 3, x, np.nan)),
    "one value": lambda rows: since(rows, lambda x: np.where(np.arange(len(x)) % 2, x, -1.0)),
    "unit": lambda rows: since(rows, lambda x: x * 100),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_a_source_is_found_from_its_beginning_on_and_shows_rows(before: Rows, kind: str) -> None:
    found = {one.kind: one for one in said(before, FAULTS[kind](source(TRAINED_DAYS, LIVE_DAYS)))}
    assert kind in found
    one = found[kind]
    assert one.hint
    assert not one.proof, "what is learnt is suspicion"
    assert one.text
    assert one.rows
    assert abs(one.since_us - (START_US + (TRAINED_DAYS + 4) * DAY_US)) <= 1.5 * DAY_US


@pytest.mark.parametrize("seed", range(20))
def test_days_like_all_others_are_not_unusual(before: Rows, seed: int) -> None:
    """Ten days of twenty sources: at most a handful of alarms in all is promised; here there is none."""
    assert said(before, source(TRAINED_DAYS, LIVE_DAYS, seed + 1)) == []


def test_a_level_that_the_world_moves_is_told_and_speaks_for_no_fault(before: Rows) -> None:
    (one,) = said(before, source(TRAINED_DAYS, LIVE_DAYS, level=13))
    assert (one.kind, one.hint, one.proof) == ("level", False, False)


def test_more_of_everything_speaks_for_no_fault(before: Rows) -> None:
    found = said(before, source(TRAINED_DAYS, LIVE_DAYS, more=3))
    assert {one.kind for one in found} == {"volume"}
    assert not any(one.hint for one in found)


def test_what_is_over_is_not_told(before: Rows) -> None:
    rows = source(TRAINED_DAYS, LIVE_DAYS)
    price = rows.columns["price"].copy()
    price[(rows.at_us >= START_US + 92 * DAY_US) & (rows.at_us < START_US + 95 * DAY_US)] = np.nan
    assert said(before, replace(rows, columns={"price": price})) == []


def test_a_source_that_is_dead_is_proof(before: Rows) -> None:
    rows = source(TRAINED_DAYS, LIVE_DAYS)
    (one,) = [v for v in said(before, without(rows, rows.at_us < START_US + 97 * DAY_US)) if v.kind == "silent"]
    assert one.proof
    assert "silent for" in one.text
    assert one.rows
    short, end = without(rows, rows.at_us < START_US + 97 * DAY_US), START_US + (TRAINED_DAYS + LIVE_DAYS) * DAY_US
    behind = find_unusual("tills", before, short, START_US + TRAINED_DAYS * DAY_US, end, end, served_us=end - HOUR_US)
    assert behind == [], "what was served of it is newer than the store"


def test_a_table_that_was_written_once_is_not_dead(before: Rows) -> None:
    once = Rows(np.full(500, START_US), np.full(500, START_US), np.arange(500), {"seats": np.arange(500.0)})
    nothing = without(once, np.zeros(500, dtype=bool))
    end = START_US + (TRAINED_DAYS + LIVE_DAYS) * DAY_US
    assert find_unusual("planes", once, nothing, START_US + TRAINED_DAYS * DAY_US, end, end) == []


def test_a_store_that_nobody_has_filled_is_no_source_that_is_dead(before: Rows) -> None:
    """All tables end where the last ingest ended."""
    rows = without(source(TRAINED_DAYS, LIVE_DAYS), source(TRAINED_DAYS, LIVE_DAYS).at_us < START_US + 97 * DAY_US)
    end = START_US + (TRAINED_DAYS + LIVE_DAYS) * DAY_US
    assert find_unusual("tills", before, rows, START_US + TRAINED_DAYS * DAY_US, end, START_US + 97 * DAY_US) == []


@pytest.mark.parametrize("days", [0, 3, 13])
def test_a_past_that_is_too_short_says_nothing(days: int) -> None:
    rows = FAULTS["nulls"](source(TRAINED_DAYS, LIVE_DAYS))
    assert said(source(0, days) if days else without(rows, np.zeros(len(rows), dtype=bool)), rows) == []


def test_a_profile_is_what_the_definition_gives(before: Rows) -> None:
    """The naive twin: one day at a time, row by row."""
    ends = START_US + np.array([3, 40]) * DAY_US + 7 * HOUR_US
    found = profile(before, ends)
    for n, end in enumerate(ends.tolist()):
        own = [i for i in range(len(before)) if end - DAY_US <= before.at_us[i] < end]
        prices = [before.columns["price"][i] for i in own]
        known = sorted(p for p in prices if p == p)
        assert found["rows", ""][n] == pytest.approx(np.log(1 + len(own)))
        assert found["keys", ""][n] == pytest.approx(np.log(1 + len({before.key[i] for i in own})))
        assert found["late", ""][n] == pytest.approx(np.log(1 + 30))
        pairs = {(before.key[i], before.at_us[i]) for i in own}
        assert found["twice", ""][n] == pytest.approx(1 - len(pairs) / len(own))
        assert found["nulls", "price"][n] == pytest.approx(1 - len(known) / len(own))
        assert found["one value", "price"][n] == pytest.approx(max(known.count(p) for p in known) / len(known))
        assert found["middle", "price"][n] == pytest.approx(np.median(known))


def test_a_record_is_the_furthest_day_from_its_weekday_and_never_less_than_its_floor() -> None:
    sundays = np.arange(21) % 7 == 0
    days = np.where(sundays, 10.0, 50.0)
    days[8] += 3
    middle, record = records(days, np.arange(21) % 7, 0.1)
    assert (middle[0], middle[1], record) == (10, 50, 3)
    assert records(np.array([1.0, 1.0, np.nan]), np.arange(3), 0.1)[1] == 0.1
