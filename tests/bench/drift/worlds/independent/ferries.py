"""Few keys, truths after days: bookings of twelve ferry lines. Will this booking be cancelled before the ship leaves?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from serving.monitoring.hours import DAY_US, HOUR_US
from tests.bench.drift.worlds.cases import CALENDAR, CONCEPT, LATE, POPULATION, QUIET, Case, Suite
from tests.bench.drift.worlds.faults import changed, exchanged, overwritten
from tests.bench.drift.worlds.pipe import Rows, Served
from tests.bench.drift.worlds.tables import DELIVERED, KNOWN_TIME, US, moments, replaced
from tests.bench.drift.worlds.world import Day, Drawn, Floats, Ints, Latest, Source, Windowed, World, chosen, fields, yes

LINES, NEW_LINES, PORTS = 12, 3, 5
BY_HOUR = [2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 11, 10, 9, 9, 10, 10, 11, 11, 11, 10, 8, 6, 4]
SAILS = [0, 0, 0, 0, 0, 2, 6, 8, 6, 4, 3, 4, 5, 4, 4, 5, 6, 7, 5, 3, 2, 1, 0, 0]


class Ferries(World):
    """Knobs: `sale` (prices fall by this log share), `early` (bookings farther ahead), `groups` (share of coaches and school classes),
    `rough` (the sea, in its own spread, per port), `newcomers` (share of lines that were not there), `busy` (more requests of the same kind,
    log scale), `flexible` (log odds: cancelling costs nothing), `rebooked` (who fears the sea or paid much is rebooked and stays), `bridge`
    (log odds, per line: another way across has opened), `holiday`.
    """

    name, sort = "ferries", "few keys, truths after days"
    zone, country = "Europe/Athens", "GR"
    first = date(2022, 12, 19)
    sources = (
        Source("bookings", ("line",), fields(price="Float64", lead="Int64", party="Int64")),
        Source("sailings", ("line",), fields(delay="Float64", filled="Float64")),
        Source("sea", ("port",), fields(wave="Float64", wind="Float64")),
        Source("fares", ("line",), fields(fare="Float64", rival="Float64")),
    )
    views = (
        Windowed("line_bookings", "bookings", "line", {"mean_price": "24h", "count_price": "6h 24h", "mean_lead": "24h"}),
        Windowed("line_sailings", "sailings", "line", {"mean_delay": "6h 24h", "max_delay": "24h", "mean_filled": "24h"}),
        Windowed("sea_state", "sea", "port", {"mean_wave": "3h 12h", "max_wind": "12h"}),
        Latest("offer", "fares", "line"),
    )
    request = fields(price="Float64", lead="Int64", party="Int64", channel="Int64")
    window, step, per_day, label_days = 1500, 250, 260, 5.0
    expected = MappingProxyType(
        {
            "bookings": {"price": (0.0, 20_000.0), "lead": (0, 60)},
            "sailings": {"delay": (-60.0, 1440.0), "filled": (0.0, 1.0)},
            "sea": {"wave": (0.0, 20.0)},
            "fares": {"fare": (1.0, 500.0)},
        }
    )
    seed = 73

    def draw(self, day: Day) -> Drawn:
        rows = {"bookings": self._bookings(day), "sailings": self._sailings(day), "sea": self._sea(day), "fares": self._fares(day)}
        return Drawn(rows, self._asked(day))

    def _lines(self, day: Day, part: str, at: Ints) -> np.ndarray:
        random, old = day.random(f"{part} line"), self.names("l", LINES)
        weight = np.exp(0.5 * self.trait("size", old))
        new = random.choice(self.names("n", NEW_LINES), len(at))
        known = random.choice(old, len(at), p=weight / weight.sum())
        return np.asarray(np.where(random.random(len(at)) < day.knobs("newcomers", at), new, known))

    def _ports(self, lines: np.ndarray) -> np.ndarray:
        """Where each line begins: it never changes."""
        port = {line: f"p{i % PORTS:04d}" for i, line in enumerate([*self.names("l", LINES), *self.names("n", NEW_LINES)])}
        return np.array([port[line] for line in lines], dtype=object)

    def _rough(self, day: Day, at: Ints, ports: np.ndarray) -> Floats:
        """The sea off each port, of about variance 1."""
        found = 0.4 * self.latent("sea", at, 30)
        for port in self.names("p", PORTS):
            found = found + 0.8 * self.latent(f"sea {port}", at, 30) * (ports == port)
        return np.asarray(found + day.knobs("rough", at, ports))

    def _fare(self, lines: np.ndarray) -> Floats:
        """List price of a head, euros."""
        return np.asarray(np.round(np.exp(3.4 + 0.35 * self.trait("far", lines)), 2), dtype=np.float64)

    def _dear(self, at: Ints, lines: np.ndarray) -> Floats:
        """How much dearer than its rival a line is, log scale."""
        found = 0.1 * self.trait("dear", lines)
        for line in np.unique(lines):
            found = found + 0.22 * self.latent(f"rival {line}", at, 60) * (lines == line)
        return np.asarray(found)

    def _booked(self, day: Day, part: str, at: Ints, lines: np.ndarray) -> dict[str, np.ndarray]:
        """Price, lead, party of bookings [n]."""
        random, holiday = day.random(part), day.knobs("holiday", at)
        party = 1 + random.binomial(5, 0.28, len(at))
        grouped = random.random(len(at)) < day.knobs("groups", at, lines) + 0.05 * holiday
        party = np.where(grouped, random.integers(9, 46, len(at)), party)
        longer = 1 + day.knobs("early", at, lines) + 0.5 * day.knobs("sale", at, lines) + 0.8 * holiday
        lead = np.minimum(np.floor(random.gamma(1.3, 2.0, len(at)) * longer), 14).astype(np.int64)
        off = 0.18 * random.normal(size=len(at)) - day.knobs("sale", at, lines) - 0.02 * np.minimum(lead, 5)
        return {"price": np.round(self._fare(lines) * party * np.exp(off), 2), "lead": lead, "party": party.astype(np.int64)}

    def _bookings(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        at = day.moments("bookings", int((900 if day.weekday < 5 else 700) * (1 + 0.7 * holiday)), BY_HOUR)
        lines = self._lines(day, "bookings", at)
        known = at + (day.random("sold").gamma(2.0, 4.0, len(at)) * 1e6).astype(np.int64)
        return {"event_us": at, "known_us": known, "line": lines} | self._booked(day, "bookings", at, lines)

    def _sailings(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("sailings", 90, SAILS)
        lines, random = self._lines(day, "sailings", at), day.random("sailings")
        rough = self._rough(day, at, self._ports(lines))
        delay = np.round(np.exp(2.2 + 0.55 * rough + 0.35 * self.trait("old ship", lines) + 0.6 * random.normal(size=len(at))) - 4, 1)
        delay[random.random(len(at)) < 1 / (1 + np.exp(4 - 1.2 * rough))] = np.nan
        demand = 0.2 + 0.6 * self.trait("demand", lines) + 0.6 * self.latent("demand", at, 40) + 0.5 * random.normal(size=len(at))
        filled = np.round(1 / (1 + np.exp(-demand - day.knobs("holiday", at))), 3)
        known = at + (random.uniform(0.2, 1.5, len(at)) * HOUR_US).astype(np.int64)
        return {"event_us": at, "known_us": known, "line": lines, "delay": delay, "filled": filled}

    def _sea(self, day: Day) -> dict[str, np.ndarray]:
        every, ports = 30 * 60_000_000, self.names("p", PORTS)
        at = np.repeat(day.start_us + np.arange(48) * every, PORTS) + np.tile(np.arange(PORTS) * 7_000_000, 48)
        where, random = np.tile(ports, 48), day.random("sea")
        rough = self._rough(day, at, where)
        wave = np.round(0.8 * np.exp(0.5 * rough + 0.25 * self.trait("open", where) + 0.15 * random.normal(size=len(at))), 2)
        wave[random.random(len(at)) < 0.02] = np.nan
        wind = np.round(np.exp(1.8 + 0.35 * rough + 0.25 * random.normal(size=len(at))), 1)
        return {"event_us": at, "known_us": at + 90_000_000, "port": where, "wave": wave, "wind": wind}

    def _fares(self, day: Day) -> dict[str, np.ndarray]:
        lines = np.concatenate([self.names("l", LINES), self.names("n", NEW_LINES)])
        every = np.repeat(np.arange(4) * 6 * HOUR_US, len(lines))
        at = day.start_us + every + np.tile(np.arange(len(lines)) * 3_000_001, 4)
        line = np.tile(lines, 4)
        fare = self._fare(line)
        rival = np.round(fare * np.exp(-self._dear(at, line)), 2)
        return {"event_us": at, "known_us": at + 20_000_000, "line": line, "fare": fare, "rival": rival}

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        noon = day.start_us + DAY_US // 2
        more = np.exp(day.knobs.level("busy", noon)) * (1 + 0.4 * day.knobs.level("holiday", noon))
        at = day.moments("asked", int((280 if day.weekday < 5 else 210) * more), BY_HOUR)
        lines, random = self._lines(day, "asked", at), day.random("asked")
        ports, booked = self._ports(lines), self._booked(day, "asked", at, lines)
        channel = random.choice(4, len(at), p=[0.45, 0.3, 0.15, 0.1])
        label = yes(day.random("label"), self._odds(day, at, (lines, ports), booked | {"channel": channel}))
        known = at + ((booked["lead"] + random.uniform(0.3, 1.0, len(at))) * DAY_US).astype(np.int64)
        asked = {"at_us": at, "line": lines, "port": ports, "channel": channel.astype(np.int64), "label": label, "known_us": known}
        return asked | booked

    def _odds(self, day: Day, at: Ints, where: tuple[np.ndarray, np.ndarray], asked: dict[str, np.ndarray]) -> Floats:
        """Log odds of cancelling."""
        lines, ports = where
        head = np.log(asked["price"] / (asked["party"] * self._fare(lines)))
        feared = 1.0 * self._rough(day, at, ports) * np.exp(-asked["lead"] / 6) + 3.0 * self._dear(at, lines) + 1.0 * head
        odds = -1.3 + 0.5 * self.trait("fickle", lines) + 0.12 * np.minimum(asked["lead"], 8) - 0.25 * (asked["party"] > 2)
        odds = odds + np.array([0.0, 0.3, -0.4, 0.9])[asked["channel"]] + (1 - 1.7 * day.knobs("rebooked", at, lines)) * feared
        return np.asarray(odds + day.knobs("flexible", at, lines) + day.knobs("bridge", at, lines))


def of_some(name: str, change: Callable[[Floats], Floats], key: str, share: float, begins_us: int) -> Rows:
    """A column's values are others in all rows of some keys: one maker's sensors, one operator's export."""
    everywhere = changed(name, change, begins_us)

    def act(table: pa.Table) -> pa.Table:
        some = chosen(table[key].to_numpy(zero_copy_only=False), share)
        return replaced(table, name, everywhere(table)[name], some)

    return act


def _up(at_us: Ints, hours: float, begins_us: int) -> Ints:
    """The next full stretch of so many hours, from the beginning on."""
    every = int(hours * HOUR_US)
    return np.where(at_us >= begins_us, -(-at_us // every) * every, at_us)


def nightly(hours: float, begins_us: int) -> Rows:
    """An export that ran at once runs once in so many hours: its rows become known together."""

    def act(table: pa.Table) -> pa.Table:
        known = _up(table[KNOWN_TIME].cast(pa.int64()).to_numpy(), hours, begins_us)
        return table.set_column(table.column_names.index(KNOWN_TIME), KNOWN_TIME, pa.array(known, US))

    return act


def batched(hours: float, begins_us: int) -> Rows:
    """The job that fills the online store runs once in so many hours."""

    def act(table: pa.Table) -> pa.Table:
        at = _up(table[DELIVERED].to_numpy(), hours, begins_us)
        return table.set_column(table.column_names.index(DELIVERED), DELIVERED, pa.array(at, pa.int64()))

    return act


def stuck_partition(key: str, share: float, begins_us: int) -> Rows:
    """Nothing of some keys reaches the online store any more: their partition has no consumer."""

    def act(table: pa.Table) -> pa.Table:
        gone = (moments(table) >= begins_us) & chosen(table[key].to_numpy(zero_copy_only=False), share)
        return table.filter(pa.array(~gone))

    return act


def behind(hours: float, begins_us: int) -> Callable[[Served], None]:
    """A replica that has fallen behind: what was true so many hours ago is given."""

    def act(served: Served) -> None:
        assert served.again is not None
        rows = served.at_us >= begins_us
        old = served.again(served.at_us - int(hours * HOUR_US), served.key)
        for name in ("values", "known_us", "ties", "event_us", "letters"):
            getattr(served, name)[rows] = getattr(old, name)[rows]

    return act


def per_head(begins_us: int) -> Rows:
    """A new version of the shop sends the price of one head instead of the whole."""

    def act(table: pa.Table) -> pa.Table:
        one = table["price"].to_numpy() / table["party"].to_numpy()
        return replaced(table, "price", pa.array(one), moments(table) >= begins_us)

    return act


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world)
    feet: Any = partial(of_some, "wave", lambda x: x * 3.28, "port", 0.6)
    s.source("feet for metres at some keys", "sea", feet)
    s.source("columns in each other's place", "sea", lambda at: exchanged("wave", "wind", at))
    s.source("capped by an export", "sailings", lambda at: changed("delay", lambda x: np.minimum(x, 10.0), at))
    s.source("export once a day", "bookings", partial(nightly, 24))
    s.source("cents for euros at some keys", "fares", partial(of_some, "fare", lambda x: x * 100, "line", 0.5))
    s.stream("stuck partition", "sailings", partial(stuck_partition, "line", 0.5), LATE)
    s.stream("in batches of hours", "sea", partial(batched, 8), LATE)
    s.store("nulls as zeros", "line_sailings", lambda at: overwritten("mean_delay_6h", np.nan_to_num, at))
    s.store("replica behind", "sea_state", partial(behind, 30))
    s.request("price of one head", "price", per_head)
    s.request("days as hours", "lead", lambda at: changed("lead", lambda x: x * 24, at))
    s.process("sudden, inputs", POPULATION, ("sale", 0.4))
    s.process("gradual, inputs", POPULATION, ("early", 1.5), ramp_days=8)
    s.process("recurring, inputs", POPULATION, ("groups", 0.35), every_days=3)
    s.process("local to keys, inputs", POPULATION, ("rough", 1.8), keys=0.6)
    s.process("new keys", POPULATION, ("newcomers", 0.35))
    s.process("whole world", POPULATION, ("sale", 0.4), ("rough", 1.2), ("groups", 0.2), ("flexible", 1.0), also=frozenset({CONCEPT}))
    s.process("sudden, concept", CONCEPT, ("flexible", 1.3))
    s.process("gradual, concept", CONCEPT, ("rebooked", 0.75), ramp_days=5)
    s.process("local to keys, concept", CONCEPT, ("bridge", 2.2), keys=0.5)
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=113, days=8)
    s.process("more requests of the same kind", QUIET, ("busy", 0.4))
    s.nothing("nothing", 99)
    s.nothing("nothing", 120)
    lucky = [replace(s.quiet_weeks(luck), name=f"nothing, luck {luck}", kind="nothing", days=18) for luck in (11, 12)]
    return [*s.cases, *lucky]
