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
            for away in range(-self.around, self.around + 1):
                near = here + timedelta(days=away)
                if near in self._holidays:
                    hit[n] = True
                    names[near] = f"{self._holidays.get(near)} ({near})"
        return hit[place], [names[day] for day in sorted(names)]

    def season(self, reference: Moments, window: Moments) -> NDArray[np.bool_]:
        """Rows of the reference that lie in the window's season of another year, bool [n]."""
        middle = int(np.median(_of_calendar(window)))
        away = (_of_calendar(reference) - middle) / DAY_US
        years = np.round(away / YEAR_DAYS)
        return np.asarray((years != 0) & (np.abs(away - years * YEAR_DAYS) <= SEASON_DAYS))


PLAIN = Calendar()
"""The clock is UTC, and no day is a holiday."""
