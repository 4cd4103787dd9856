"""Calm and seasonal: district heating. Will a building take more than it ordered in the coming hours?"""

from __future__ import annotations

from datetime import date
from types import MappingProxyType

import numpy as np

from serving.monitoring.hours import DAY_US, HOUR_US
from tests.bench.drift.worlds.cases import CALENDAR, CONCEPT, LATE, POPULATION, QUIET, Case, Suite
from tests.bench.drift.worlds.faults import (
    changed,
    constant,
    doubled,
    emptied,
    exchanged,
    frozen,
    late,
    lost,
    missing,
    overwritten,
    shifted,
    silent,
    stopped,
    without,
    wrong_key,
)
from tests.bench.drift.worlds.world import Day, Drawn, Latest, Source, Windowed, World, fields, yes

BUILDINGS, DISTRICTS = 120, 6
DEFAULT_YEAR = 1990
"""What the register says where nobody knows when a building was built: always was there."""
BY_HOUR = [1, 1, 1, 1, 2, 5, 9, 10, 9, 7, 6, 6, 6, 6, 6, 7, 8, 9, 9, 7, 5, 3, 2, 1]


class Heating(World):
    """Knobs: `colder` (weather, degrees / 8), `insulated` (power per degree falls), `thrift` (the same inputs, fewer overruns),
    `newcomers` (share of requests from buildings never seen before), `large` (large buildings ask more), `default` (the register's default
    year moves on by one and gains share), `holiday` (hours and orders of a holiday), `boost` (everybody near the bound overruns).
    """

    name, sort = "heating", "calm and seasonal"
    zone, country = "Europe/Berlin", "DE"
    first = date(2023, 8, 21)
    sources = (
        Source("readings", ("building",), {"power": "Float64", "flow": "Float64", "over": "Int64"}),
        Source("weather", ("district",), {"temp": "Float64", "wind": "Float64"}),
        Source("register", ("building",), {"built": "Int64", "area": "Float64"}),
    )
    views = (
        Windowed("use", "readings", "building", {"mean_power": "6h 24h 7d", "max_power": "24h", "mean_over": "24h", "count_flow": "24h"}),
        Windowed("flows", "readings", "building", {"mean_flow": "6h 24h", "std_flow": "24h"}),
        Latest("weather_now", "weather", "district", ttl_h=6),
        Latest("house", "register", "building"),
    )
    request = fields(ordered="Float64", guests="Int64")
    expected = MappingProxyType({"readings": {"power": (0.0, 1e5), "flow": (0.0, 1e5)}, "weather": {"wind": (0.0, 80.0)}})
    seed = 11

    def draw(self, day: Day) -> Drawn:
        return Drawn({"readings": self._readings(day), "weather": self._weather(day), "register": self._register(day)}, self._asked(day))

    def _temp(self, day: Day, at_us: np.ndarray, districts: np.ndarray) -> np.ndarray:
        season = 13 - 6 * np.sin(np.pi * np.clip(day.number / 160, 0, 1))
        of_day = 3 * np.sin((day.local_hour(at_us) - 9) / 24 * 2 * np.pi)
        found = season + of_day + 2.5 * self.latent("temp", at_us, 60) + 0.7 * self.trait("place", districts)
        return np.asarray(found - 8 * day.knobs("colder", at_us, districts))

    def _district(self, buildings: np.ndarray) -> np.ndarray:
        return self.names("d", DISTRICTS)[(np.abs(self.trait("district", buildings)) * 1e6).astype(int) % DISTRICTS]

    def _buildings(self, day: Day, part: str, at_us: np.ndarray) -> np.ndarray:
        random = day.random(f"{part} who")
        weight = np.exp(0.5 * self.trait("asks", old := self.names("b", BUILDINGS)))
        found = random.choice(old, len(at_us), p=weight / weight.sum())
        large = self.trait("area", old) > 0.6
        others = random.choice(old[large], len(at_us))
        found = np.where(random.random(len(at_us)) < day.knobs("large", at_us), others, found)
        new = random.choice(self.names("n", 200), len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("newcomers", at_us), new, found))

    def _need(self, day: Day, at_us: np.ndarray, buildings: np.ndarray) -> np.ndarray:
        """Power that a building needs, kW: by weather, size and habit."""
        cold = np.maximum(20 - self._temp(day, at_us, self._district(buildings)), 0)
        habit = 1 + 0.25 * np.sin((day.local_hour(at_us) - 3) / 24 * 4 * np.pi) + 0.15 * self.latent("habit", at_us, 30)
        per_degree = np.exp(0.4 * self.trait("leaks", buildings)) * (1 - 0.4 * day.knobs("insulated", at_us, buildings))
        return np.asarray(self._area(buildings) / 100 * per_degree * (0.4 + 0.11 * cold) * habit)

    def _area(self, buildings: np.ndarray) -> np.ndarray:
        return np.round(900 * np.exp(0.5 * self.trait("area", buildings)), 0)

    def _ordered(self, buildings: np.ndarray) -> np.ndarray:
        """What a building's contract allows, kW."""
        return np.asarray(self._area(buildings) / 100 * np.exp(0.25 * self.trait("order", buildings)) * 1.5)

    def _readings(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("readings", 1400, np.ones(24))
        buildings, random = self._buildings(day, "readings", at), day.random("readings")
        power = self._need(day, at, buildings) * np.exp(0.15 * random.normal(size=len(at)))
        flow = 0.2 * power * np.exp(0.1 * random.normal(size=len(at)))
        flow[random.random(len(at)) < 0.02] = np.nan
        over = (power > self._ordered(buildings) * (1 - 0.5 * day.knobs("boost", at, buildings))).astype(np.int64)
        late = (random.gamma(2.0, 20.0, len(at)) * 1e6).astype(np.int64)
        return {"event_us": at, "known_us": at + late, "building": buildings, "power": power, "flow": flow, "over": over}

    def _weather(self, day: Day) -> dict[str, np.ndarray]:
        places = self.names("d", DISTRICTS)
        at = np.repeat(day.start_us + np.arange(24) * HOUR_US, DISTRICTS) + np.tile(np.arange(DISTRICTS) * 7_000_000 + 13, 24)
        districts, random = np.tile(places, 24), day.random("weather")
        wind = np.exp(1.2 + 0.4 * self.latent("wind", at, 20) + 0.2 * random.normal(size=len(at)))
        temp = self._temp(day, at, districts) + 0.3 * random.normal(size=len(at))
        temp[random.random(len(at)) < 0.01] = np.nan
        return {"event_us": at, "known_us": at + 240_000_000, "district": districts, "temp": temp, "wind": wind}

    def _register(self, day: Day) -> dict[str, np.ndarray]:
        """Every building once a week, some each day; those nobody knows the year of have the default."""
        everyone = np.concatenate([self.names("b", BUILDINGS), self.names("n", 200)])
        some = everyone[np.arange(len(everyone)) % 7 == day.number % 7] if day.number else everyone
        at = day.start_us + 3 * HOUR_US + np.arange(len(some)) * 1_000_003
        moved = day.knobs("default", at)
        unknown = np.abs(self.trait("unknown", some)) < 0.15 + 0.12 * moved
        year = np.round(1975 + 14 * self.trait("built", some), 0)
        built = np.where(unknown, DEFAULT_YEAR + (moved > 0), year).astype(np.int64)
        return {"event_us": at, "known_us": at + 60_000_000, "building": some, "built": built, "area": self._area(some)}

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        count = int((260 if day.weekday < 5 else 190) * (1 - 0.45 * holiday))
        by_hour = np.array(BY_HOUR, dtype=np.float64)
        at = day.moments("asked", count, by_hour + holiday * np.roll(by_hour, 4))
        buildings, random = self._buildings(day, "asked", at), day.random("asked")
        guests = random.poisson(2 + 4 * day.knobs("holiday", at) + 1.5 * (day.weekday >= 5), len(at))
        ordered = self._ordered(buildings) * np.exp(0.1 * random.normal(size=len(at)))
        need = self._need(day, at, buildings)
        thrift = day.knobs("thrift", at, buildings)
        odds = 4.0 * np.log(need / ordered) + 0.12 * guests - 0.3 + 1.2 * day.knobs("boost", at, buildings)
        odds = (1 - 1.2 * thrift) * odds - 0.8 * thrift
        label = yes(random, odds)
        return {
            "at_us": at,
            "building": buildings,
            "district": self._district(buildings),
            "ordered": ordered,
            "guests": guests.astype(np.int64),
            "label": label,
            "known_us": at + 6 * HOUR_US + random.integers(0, HOUR_US, len(at)),
        }


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world)
    s.source("unit change", "weather", lambda at: changed("temp", lambda x: x * 1.8 + 32, at))
    s.source("stuck sensor", "weather", lambda at: constant("wind", 3.3, at))
    s.source("silent source", "readings", lambda at: silent(at))
    s.source("sentinel in 1 of 10", "readings", lambda at: constant("power", -999.0, at, 0.1))
    s.source("nulls", "readings", lambda at: emptied("flow", at, 0.8))
    s.source("rows twice", "readings", lambda at: doubled(at))
    s.source("keys lost at the source", "readings", lambda at: without("building", 0.3, at))
    s.source("columns exchanged", "readings", lambda at: exchanged("power", "flow", at), "columns exchanged, readings")
    s.stream("events lost", "readings", lambda at: lost(0.4, at))
    s.stream("events twice", "readings", lambda at: doubled(at))
    s.stream("events late", "readings", lambda at: late(12, at), LATE)
    s.stream("events out of order", "readings", lambda at: late(8, at, 0.5))
    s.stream("stream stopped", "weather", lambda at: stopped(at), LATE)
    s.store("frozen view", "use", lambda at: frozen(at))
    s.store("wrong key", "flows", lambda at: wrong_key(at))
    s.store("rows missing", "house", lambda at: missing(0.4, at))
    s.store("column overwritten", "weather_now", lambda at: overwritten("temp", lambda x: np.where(np.isnan(x), 0.0, x * 1.8 + 32), at))
    s.request("unit change in the request", "ordered", lambda at: changed("ordered", lambda x: x * 1000, at))
    s.request("constant in the request", "guests", lambda at: constant("guests", 0, at))
    s.request("clock of the request", "asked_at", lambda at: shifted("asked_at", 6, at))
    s.process("sudden, inputs", POPULATION, ("colder", 1.2))
    s.process("gradual, inputs", POPULATION, ("large", 0.7), ramp_days=8)
    s.process("recurring, inputs", POPULATION, ("large", 0.8), every_days=2)
    s.process("local to keys, inputs", POPULATION, ("insulated", 1.0), keys=0.5)
    s.process("new keys", POPULATION, ("newcomers", 0.35))
    s.process("a default moves on and gains share", POPULATION, ("default", 1.0), also=frozenset({QUIET}))
    s.process("natural end gains share", POPULATION, ("boost", 0.9), also=frozenset({CONCEPT}))
    s.process("sudden, concept", CONCEPT, ("thrift", 1.0))
    s.process("whole world", POPULATION, ("colder", 1.5), ("insulated", 1.0), ("large", 0.5), ("thrift", 1.0), also=frozenset({CONCEPT}))
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=124, days=9)
    s.nothing("nothing", 99)
    s.nothing("nothing", 115)
    return s.cases
