"""What is unusual about the days of a window, as the days that a model was trained on say. Pure.

A fact of a day is held against the furthest that any of those days lay from their middle: by how much would it be a record? Only a
clear record counts (`RECORD`), since a source has many facts, and one of them breaks its record every few weeks.
"""

from __future__ import annotations

import numpy as np

from streaming.profiles.breaks import find_breaks, is_new_spike
from streaming.profiles.facts import DAY_US, FLOOR, Floats, Moments, Rows, profile, records, weekday_of
from streaming.profiles.violation import Violation

RECORD = 1.6
DAYS = 120
"""Days that say what is usual, at most, spread over their time."""
FEWEST = 14
HOUR_US = 3_600_000_000
SILENT_TIMES, SILENT_US = 3.0, 6 * HOUR_US
"""A source is dead that has been silent for so many times its longest silence, and for so long at least."""
FEWEST_ALIVE = 5
"""Rows that show that a source lives, at least: one that is dated ahead shows nothing."""
APART = 6.0
"""A level that lies so many records away from one day to the next, as no level did before, has another unit."""
STUCK = 0.4
"""Below this share of one value nobody knows whether it is a sentinel or a custom."""
SCALED = 1.6
"""Another unit is so many times larger or smaller in the middle, or has the other sign."""
_WORDS = {
    ("rows", -1): ("volume", "{now:.0f} rows a day, where {then:.0f} are usual"),
    ("rows", 1): ("volume", "{now:.0f} rows a day, where {then:.0f} are usual"),
    ("late", 1): ("late", "its rows become known {now:.0f} s after they happened, where {then:.0f} s are usual"),
    ("keys", -1): ("keys", "{now:.0f} keys a day, where {then:.0f} are usual"),
    ("twice", 1): ("twice", "{now:.0%} of its rows have the key and the moment of another, where {then:.0%} are usual"),
    ("nulls", 1): ("nulls", "{column} is null in {now:.0%}, where {then:.0%} is usual"),
    ("nulls", -1): ("nulls", "{column} is null in {now:.0%}, where {then:.0%} is usual"),
    ("one value", 1): ("one value", "{column} has one value in {now:.0%} of the rows, where {then:.0%} is usual"),
}
_LOGARITHMS = {"rows", "late", "keys"}
LEVELS = ("low", "middle", "high")


# wide: a source, its past, and what is known of others
def find_unusual(source: str, before: Rows, rows: Rows, from_us: int, upto_us: int, alive_us: int, served_us: int = 0) -> list[Violation]:
    """What a source did between two moments that it did not before.

    Args:
        before: rows of the time that says what is usual.
        rows: of the two moments' time, and a day more before it.
        alive_us: up to when other sources have rows: a store that nobody has filled since is not a source that is silent.
        served_us: what became known last of what was served of it: a store that is filled late is not silent either.
    """
    found = _silent(source, before, rows, min(upto_us, alive_us), served_us)
    upto_us = min(upto_us, int(rows.at_us[-1]) + 1) if len(rows) else upto_us
    days = _ends(from_us + DAY_US, upto_us)
    if not len(days) or not len(before):
        return found
    phase = (int(days[-1]) - int(before.at_us[-1])) % DAY_US
    then = _ends(int(before.at_us[0]) + DAY_US, int(before.at_us[-1]) + phase - DAY_US)
    then = then[np.unique(np.linspace(0, len(then) - 1, min(DAYS, len(then))).astype(int))] if len(then) else then
    if len(then) < FEWEST:
        return found
    facts, usual = profile(rows, days), profile(before, then)
    for (fact, column), values in facts.items():
        if fact not in LEVELS:
            found += _fact(source, (rows, before), (fact, column), values, (usual[fact, column], then), days)
    for column in rows.columns:
        if column in before.columns:
            breaks = find_breaks(source, column, rows, before, (facts, usual), (days, then))
            broken = {one.kind for one in breaks}
            found = [one for one in found if one.column != column or one.kind not in broken] + breaks
            found += [] if broken else _level(source, rows, column, facts, (usual, then), days)
    return found


def alive_until(before: Rows, rows: Rows) -> int:
    """Up to when a source is known to live, microseconds; 0: there are too few rows to say.

    Nobody knows a row before it is there: one that is dated ahead (a forecast, a broken clock) shows life at its known time. And a few rows
    may be dated wrongly altogether: it takes as many as come in a usual hour, and never fewer than `FEWEST_ALIVE`.
    """
    span_us = int(before.at_us[-1] - before.at_us[0]) if len(before) else 0
    few = max(FEWEST_ALIVE, round(len(before) * HOUR_US / span_us) if span_us else 0)
    shown = np.sort(np.minimum(rows.at_us, rows.known_us))
    return max(int(shown[-few]), 0) if len(shown) >= few else 0


def has_past(before: Rows) -> bool:
    """Whether rows reach over so much time that they can say what is usual."""
    return len(before) >= FEWEST and int(before.at_us[-1] - before.at_us[0]) >= FEWEST * DAY_US


def _ends(first_us: int, last_us: int) -> Moments:
    """Moments a day apart, ascending, the last of them `last_us`."""
    count = max((last_us - first_us) // DAY_US + 1, 0)
    return np.asarray(last_us - DAY_US * np.arange(count)[::-1], dtype=np.int64)


def _silent(source: str, before: Rows, rows: Rows, upto_us: int, served_us: int) -> list[Violation]:
    # a table that was filled once, or a few times, is not expected to go on
    if not has_past(before) or len(np.unique(before.at_us // DAY_US)) < FEWEST:
        return []
    at = rows.at_us[rows.at_us < upto_us]
    last, longest = int(at[-1]) if len(at) else int(before.at_us[-1]), int(np.diff(before.at_us).max(initial=0))
    silence = upto_us - max(last, served_us)
    if silence < max(SILENT_TIMES * longest, SILENT_US):
        return []
    text = f"has been silent for {silence / 3.6e9:.1f} h; never before for more than {longest / 3.6e9:.1f} h"
    shown = [rows.shown(len(at) - 1)] if len(at) else [before.shown(len(before) - 1)]
    return [Violation(source, "silent", "", last, text, shown, proof=True)]


def _fact(
    source: str, both: tuple[Rows, Rows], which: tuple[str, str], values: Floats, before: tuple[Floats, Moments], days: Moments
) -> list[Violation]:
    (rows, past), (fact, column), (usual, ends) = both, which, before
    if np.isnan(usual).all():
        return []
    middles, record = records(usual, weekday_of(ends), FLOOR[fact])
    middle = middles[weekday_of(days)]
    away = (values - middle) / record
    hit = np.abs(away) > RECORD
    if not hit[-1:].any():  # what is over is over
        return []
    since = len(hit) - int(np.argmin(hit[::-1])) if not hit.all() else 0
    said = _WORDS.get((fact, int(np.sign(away[-1]))))
    if said is None:
        return []
    now, then = (float(np.expm1(v)) if fact in _LOGARITHMS else float(v) for v in (values[-1], middle[-1]))
    shown = _shown(rows, fact, column, int(days[-1]))
    text = said[1].format(now=now, then=then, column=column)
    # more of everything is what a world does; and so is a default that gains share
    hint = not (fact == "rows" and away[-1] > 0) and not (fact == "one value" and now < STUCK and not _is_spike(rows, past, column, days))
    return [Violation(source, said[0], column, int(days[since]) - DAY_US, text, shown, hint=hint)]


def _is_spike(rows: Rows, before: Rows, column: str, days: Moments) -> bool:
    day = slice(*np.searchsorted(rows.at_us, [days[-1] - DAY_US, days[-1]]).tolist())
    return is_new_spike(rows.columns[column][day], before.columns[column])


def _level(
    source: str,
    rows: Rows,
    column: str,
    facts: dict[tuple[str, str], Floats],
    before: tuple[dict[tuple[str, str], Floats], Moments],
    days: Moments,
) -> list[Violation]:
    """Where all of a column lies elsewhere. It is another unit where it jumped there from one day to the next, beyond all that was."""
    usual, ends = before
    if np.isnan(usual["middle", column]).all() or np.isnan(facts["middle", column][-1]):
        return []
    spread = float(np.nanmedian(usual["high", column] - usual["low", column]))
    away = []
    for level in LEVELS:
        middles, record = records(usual[level, column], weekday_of(ends), max(spread / 4, 1e-12))
        away.append((facts[level, column] - middles[weekday_of(days)]) / record)
    least = np.abs(np.array(away)).min(axis=0)
    if not least[-1] > RECORD:
        return []
    hit = least > RECORD
    since = len(hit) - int(np.argmin(hit[::-1])) if not hit.all() else 0
    lower, upper = (float(np.nanmin(usual["low", column])), float(np.nanmax(usual["high", column])))
    now = [float(facts[level, column][-1]) for level in LEVELS]
    disjoint = now[0] > upper or now[2] < lower
    then = float(np.nanmedian(usual["middle", column]))
    scaled = now[1] * then <= 0 or max(abs(now[1] / then), abs(then / now[1])) >= SCALED
    unit = bool(least[-1] > APART and disjoint and scaled)
    text = f"{column} lies between {now[0]:g} and {now[2]:g} (10 % to 90 %), where {lower:g} to {upper:g} was usual"
    shown = _shown(rows, "middle", column, int(days[-1]))
    return [Violation(source, "unit" if unit else "level", column, int(days[since]) - DAY_US, text, shown, hint=unit)]


def _shown(rows: Rows, fact: str, column: str, upto_us: int) -> list[str]:
    """The newest rows that show it."""
    end = int(np.searchsorted(rows.at_us, upto_us))
    places = np.arange(max(end - 5000, 0), end)
    if column and fact == "nulls":
        places = places[np.isnan(rows.columns[column][places])]
    elif column and fact == "one value":
        values = rows.columns[column][places]
        known = values[~np.isnan(values)]
        if len(known):
            each, counts = np.unique(known, return_counts=True)
            places = places[values == each[counts.argmax()]]
    return [rows.shown(int(i), column) for i in places[-3:]]
