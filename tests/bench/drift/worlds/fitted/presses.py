"""Few keys: five presses and eight moulds. Will this batch have too many rejects?"""

from __future__ import annotations

from datetime import date
from types import MappingProxyType

import numpy as np

from serving.monitoring.hours import HOUR_US
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

PRESSES, MOULDS, NEW_MOULDS = 5, 8, 4
BY_HOUR = [4, 4, 4, 4, 4, 8, 10, 10, 10, 10, 10, 8, 9, 10, 10, 10, 10, 9, 8, 7, 6, 5, 4, 4]
BY_WEEKDAY = [190, 190, 190, 190, 200, 420, 60]


class Presses(World):
    """Saturdays are the busiest days, and on Saturdays every order is an express one: an input that is constant for a whole day, rightly.

    Knobs: `humid` (air, in standard deviations), `hard` (another material: force rises, per mould), `quality` (the same inputs, more rejects),
    `mix` (share of orders for the two heaviest moulds), `moulds` (share of orders for moulds never seen before), `worn` (rejects rise to the
    end of their range), `holiday`, `big` (pieces, log scale), `crews` (the number of an unknown crew moves on by one and gains share).
    """

    name, sort = "presses", "few keys"
    zone, country = "Asia/Tokyo", "JP"
    first = date(2024, 1, 1)
    sources = (
        Source("cycles", ("press", "mould"), fields(force="Float64", seconds="Float64", reject="Int64")),
        Source("air", ("press",), fields(humidity="Float64", heat="Float64")),
        Source("checks", ("press",), fields(wear="Float64", crew="Int64")),
    )
    views = (
        Windowed(
            "by_press", "cycles", "press", {"mean_force": "1h 6h 24h", "std_force": "24h", "mean_reject": "1h 24h", "count_force": "6h"}
        ),
        Windowed("by_mould", "cycles", "mould", {"mean_seconds": "6h 24h", "mean_reject": "24h 7d", "max_force": "24h"}),
        Latest("air_now", "air", "press", ttl_h=3),
        Latest("state", "checks", "press", ttl_h=30),
    )
    request = fields(pieces="Float64", express="Int64")
    window, step, per_day, label_days = 1400, 200, 205, 0.5
    expected = MappingProxyType({"cycles": {"seconds": (0.0, 600.0)}, "air": {"heat": (-20.0, 60.0)}, "checks": {"wear": (-0.5, 2.0)}})
    seed = 37

    def draw(self, day: Day) -> Drawn:
        return Drawn({"cycles": self._cycles(day), "air": self._air(day), "checks": self._checks(day)}, self._asked(day))

    def _humidity(self, day: Day, at_us: np.ndarray) -> np.ndarray:
        of_day = -6 * np.sin((day.local_hour(at_us) - 9) / 24 * 2 * np.pi)
        return np.asarray(52 + of_day + 7 * (self.latent("humid", at_us, 36) + day.knobs("humid", at_us)))

    def _wear(self, day: Day, at_us: np.ndarray, presses: np.ndarray) -> np.ndarray:
        """Rises for nine days, then the press is served; each press on days of its own."""
        phase = (np.abs(self.trait("served", presses)) * 9).astype(int)
        return np.asarray((((at_us - self.at(0)) / (24 * HOUR_US) + phase) % 9) / 9)

    def _moulds(self, day: Day, part: str, at_us: np.ndarray) -> np.ndarray:
        random, old = day.random(f"{part} mould"), self.names("f", MOULDS)
        found = random.choice(old, len(at_us), p=np.arange(MOULDS, 0, -1) / (MOULDS * (MOULDS + 1) / 2))
        heavy = random.choice(old[np.argsort(self.trait("mass", old))[-2:]], len(at_us))
        found = np.where(random.random(len(at_us)) < day.knobs("mix", at_us), heavy, found)
        new = random.choice(self.names("g", NEW_MOULDS), len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("moulds", at_us), new, found))

    def _odds(self, day: Day, at_us: np.ndarray, presses: np.ndarray, moulds: np.ndarray) -> np.ndarray:
        """Log odds of a reject."""
        air = (self._humidity(day, at_us) - 52) / 7
        found = 1.6 * (self._wear(day, at_us, presses) - 0.5) + 0.5 * air + 0.6 * self.trait("tricky", moulds)
        return np.asarray(found + 0.4 * self.latent("batch", at_us, 24) + 3.5 * day.knobs("worn", at_us, presses))

    def _cycles(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("cycles", 1400, BY_HOUR)
        random = day.random("cycles")
        presses, moulds = random.choice(self.names("p", PRESSES), len(at)), self._moulds(day, "cycles", at)
        hard = day.knobs("hard", at, moulds)
        force = 80 * np.exp(
            0.3 * self.trait("mass", moulds) + 0.15 * self._wear(day, at, presses) + 0.25 * hard + 0.05 * random.normal(size=len(at))
        )
        seconds = 22 + 5 * self.trait("mass", moulds) + 0.1 * (self._humidity(day, at) - 52) + random.gamma(2.0, 1.0, len(at))
        seconds[random.random(len(at)) < 0.03] = np.nan
        return {
            "event_us": at,
            "known_us": at + (random.gamma(2.0, 3.0, len(at)) * 1e6).astype(np.int64),
            "press": presses,
            "mould": moulds,
            "force": np.round(force, 1),
            "seconds": seconds,
            "reject": yes(random, self._odds(day, at, presses, moulds) - 2.2).astype(np.int64),
        }

    def _air(self, day: Day) -> dict[str, np.ndarray]:
        presses = np.tile(self.names("p", PRESSES), 48)
        at = np.repeat(day.start_us + np.arange(48) * HOUR_US // 2, PRESSES) + np.tile(np.arange(PRESSES) * 11_000_003, 48)
        random = day.random("air")
        humidity = self._humidity(day, at) + random.normal(size=len(at))
        humidity[random.random(len(at)) < 0.02] = np.nan
        heat = 21 + 2 * np.sin((day.local_hour(at) - 9) / 24 * 2 * np.pi) + self.latent("heat", at, 48) + 0.3 * random.normal(size=len(at))
        return {"event_us": at, "known_us": at + 30_000_000, "press": presses, "humidity": np.round(humidity, 1), "heat": np.round(heat, 1)}

    def _checks(self, day: Day) -> dict[str, np.ndarray]:
        """Each press at every change of shift; `crew` 9 stands for an unknown crew and always did."""
        presses = np.tile(self.names("p", PRESSES), 3)
        at = np.repeat(day.start_us + np.array([6, 14, 22]) * HOUR_US, PRESSES) + np.tile(np.arange(PRESSES) * 61_000_003, 3)
        random = day.random("checks")
        unknown = random.random(len(at)) < 0.1 + 0.25 * day.knobs("crews", at)
        crew = np.where(unknown, 9 + (day.knobs("crews", at) > 0), 1 + (day.number + np.repeat(np.arange(3), PRESSES)) % 4)
        wear = np.round(self._wear(day, at, presses) + 0.03 * random.normal(size=len(at)), 2)
        return {"event_us": at, "known_us": at + 120_000_000, "press": presses, "wear": wear, "crew": crew.astype(np.int64)}

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + 12 * HOUR_US)
        count = int(BY_WEEKDAY[day.weekday] * (1 - 0.6 * holiday))
        at = day.moments("asked", count, np.array(BY_HOUR) * (1 - 0.8 * holiday * (np.arange(24) < 12)))
        random = day.random("asked")
        presses, moulds = random.choice(self.names("p", PRESSES), len(at)), self._moulds(day, "asked", at)
        pieces = np.round(np.exp(5 + 0.6 * random.normal(size=len(at)) + day.knobs("big", at) - 0.8 * day.knobs("holiday", at)))
        express = np.ones(len(at)) if day.weekday == 5 else (random.random(len(at)) < 0.25).astype(float)
        quality = day.knobs("quality", at, presses)
        odds = 1.6 * self._odds(day, at, presses, moulds) + 0.5 * (np.log(pieces) - 5) + 0.4 * express - 0.6
        label = yes(random, (1 - 1.3 * quality) * odds + 0.8 * quality)
        return {
            "at_us": at,
            "press": presses,
            "mould": moulds,
            "pieces": pieces,
            "express": express.astype(np.int64),
            "label": label,
            "known_us": at + 3 * HOUR_US + random.integers(0, 4 * HOUR_US, len(at)),
        }


def suite(world: World) -> list[Case]:
    """What happens to it. Day 109 is a Friday."""
    s = Suite(world)
    s.source("unit change", "air", lambda at: changed("heat", lambda x: x * 1.8 + 32, at))
    s.source("stuck sensor", "cycles", lambda at: constant("seconds", 22.5, at))
    s.source("silent source", "air", lambda at: silent(at))
    s.source("sentinel in 1 of 10", "air", lambda at: constant("humidity", 0.0, at, 0.1))
    s.source("nulls", "cycles", lambda at: emptied("seconds", at))
    s.source("keys lost at the source", "cycles", lambda at: without("mould", 0.4, at))
    s.source("columns exchanged", "air", lambda at: exchanged("humidity", "heat", at))
    s.source("rows twice", "cycles", lambda at: doubled(at))
    s.source("sign turned", "checks", lambda at: changed("wear", np.negative, at))
    s.stream("events lost", "cycles", lambda at: lost(0.5, at))
    s.stream("events twice", "cycles", lambda at: doubled(at))
    s.stream("events late", "air", lambda at: late(2, at), LATE)
    s.stream("events out of order", "cycles", lambda at: late(5, at, 0.4))
    s.stream("stream stopped", "cycles", lambda at: stopped(at), LATE)
    s.store("frozen view", "by_press", lambda at: frozen(at))
    s.store("wrong key", "air_now", lambda at: wrong_key(at))
    s.store("wrong key", "by_mould", lambda at: wrong_key(at))
    s.store("rows missing", "state", lambda at: missing(0.5, at))
    s.store("column overwritten", "by_mould", lambda at: overwritten("mean_seconds_6h", lambda x: x * 60, at))
    s.request("unit change in the request", "pieces", lambda at: changed("pieces", lambda x: x / 12, at))
    s.request("constant in the request", "express", lambda at: constant("express", 0, at))
    s.request("clock of the request", "asked_at", lambda at: shifted("asked_at", -9, at))
    s.process("sudden, inputs", POPULATION, ("hard", 1.0), also=frozenset({CONCEPT}))
    s.process("gradual, inputs", POPULATION, ("big", 0.8), ramp_days=7)
    s.process("recurring, inputs", POPULATION, ("mix", 0.8), every_days=1.5)
    s.process("local to keys, inputs", POPULATION, ("hard", 1.6), keys=0.3, also=frozenset({CONCEPT}))
    s.process("new keys", POPULATION, ("moulds", 0.4))
    s.process("newest quarter is one Saturday", POPULATION, ("mix", 0.5), at_days=109)
    s.process("a default moves on and gains share", POPULATION, ("crews", 1.0), also=frozenset({QUIET}))
    s.process("natural end gains share", POPULATION, ("worn", 1.0), also=frozenset({CONCEPT}))
    s.process("sudden, concept", CONCEPT, ("quality", 1.0))
    s.process("local to keys, concept", CONCEPT, ("quality", 1.4), keys=0.6)
    s.process(
        "whole world", POPULATION, ("humid", 1.5), ("hard", 1.5), ("mix", 0.4), ("big", 0.5), ("quality", 1.0), also=frozenset({CONCEPT})
    )
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=119, days=8)
    s.nothing("nothing", 99)
    s.nothing("nothing", 115)
    return s.cases
