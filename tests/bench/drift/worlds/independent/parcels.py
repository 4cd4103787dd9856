"""Many keys, a rare label: the last mile of parcels in 1,500 districts. Will nobody open at the first attempt? One in sixteen times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import cached_property, partial
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from serving.monitoring.hours import DAY_US, HOUR_US
from tests.bench.drift.worlds.cases import CALENDAR, CONCEPT, LATE, POPULATION, QUIET, Case, Suite
from tests.bench.drift.worlds.faults import changed, constant, late, overwritten
from tests.bench.drift.worlds.pipe import Rows, Served
from tests.bench.drift.worlds.tables import EVENT_TIME, KNOWN_TIME, US, moments, replaced
from tests.bench.drift.worlds.world import Day, Drawn, Floats, Ints, Latest, Source, Windowed, World, chosen, fields, yes

DISTRICTS, NEW_DISTRICTS, COURIERS, DEPOTS = 1500, 400, 144, 24
BY_HOUR = [0, 0, 0, 0, 0, 0, 1, 5, 10, 12, 12, 11, 8, 8, 10, 10, 9, 9, 9, 8, 5, 1, 0, 0]
SLOT = np.array([0.6, 0.2, 0.0, -0.7])
KIND = np.array([0.0, 0.5, -0.9])
"""What a time slot (morning to evening) and a kind of door (house, flat, office) do to the log odds."""


class Parcels(World):
    """Knobs: `bulky` (weight, log scale), `evening` (share that moves to the last slot), `campaign` (a web shop's sale: smaller parcels, more
    of them to flats, fuller depots), `works` (road works: everything is slower, per depot), `newcomers` (share of districts never served
    before), `busy` (more requests of the same kind, log scale), `strict` (ten minutes late is a failure now, which shows where couriers are
    in a hurry), `offices` (people are back at their offices by day: log odds of the first slots), `codes` (code locks at flats, log odds,
    per district), `holiday`.
    """

    name, sort = "parcels", "many keys, rare label"
    zone, country = "Asia/Tokyo", "JP"
    first = date(2024, 1, 8)
    sources = (
        Source("attempts", ("district", "courier"), fields(minutes="Float64", failed="Int64")),
        Source("scans", ("depot",), fields(weight="Float64", wait="Float64")),
        Source("routes", ("courier",), fields(stops="Int64", km="Float64")),
        Source("districts", ("district",), fields(households="Float64", lockers="Int64")),
    )
    views = (
        Windowed("district_attempts", "attempts", "district", {"mean_failed": "7d", "count_failed": "7d", "mean_minutes": "7d"}),
        Windowed("courier_attempts", "attempts", "courier", {"mean_failed": "24h", "mean_minutes": "3h 24h", "count_failed": "3h"}),
        Windowed("depot_scans", "scans", "depot", {"mean_weight": "6h", "mean_wait": "1h 6h", "count_wait": "1h 6h"}),
        Latest("courier_route", "routes", "courier", ttl_h=30),
        Latest("district_facts", "districts", "district"),
    )
    request = fields(weight="Float64", slot="Int64", kind="Int64", cash="Int64")
    window, step, per_day, label_days = 3000, 500, 560, 1.5
    expected = MappingProxyType(
        {
            "attempts": {"minutes": (0.0, 600.0), "failed": (0, 1)},
            "scans": {"weight": (0.0, 200.0)},
            "routes": {"stops": (1, 400)},
            "districts": {"lockers": (0, 1)},
        }
    )
    seed = 59

    @cached_property
    def _district(self) -> np.ndarray:
        """Names: those that are served, then those that are new."""
        return np.concatenate([self.names("d", DISTRICTS), self.names("x", NEW_DISTRICTS)])

    @cached_property
    def _away(self) -> Floats:
        """How often nobody is at home, by place in `_district`."""
        return self.trait("away", self._district)

    @cached_property
    def _popular(self) -> Floats:
        weight = np.exp(0.7 * self.trait("size", self._district[:DISTRICTS]))
        return np.asarray(weight / weight.sum())

    @cached_property
    def _lockers(self) -> np.ndarray:
        return (self.trait("lockers", self._district) > 0.5).astype(np.int64)

    @cached_property
    def _slow(self) -> Floats:
        return self.trait("slow", self.names("c", COURIERS))

    def draw(self, day: Day) -> Drawn:
        rows = {"attempts": self._attempts(day), "scans": self._scans(day), "routes": self._routes(day), "districts": self._facts(day)}
        return Drawn(rows, self._asked(day))

    def _where(self, day: Day, part: str, at: Ints) -> tuple[Ints, Ints, Ints]:
        """Places of district, courier and depot: a depot has its own districts and six couriers."""
        random = day.random(f"{part} where")
        district = random.choice(DISTRICTS, len(at), p=self._popular)
        new = DISTRICTS + random.integers(0, NEW_DISTRICTS, len(at))
        district = np.where(random.random(len(at)) < day.knobs("newcomers", at), new, district)
        depot = district % DEPOTS
        return district, depot + DEPOTS * random.integers(0, COURIERS // DEPOTS, len(at)), depot

    def _full(self, day: Day, at: Ints, depot: Ints) -> Floats:
        """How full each depot is, of about variance 1."""
        names, found = self.names("h", DEPOTS), 0.3 * self.latent("full", at, 20)
        for i, name in enumerate(names):
            found = found + 0.9 * self.latent(f"full {name}", at, 30) * (depot == i)
        return np.asarray(found + day.knobs("works", at, names[depot]) + 0.8 * day.knobs("campaign", at) + 0.7 * day.knobs("holiday", at))

    def _rush(self, day: Day, at: Ints, courier: Ints) -> Floats:
        """How much of a hurry each courier is in."""
        return np.asarray(0.7 * self._slow[courier] + 0.6 * self._full(day, at, courier % DEPOTS))

    def _attempts(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        at = day.moments("attempts", int((2800 if day.weekday < 6 else 1700) * (1 - 0.3 * holiday)), BY_HOUR)
        district, courier, _ = self._where(day, "attempts", at)
        random, rush = day.random("attempts"), self._rush(day, at, courier)
        minutes = np.round(np.exp(1.1 + 0.35 * rush + 0.5 * random.normal(size=len(at))), 1)
        minutes[random.random(len(at)) < 0.03] = np.nan
        odds = -2.6 + 0.8 * self._away[district] + 0.4 * rush - 0.6 * self._lockers[district] + 0.7 * day.knobs("offices", at)
        failed = yes(random, odds + 0.4 * day.knobs("holiday", at)).astype(np.int64)
        known = at + (random.gamma(2.0, 40.0, len(at)) * 1e6).astype(np.int64)
        who = {"district": self._district[district], "courier": self.names("c", COURIERS)[courier]}
        found: dict[str, np.ndarray] = {"event_us": at, "known_us": known, "minutes": minutes, "failed": failed}
        return found | who

    def _scans(self, day: Day) -> dict[str, np.ndarray]:
        noon = day.start_us + DAY_US // 2
        more = 1 + 0.25 * day.knobs.level("campaign", noon) - 0.3 * day.knobs.level("holiday", noon)
        at = day.moments("scans", int((3000 if day.weekday < 6 else 1900) * more), np.array(BY_HOUR) + 1.0)
        random = day.random("scans")
        depot = random.integers(0, DEPOTS, len(at))
        wait = np.round(np.exp(3.0 + 0.6 * self._full(day, at, depot) + 0.5 * random.normal(size=len(at))), 1)
        weight = np.round(np.exp(0.9 + 0.7 * random.normal(size=len(at)) + day.knobs("bulky", at) - 0.4 * day.knobs("campaign", at)), 2)
        row = {"event_us": at, "known_us": at + 1_500_000, "depot": self.names("h", DEPOTS)[depot]}
        return row | {"weight": weight, "wait": wait}

    def _routes(self, day: Day) -> dict[str, np.ndarray]:
        """Each courier's plan."""
        courier = np.arange(COURIERS)
        wide = 0.3 * self.trait("wide", self.names("h", DEPOTS))[courier % DEPOTS]
        at, stops = self._planned(day)
        km = np.round(np.exp(3.3 + wide + 0.1 * day.random("km").normal(size=COURIERS)), 1)
        return {"event_us": at, "known_us": at + 60_000_000, "courier": self.names("c", COURIERS), "stops": stops, "km": km}

    def _planned(self, day: Day) -> tuple[Ints, Ints]:
        """When each courier's plan of the day was made, at five in the morning, and how many stops it has."""
        courier = np.arange(COURIERS)
        at = day.start_us + 5 * HOUR_US + courier * 1_000_003
        noise = 0.25 * day.random("stops").normal(size=COURIERS)
        return at, np.round(60 * np.exp(0.2 * self._rush(day, at, courier) + noise)).astype(np.int64)

    def _facts(self, day: Day) -> dict[str, np.ndarray]:
        """What is known of districts; every second one is loaded again each night."""
        some = np.arange(len(self._district))
        some = some[some % 2 == day.number % 2] if day.number else some
        at = day.start_us + 2 * HOUR_US + some * 500_001
        households = np.round(np.exp(6 + 0.7 * self._size[some]))
        row = {"event_us": at, "known_us": at + 10_000_000, "district": self._district[some]}
        return row | {"households": households, "lockers": self._lockers[some]}

    @cached_property
    def _size(self) -> Floats:
        return self.trait("size", self._district)

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        noon = day.start_us + DAY_US // 2
        more = np.exp(day.knobs.level("busy", noon)) * (1 - 0.2 * day.knobs.level("holiday", noon))
        at = day.moments("asked", int((600 if day.weekday < 6 else 350) * more), BY_HOUR)
        district, courier, depot = self._where(day, "asked", at)
        random, bulky, campaign = day.random("asked"), day.knobs("bulky", at), day.knobs("campaign", at)
        weight = np.round(np.exp(0.9 + 0.7 * random.normal(size=len(at)) + bulky - 0.6 * campaign), 2)
        slot = random.choice(4, len(at), p=[0.3, 0.25, 0.25, 0.2])
        slot = np.where(random.random(len(at)) < day.knobs("evening", at), 3, slot)
        kind = random.choice(3, len(at), p=[0.45, 0.4, 0.15])
        kind = np.where(random.random(len(at)) < 0.4 * campaign, 1, kind)
        kind = np.where((random.random(len(at)) < 0.6 * day.knobs("holiday", at)) & (kind == 2), 0, kind)
        cash = yes(random, np.full(len(at), -1.9)).astype(np.int64)
        whose = self.names("c", COURIERS)[courier]
        place = {"district": self._district[district], "courier": whose, "depot": self.names("h", DEPOTS)[depot]}
        sent = {"weight": weight, "slot": slot.astype(np.int64), "kind": kind.astype(np.int64), "cash": cash}
        odds = -3.55 + 0.9 * self._away[district] + 0.5 * self._rush(day, at, courier) + 0.2 * self._full(day, at, depot)
        odds = odds + SLOT[slot] + KIND[kind] + 0.9 * cash - 0.8 * self._lockers[district] + 0.25 * (np.log(np.maximum(weight, 0.05)) - 0.9)
        odds = odds + 1.4 * np.log(self._planned(day)[1][courier] / 60)
        odds = odds + day.knobs("strict", at) * (0.7 + 0.7 * self._rush(day, at, courier))
        odds = odds + day.knobs("offices", at) * (slot < 2) * (kind < 2) + day.knobs("codes", at, place["district"]) * (kind == 1)
        label = yes(day.random("label"), odds + 0.2 * day.knobs("holiday", at))
        known = at + (random.uniform(0.1, 1.5, len(at)) * DAY_US).astype(np.int64)
        return {"at_us": at, "label": label, "known_us": known} | place | sent


def turned_round(name: str, key: str, share: float, begins_us: int) -> Rows:
    """A yes is a no in all rows of some keys: their new handhelds have the codes the other way round."""
    everywhere = changed(name, lambda x: 1 - x, begins_us)

    def act(table: pa.Table) -> pa.Table:
        return replaced(table, name, everywhere(table)[name], chosen(table[key].to_numpy(zero_copy_only=False), share))

    return act


def twice_after(minutes: float, begins_us: int) -> Rows:
    """Everything is counted again at a second gate, so many minutes later."""

    def act(table: pa.Table) -> pa.Table:
        again = table.filter(pa.array(moments(table) >= begins_us))
        for name in (EVENT_TIME, KNOWN_TIME):
            at = moments(again, name) + int(minutes * 60_000_000)
            again = again.set_column(again.column_names.index(name), name, pa.array(at, US))
        return pa.concat_tables([table, again]).sort_by(KNOWN_TIME)

    return act


def same_again(key: str, names: tuple[str, ...], begins_us: int) -> Rows:
    """Each key's last values before the beginning are sent again and again, with new times."""

    def act(table: pa.Table) -> pa.Table:
        since, keys = moments(table) >= begins_us, table[key].to_pylist()
        last = {name: i for i, name in enumerate(keys) if not since[i]}
        take = pa.array([last.get(name, i) for i, name in enumerate(keys)])
        for name in names:
            table = replaced(table, name, table[name].take(take), since)
        return table

    return act


def lost_at(first: int, last: int, offset_h: int, begins_us: int) -> Rows:
    """What happens in some hours of local time never reaches the online store: the cluster is too small for its peak."""

    def act(table: pa.Table) -> pa.Table:
        at = moments(table)
        hour = (at // HOUR_US + offset_h) % 24
        return table.filter(pa.array((at < begins_us) | (hour < first) | (hour >= last)))

    return act


def late_for(key: str, share: float, hours: float, begins_us: int) -> Rows:
    """Events of some keys reach the online store hours late: their site's line is overloaded."""
    everywhere = late(hours, begins_us)

    def act(table: pa.Table) -> pa.Table:
        slow = pa.array(chosen(table[key].to_numpy(zero_copy_only=False), share))
        return pa.concat_tables([table.filter(pa.array(~slow.to_numpy(zero_copy_only=False))), everywhere(table.filter(slow))])

    return act


def expired(hours: float, begins_us: int) -> Callable[[Served], None]:
    """Rows are thrown away so many hours after their last event: a limit that was meant for another view."""

    def act(served: Served) -> None:
        assert served.again is not None
        gone = (served.at_us >= begins_us) & (served.known_us < served.at_us - int(hours * HOUR_US))
        nobody = served.again(served.at_us, np.full(len(served.key), "nobody at all", dtype=object))
        for name in ("values", "known_us", "ties", "event_us", "letters"):
            getattr(served, name)[gone] = getattr(nobody, name)[gone]

    return act


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world)
    s.source("codes turned round at some keys", "attempts", partial(turned_round, "failed", "courier", 0.3))
    s.source("a sentinel for no answer", "attempts", lambda at: constant("minutes", 999.0, at, 0.06))
    s.source("counted at two gates", "scans", partial(twice_after, 20))
    s.source("the same plan every day", "routes", partial(same_again, "courier", ("stops", "km")))
    s.source("a column not loaded any more", "districts", lambda at: constant("lockers", 0, at))
    s.stream("lost at the peak", "attempts", partial(lost_at, 16, 21, 9))
    s.stream("some keys late", "scans", partial(late_for, "depot", 0.5, 7), LATE)
    s.store("expired too soon", "district_attempts", partial(expired, 15))
    s.store("a share as percent", "courier_attempts", lambda at: overwritten("mean_failed_24h", lambda x: x * 100, at))
    s.request("grams from some shops", "weight", lambda at: changed("weight", lambda x: x * 1000, at, 0.3))
    s.request("counted from one", "slot", lambda at: changed("slot", lambda x: x + 1, at))
    s.process("sudden, inputs", POPULATION, ("bulky", 0.5))
    s.process("gradual, inputs", POPULATION, ("evening", 0.5), ramp_days=9)
    s.process("recurring, inputs", POPULATION, ("campaign", 1.0), every_days=3)
    s.process("local to keys, inputs", POPULATION, ("works", 1.8), keys=0.4)
    s.process("new keys", POPULATION, ("newcomers", 0.4))
    s.process("whole world", POPULATION, ("bulky", 0.4), ("evening", 0.3), ("works", 1.0), ("offices", 1.4), also=frozenset({CONCEPT}))
    s.process("sudden, concept", CONCEPT, ("strict", 1.0))
    s.process("gradual, concept", CONCEPT, ("offices", 1.6), ramp_days=6, also=frozenset({POPULATION}))
    s.process("local to keys, concept", CONCEPT, ("codes", 2.1), keys=0.5)
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=112, days=8)
    s.process("more requests of the same kind", QUIET, ("busy", 0.4))
    s.nothing("nothing", 99)
    s.nothing("nothing", 123)
    lucky = [replace(s.quiet_weeks(luck), name=f"nothing, luck {luck}", kind="nothing", days=18) for luck in (21, 22)]
    return [*s.cases, *lucky]
