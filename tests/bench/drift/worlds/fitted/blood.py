"""Rare label, few keys: a blood bank. Will this hospital's request be delivered later than promised? One in twenty is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from serving.monitoring.hours import DAY_US, HOUR_US
from tests.bench.drift.worlds.cases import CALENDAR, CONCEPT, LATE, POPULATION, QUIET, Case, Suite
from tests.bench.drift.worlds.faults import changed, constant, frozen, silent, stopped, without, wrong_key
from tests.bench.drift.worlds.pipe import NOBODY, Rows, Served
from tests.bench.drift.worlds.tables import DELIVERED, KNOWN_TIME, moments
from tests.bench.drift.worlds.world import Day, Drawn, Floats, Latest, Source, Windowed, World, fields, yes

HOSPITALS, NEW_HOSPITALS, DEPOTS = 11, 5, 4
GROUPS = np.array(["O+", "A+", "B+", "O-", "A-", "AB+", "B-", "AB-"], dtype=object)
SHARES = np.array([0.39, 0.35, 0.08, 0.07, 0.06, 0.03, 0.015, 0.005])
FREE_DAYS = {date(2024, 4, 25), date(2024, 5, 1), date(2024, 8, 15)}
WARDS = [2, 2, 1, 1, 1, 2, 4, 9, 13, 12, 11, 10, 8, 7, 8, 8, 7, 6, 5, 4, 4, 3, 3, 2]
DONORS = [0, 0, 0, 0, 0, 0, 1, 9, 14, 14, 12, 9, 4, 3, 5, 6, 7, 6, 3, 1, 0, 0, 0, 0]
ROADS = [3, 2, 2, 2, 2, 3, 5, 8, 9, 9, 8, 8, 7, 6, 7, 7, 8, 8, 6, 5, 5, 4, 4, 3]
RUSH = np.array([-1, -1, -1, -1, -1, -0.7, 0, 0.9, 1.2, 0.6, 0.2, 0.2, 0.4, 0.2, 0.1, 0.3, 0.7, 1.2, 1.1, 0.4, -0.2, -0.6, -0.8, -1])


class Blood(World):
    """Knobs: `large` (units of a request, log scale, per hospital), `planned` (share of requests that become planned ones), `roads` (delay of
    couriers, log scale, per depot), `scarce` (stock falls, per group), `newcomers` (share of requests from hospitals never seen before),
    `campaign` (donors come who did not, younger and more), `strict` (what was in time is late now), `priority` (urgent ones go first, large
    ones last), `holiday` (wards are closed and donors are away).
    """

    name, sort = "blood", "rare label, few keys"
    zone, country = "Europe/Rome", "IT"
    first = date(2024, 4, 22)
    sources = (
        Source("issues", ("hospital", "group"), fields(units="Float64", minutes="Float64", returned="Int64")),
        Source("donations", ("depot",), fields(volume="Float64", haemoglobin="Float64")),
        Source("trips", ("depot",), fields(delay="Float64")),
        Source("shelf", ("group",), fields(bags="Int64", oldest="Float64")),
    )
    views = (
        Windowed("hospital_demand", "issues", "hospital", {"mean_units": "24h 7d", "count_units": "6h 24h", "mean_minutes": "6h 24h"}),
        Windowed("group_demand", "issues", "group", {"count_units": "24h", "mean_returned": "7d"}),
        Windowed("donated", "donations", "depot", {"count_volume": "24h 7d", "mean_haemoglobin": "7d"}),
        Windowed("road", "trips", "depot", {"mean_delay": "1h 6h", "max_delay": "6h"}),
        Latest("shelf_now", "shelf", "group", ttl_h=6),
    )
    request = fields(units="Float64", urgency="Int64", crossmatch="Int64")
    window, step, per_day, label_days = 2000, 300, 336.0, 1.0
    expected = MappingProxyType({"issues": {"units": (0.0, 200.0)}, "trips": {"delay": (0.0, 1440.0)}, "shelf": {"bags": (0, 10_000)}})
    seed = 211

    def draw(self, day: Day) -> Drawn:
        rows = {"issues": self._issues(day), "donations": self._donations(day), "trips": self._trips(day), "shelf": self._shelf(day)}
        return Drawn(rows, self._asked(day))

    def _busy(self, day: Day, week: float, saturday: float, sunday: float) -> int:
        """How many rows the day has: a public holiday is like a Sunday, and the holiday week is between the two."""
        usual = sunday if day.weekday == 6 or day.day in FREE_DAYS else saturday if day.weekday == 5 else week
        return int(usual + day.knobs.level("holiday", day.start_us + DAY_US // 2) * 0.7 * (min(usual, sunday) - usual))

    def _hospitals(self, day: Day, part: str, at_us: np.ndarray) -> np.ndarray:
        random, old = day.random(f"{part} hospital"), self.names("h", HOSPITALS)
        weight = np.exp(0.6 * self.trait("size", old))
        found = random.choice(old, len(at_us), p=weight / weight.sum())
        new = random.choice(self.names("n", NEW_HOSPITALS), len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("newcomers", at_us), new, found))

    def _units(self, day: Day, part: str, at_us: np.ndarray, hospitals: np.ndarray) -> np.ndarray:
        mean = np.exp(0.5 + 0.3 * self.trait("large", hospitals) + day.knobs("large", at_us, hospitals))
        return np.asarray(1.0 + day.random(f"{part} units").negative_binomial(2, 2 / (2 + mean)))

    def _road(self, day: Day, at_us: np.ndarray, depots: np.ndarray) -> np.ndarray:
        """How slow the roads are, about standard normal."""
        rush = RUSH[day.local_hour(at_us)] * (1 if day.weekday < 5 and day.day not in FREE_DAYS else 0.3)
        slow = 0.7 * self.latent("traffic", at_us, 14) + 0.4 * self.trait("far", depots) + 0.7 * rush
        return np.asarray(slow + day.knobs("roads", at_us, depots) - 0.6 * day.knobs("holiday", at_us))

    def _short(self, day: Day, at_us: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """How short the stock is, about standard normal."""
        found = 0.45 * self.latent("stock", at_us, 60) + day.knobs("scarce", at_us, groups) + 0.5 * day.knobs("holiday", at_us)
        for name in np.unique(groups.astype(str)):
            mine = groups == name
            found[mine] += 0.6 * self.latent(f"stock of {name}", at_us[mine], 72)
        return found

    def _issues(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("issues", self._busy(day, 980, 620, 540), WARDS)
        random, hospitals = day.random("issues"), self._hospitals(day, "issues", at)
        groups = random.choice(GROUPS, len(at), p=SHARES)
        slow = 0.35 * self._short(day, at, groups) + 0.3 * self.trait("ward", hospitals)
        return {
            "event_us": at,
            "known_us": at + (random.gamma(2.0, 45.0, len(at)) * 1e6).astype(np.int64),
            "hospital": hospitals,
            "group": groups,
            "units": self._units(day, "issues", at, hospitals),
            "minutes": np.round(np.exp(3.1 + slow + 0.5 * random.normal(size=len(at))), 1),
            "returned": yes(random, -2.0 + 0.6 * self.trait("careful", hospitals)).astype(np.int64),
        }

    def _donations(self, day: Day) -> dict[str, np.ndarray]:
        noon = np.array([day.start_us + DAY_US // 2])
        more = float(np.exp(0.2 * self.latent("giving", noon, 72)[0])) * (1 + 0.8 * day.knobs.level("campaign", int(noon[0])))
        at = day.moments("donations", int(more * self._busy(day, 460, 300, 70)), DONORS)
        random = day.random("donations")
        depots = random.choice(self.names("d", DEPOTS), len(at), p=[0.4, 0.3, 0.2, 0.1])
        young = random.random(len(at)) < 0.45 * day.knobs("campaign", at)
        iron = 146 + 12 * random.normal(size=len(at)) + 3 * self.trait("iron", depots) - 9 * young
        iron[random.random(len(at)) < 0.02] = np.nan
        volume = np.where(random.random(len(at)) < 0.9 - 0.4 * young, 450.0, 350.0) + np.round(5 * random.normal(size=len(at)))
        known = at + (random.gamma(2.0, 20.0, len(at)) * 60e6).astype(np.int64)
        return {"event_us": at, "known_us": known, "depot": depots, "volume": volume, "haemoglobin": np.round(iron, 1)}

    def _trips(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("trips", self._busy(day, 620, 460, 400), ROADS)
        random = day.random("trips")
        depots = random.choice(self.names("d", DEPOTS), len(at))
        delay = np.round(np.exp(2.2 + 0.8 * self._road(day, at, depots) + 0.6 * random.normal(size=len(at))), 1)
        known = at + (random.gamma(2.0, 30.0, len(at)) * 1e6).astype(np.int64)
        return {"event_us": at, "known_us": known, "depot": depots, "delay": delay}

    def _shelf(self, day: Day) -> dict[str, np.ndarray]:
        """Every half hour, what lies there of each group."""
        at = np.repeat(day.start_us + np.arange(48) * HOUR_US // 2, len(GROUPS)) + np.tile(np.arange(len(GROUPS)) * 700_001, 48)
        groups, random = np.tile(GROUPS, 48), day.random("shelf")
        short = self._short(day, at, groups)
        bags = np.round(np.exp(7.0 + np.log(np.tile(SHARES, 48)) - 0.7 * short + 0.08 * random.normal(size=len(at)))).astype(np.int64)
        oldest = np.round(np.exp(2.6 - 0.35 * short + 0.2 * random.normal(size=len(at))), 1)
        return {"event_us": at, "known_us": at + 4_000_000, "group": groups, "bags": bags, "oldest": oldest}

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("asked", self._busy(day, 380, 245, 205), WARDS)
        random, hospitals = day.random("asked"), self._hospitals(day, "asked", at)
        groups = random.choice(GROUPS, len(at), p=SHARES)
        depots = self.names("d", DEPOTS)[[int(name[1:]) % DEPOTS for name in hospitals]]
        units = self._units(day, "asked", at, hospitals)
        night = (day.local_hour(at) < 7) | (day.local_hour(at) > 20)
        urgency = 1 + (random.random(len(at))[:, None] > np.where(night[:, None], [0.15, 0.5, 0.8], [0.4, 0.75, 0.93])).sum(axis=1)
        cross = random.random(len(at)) < 0.55
        planned = random.random(len(at)) < day.knobs("planned", at)
        urgency, cross = np.where(planned, 1, urgency), cross | planned
        away = random.random(len(at)) < 0.6 * day.knobs("holiday", at)
        urgency = np.where(away & (urgency == 1), 3, urgency)
        first = day.knobs("priority", at, hospitals)
        odds = -4.0 + 0.75 * self._road(day, at, depots) + 0.7 * self._short(day, at, groups) + 0.35 * cross
        odds += (0.5 + 0.8 * first) * (np.log(units) - 0.8) + (0.45 - 1.2 * first) * (urgency - 2)
        odds += 0.3 * self.trait("remote", hospitals) + 1.2 * day.knobs("strict", at, hospitals)
        found = {"at_us": at, "hospital": hospitals, "group": groups, "depot": depots, "units": units}
        found |= {"urgency": urgency.astype(np.int64), "crossmatch": cross.astype(np.int64), "label": yes(random, odds)}
        return found | {"known_us": at + (HOUR_US * random.uniform(3.0, 20.0, len(at))).astype(np.int64)}


def of_keys(key: str, names: tuple[str, ...], fault: Rows) -> Rows:
    """A fault that hits the rows of these keys only; it must not change their number."""

    def act(table: pa.Table) -> pa.Table:
        mine = np.isin(table[key].to_numpy(zero_copy_only=False).astype(str), names)
        parts = [fault(table.filter(pa.array(mine))), table.filter(pa.array(~mine))]
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.r_[np.flatnonzero(mine), np.flatnonzero(~mine)])))

    return act


def rehearsed(units: float, share: float, begins_us: int) -> Rows:
    """Somebody tests the booking system on the live one: a share more rows, all of one hospital, handed over at once."""

    def act(table: pa.Table) -> pa.Table:
        some = (moments(table) >= begins_us) & (np.random.default_rng(13).random(table.num_rows) < share)
        again = table.filter(pa.array(some))
        for name, value in (("hospital", "h0003"), ("units", units), ("minutes", 0.1)):
            column = pa.array([value] * again.num_rows, again[name].type)
            again = again.set_column(again.column_names.index(name), name, column)
        return pa.concat_tables([table, again]).sort_by(KNOWN_TIME)

    return act


def batched(hours: int, begins_us: int) -> Rows:
    """The stream is fed by a job that runs every so many hours."""

    def act(table: pa.Table) -> pa.Table:
        at = table[DELIVERED].to_numpy()
        at = np.where(moments(table) >= begins_us, -(-at // (hours * HOUR_US)) * hours * HOUR_US, at)
        return table.set_column(table.column_names.index(DELIVERED), DELIVERED, pa.array(at, pa.int64()))

    return act


def exchanged_features(one: str, other: str, begins_us: int) -> Callable[[Served], None]:
    """Two features of a view are read in each other's place: their order in the store's row was changed by a release."""

    def act(served: Served) -> None:
        rows = (served.at_us >= begins_us) & (served.known_us != NOBODY)
        pair = [served.names.index(one), served.names.index(other)]
        for values in (served.values, served.letters):
            values[np.ix_(rows, pair)] = values[np.ix_(rows, pair[::-1])]

    return act


def millilitres(bags: Floats) -> Floats:
    """A new client of some wards sends what the bags hold."""
    return bags * 300


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world)
    s.source(
        "unit change at some keys",
        "donations",
        lambda at: of_keys("depot", ("d0000", "d0002"), changed("haemoglobin", lambda x: x / 10, at)),
    )
    s.source("zeros where nothing was read", "shelf", lambda at: constant("bags", 0, at, 0.3))
    s.source("cut at a bound", "trips", lambda at: changed("delay", lambda x: np.minimum(x, 15.0), at))
    s.source("silent source", "donations", lambda at: silent(at))
    s.source("test rows", "issues", lambda at: rehearsed(1.0, 0.3, at))
    s.stream("partition dead", "trips", lambda at: without("depot", 0.5, at), LATE)
    s.stream("fed in batches", "issues", lambda at: batched(12, at), LATE)
    s.stream("stream stopped", "shelf", lambda at: stopped(at), LATE)
    s.store("wrong key", "group_demand", lambda at: wrong_key(at))
    s.store("frozen view", "road", lambda at: frozen(at))
    s.store("features exchanged", "hospital_demand", lambda at: exchanged_features("count_units_6h", "count_units_24h", at))
    s.request("unit change in some requests", "units", lambda at: changed("units", millilitres, at, 0.25))
    s.request("codes moved by one", "urgency", lambda at: changed("urgency", lambda x: x - 1, at, 0.7))
    s.process("sudden, local to keys, inputs", POPULATION, ("large", 0.9), keys=0.5)
    s.process("gradual, inputs", POPULATION, ("planned", 0.5), ramp_days=10)
    s.process("sudden, local to keys, inputs", POPULATION, ("roads", 1.3), keys=0.6)
    s.process("gradual, inputs", POPULATION, ("scarce", 1.3), ramp_days=6)
    s.process("recurring, inputs", POPULATION, ("campaign", 1.0), every_days=3)
    s.process("new keys", POPULATION, ("newcomers", 0.35))
    s.process("sudden, concept", CONCEPT, ("strict", 1.0))
    s.process("gradual, concept", CONCEPT, ("priority", 1.0), ramp_days=5)
    s.process("local to keys, concept", CONCEPT, ("strict", 1.6), keys=0.5)
    s.process("whole world", POPULATION, ("large", 0.5), ("scarce", 1.0), ("roads", 0.6), ("strict", 0.7), also=frozenset({CONCEPT}))
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=112, days=7)
    s.nothing("nothing", 100)
    s.nothing("nothing", 108)
    s.nothing("nothing", 120)
    return s.cases
