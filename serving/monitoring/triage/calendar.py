"""What recurs: the local clock, holidays, the season.

Example: Christmas week. Nobody commutes, everybody visits. The inputs are far from what they are in other weeks, and next week all is as
before. A new model would have learnt Christmas.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from infra.timestamps import FIRST_US, LAST_US, moment_at
from serving.monitoring.hours import DAY_US, HOUR_US, Moments

YEAR_DAYS = 365.25
BRIDGE = 8
"""Days between two holidays that are no farther apart are holidays, too: the days between Christmas and New Year, or a Golden Week."""
LONGEST = 31
"""Days before and after the rows that are looked at, for holidays that begin before them or go on after."""
SEASON_DAYS = 30
"""Rows so many days before and after the window's, in other years, are of its season."""


def _of_calendar(moments: Moments) -> Moments:
    """Moments as far as a calendar reaches, with a month to spare on both sides: for a zone's offset, and for the days around a holiday.

    A client may send any moment, and one that no calendar has must not end the watch.
    """
    return np.clip(moments, FIRST_US + 31 * DAY_US, LAST_US - 31 * DAY_US)


@dataclass(frozen=True)
class Calendar:
    """
    Args:
        time_zone: an IANA name: whose clock people live by.
        country, subdivision: whose holidays count (ISO 3166: `US`, `NY`); empty: none do.
        around: days before and after a holiday that are unlike others, too.
    """

    time_zone: str = "UTC"
    country: str = ""
    subdivision: str = ""
    around: int = 2

    def local(self, moments: Moments) -> Moments:
        """Moments by the local clock, int64 [m], still ascending where they did: in the hour that comes twice a year the clock waits."""
        if self.time_zone == "UTC" or not len(moments):
            return moments
        moments = _of_calendar(moments)
        hours, place = np.unique(moments // (HOUR_US // 2), return_inverse=True)  # half hours: no zone changes in between
        zone = ZoneInfo(self.time_zone)
        offset = np.array([moment_at(int(h) * (HOUR_US // 2)).astimezone(zone).utcoffset().total_seconds() for h in hours])  # type: ignore[union-attr]
        found = moments + (offset * 1e6).astype(np.int64)[place]
        if np.all(np.diff(moments) >= 0):
            found = np.maximum.accumulate(found)
        return np.asarray(found, dtype=np.int64)

    @cached_property
    def _holidays(self) -> Any:
        if not self.country:
            return {}
        import holidays

        return holidays.country_holidays(self.country, subdiv=self.subdivision or None)

    def holidays(self, clock: Moments) -> tuple[NDArray[np.bool_], list[str]]:
        """Which rows lie at or around a holiday, bool [m], and the holidays' names with their dates. `clock`: by the local clock."""
        if not self.country or not len(clock):
            return np.zeros(len(clock), dtype=bool), []
        days, place = np.unique(_of_calendar(clock) // DAY_US, return_inverse=True)
        hit, names = np.zeros(len(days), dtype=bool), {}
        for n, day in enumerate(days.tolist()):
            here = date(1970, 1, 1) + timedelta(days=day)
            far = max(self.around, BRIDGE - 1)
            away = [a for a in range(-far, far + 1) if here + timedelta(days=a) in self._holidays]
            last, following = max((a for a in away if a <= 0), default=-BRIDGE), min((a for a in away if a >= 0), default=BRIDGE)
            counted = [a for a in away if abs(a) <= self.around or (following - last <= BRIDGE and a in (last, following))]
            hit[n] = bool(counted)
            for near in (here + timedelta(days=a) for a in counted):
                names[near] = f"{self._holidays.get(near)} ({near})"
        return hit[place], [names[day] for day in sorted(names)]

    def days_off(self, clock: Moments) -> int:
        """Days of the longest holidays that some of the rows lie in, with what lies around them; 0: none does."""
        days = np.unique(_of_calendar(clock) // DAY_US)
        if not len(days):
            return 0
        # days near the rows alone: one row of another millennium would have all between looked at
        near = np.unique((days[:, None] + np.arange(-LONGEST, LONGEST + 1)).ravel())
        off = near[self.holidays(near * DAY_US)[0]]
        runs = np.split(off, np.flatnonzero(np.diff(off) > 1) + 1)
        return max((len(run) for run in runs if np.isin(run, days).any()), default=0)

    def season(self, reference: Moments, window: Moments) -> NDArray[np.bool_]:
        """Rows of the reference that lie in the window's season of another year, bool [n]."""
        middle = int(np.median(_of_calendar(window)))
        away = (_of_calendar(reference) - middle) / DAY_US
        years = np.round(away / YEAR_DAYS)
        return np.asarray((years != 0) & (np.abs(away - years * YEAR_DAYS) <= SEASON_DAYS))


PLAIN = Calendar()
"""The clock is UTC, and no day is a holiday."""
