"""Many keys, truths at once: an online game. Will this player leave the match before it ends? One in four does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import cached_property
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from serving.monitoring.hours import DAY_US, HOUR_US
from tests.bench.drift.worlds.cases import CALENDAR, CONCEPT, LATE, POPULATION, QUIET, Case, Suite
from tests.bench.drift.worlds.faults import changed, constant, doubled, emptied, late, lost, missing, renamed, shifted, wrong_key
from tests.bench.drift.worlds.pipe import Rows, Served
from tests.bench.drift.worlds.tables import moments
from tests.bench.drift.worlds.world import Day, Drawn, Floats, Ints, Latest, Source, Windowed, World, fields, yes

PLAYERS, NEW_PLAYERS, SERVERS = 2600, 1500, 12
EVENING = [5, 3, 2, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5, 7, 9, 11, 13, 15, 16, 15, 12, 8]
IDLE = [5, 3, 2, 1, 1, 1, 1, 2, 5, 9, 12, 13, 13, 13, 12, 12, 12, 12, 12, 12, 12, 12, 10, 7]
FAR = [14, 15, 14, 12, 9, 7, 5, 4, 4, 5, 6, 8, 9, 9, 8, 7, 6, 5, 4, 3, 3, 4, 6, 10]
MODES = np.array([0.34, 0.28, 0.18, 0.12, 0.08])


class Matches(World):
    """Knobs: `season` (share of requests that move to the newest mode), `abroad` (share of matches at the hours of another continent),
    `newcomers` (share by players never seen before), `lag` (lines grow worse, per server), `scoring` (points grow, log scale), `parties`
    (people come with more friends), `shop` (share of players that buy a starter pack), `calmer` (the same inputs, fewer leave; sources
    see it, too), `robust` (a bad line no longer drives people out), `rough` (a mode that was liked is disliked, and the other way round),
    `holiday` (free all day, and on the sofa together).
    """

    name, sort = "matches", "many keys, truths at once"
    zone, country = "America/New_York", "US"
    first = date(2025, 7, 28)
    sources = (
        Source("played", ("player",), fields(minutes="Float64", points="Float64", left="Int64")),
        Source("lines", ("server",), fields(ms="Float64", loss="Float64")),
        Source("profiles", ("player",), fields(level="Int64", spent="Float64", region="Int64")),
    )
    views = (
        Windowed("form", "played", "player", {"mean_points": "24h 7d", "mean_left": "7d", "count_minutes": "24h", "max_minutes": "7d"}),
        Windowed("line", "lines", "server", {"mean_ms": "1h", "max_loss": "1h"}),
        Latest("profile", "profiles", "player"),
    )
    request = fields(party="Int64", mode="Int64")
    window, step, per_day, label_days = 1200, 200, 430.0, 0.1
    expected = MappingProxyType(
        {"played": {"minutes": (0.0, 240.0), "left": (0, 1)}, "lines": {"ms": (0.0, 10_000.0), "loss": (0.0, 100.0)}}
    )
    seed = 307

    def draw(self, day: Day) -> Drawn:
        return Drawn({"played": self._played(day), "lines": self._lines(day), "profiles": self._profiles(day)}, self._asked(day))

    @cached_property
    def _names(self) -> np.ndarray:
        """All players, the new ones behind the old ones; elsewhere in this world a player is a number, its place here."""
        return np.concatenate([self.names("p", PLAYERS), self.names("q", NEW_PLAYERS)])

    @cached_property
    def _traits(self) -> dict[str, Floats]:
        return {
            name: self.trait(name, self._names) for name in ("keen", "temper", "skill", "level", "purse", "region", "sociable", "buyer")
        }

    @cached_property
    def _servers(self) -> np.ndarray:
        return self.names("s", SERVERS)

    def _free(self, day: Day) -> tuple[float, float]:
        """How much more than on a working day is played, and whether people are at home in daytime, 0..1."""
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        weekend = float(day.weekday >= 5)
        return 1 + 0.35 * max(weekend, 0.9 * holiday), max(weekend, holiday)

    def _moments(self, day: Day, part: str, count: int) -> Ints:
        more, home = self._free(day)
        weight = [home * i + (1 - home) * e for i, e in zip(np.array(IDLE) / sum(IDLE), np.array(EVENING) / sum(EVENING), strict=True)]
        at = day.moments(part, int(count * more), weight)
        far = day.moments(f"{part} abroad", len(at), FAR)
        away = day.random(f"{part} abroad").random(len(at)) < day.knobs("abroad", np.minimum(at, far))
        return np.sort(np.where(away, far, at))

    def _players(self, day: Day, part: str, at_us: Ints) -> Ints:
        random, weight = day.random(f"{part} players"), np.exp(0.9 * self._traits["keen"][:PLAYERS])
        found = random.choice(PLAYERS, len(at_us), p=weight / weight.sum())
        new = PLAYERS + random.integers(0, NEW_PLAYERS, len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("newcomers", at_us), new, found))

    def _bad(self, day: Day, at_us: Ints, servers: np.ndarray) -> Floats:
        """How bad a server's line is, about standard normal."""
        found = 0.5 * self.trait("old", servers) + 0.5 * self.latent("net", at_us, 20) + 1.6 * day.knobs("lag", at_us, servers)
        for name in np.unique(servers.astype(str)):
            mine = servers == name
            found[mine] += 0.7 * self.latent(f"line of {name}", at_us[mine], 9)
        return found

    def _leaves(self, day: Day, at_us: Ints, players: Ints) -> Floats:
        """Log odds that a player leaves, as far as they hang on the player."""
        temper, level = self._traits["temper"][players], self._traits["level"][players]
        return np.asarray(
            -1.25 + 0.9 * temper - 0.35 * level + 0.4 * (players >= PLAYERS) - 0.9 * day.knobs("calmer", at_us, self._names[players])
        )

    def _played(self, day: Day) -> dict[str, np.ndarray]:
        at = self._moments(day, "played", 4400)
        players, random = self._players(day, "played", at), day.random("played")
        left = yes(random, self._leaves(day, at, players))
        points = 4.3 + 0.35 * self._traits["skill"][players] + 0.4 * random.normal(size=len(at)) - 0.5 * left + day.knobs("scoring", at)
        minutes = np.round(np.where(left > 0, random.uniform(2, 14, len(at)), 14 + random.gamma(4.0, 3.5, len(at))), 1)
        return {
            "event_us": at,
            "known_us": at + (random.gamma(2.0, 6.0, len(at)) * 1e6).astype(np.int64),
            "player": self._names[players],
            "minutes": minutes,
            "points": np.round(np.exp(points)),
            "left": left.astype(np.int64),
        }

    def _lines(self, day: Day) -> dict[str, np.ndarray]:
        """Every ten minutes, of each server."""
        at = np.repeat(day.start_us + np.arange(144) * HOUR_US // 6, SERVERS) + np.tile(np.arange(SERVERS) * 500_009, 144)
        servers, random = np.tile(self._servers, 144), day.random("lines")
        bad = self._bad(day, at, servers)
        ms = np.round(np.exp(3.6 + 0.45 * bad + 0.15 * random.normal(size=len(at))), 1)
        loss = np.round(100 * np.exp(-4.4 + 0.7 * bad + 0.5 * random.normal(size=len(at))), 2)
        loss[random.random(len(at)) < 0.03] = np.nan
        return {"event_us": at, "known_us": at + 1_500_000, "server": servers, "ms": ms, "loss": np.minimum(loss, 100.0)}

    def _profiles(self, day: Day) -> dict[str, np.ndarray]:
        """A fifth of the players each day; new ones have theirs from the first day, at the lowest levels."""
        who = np.flatnonzero(np.arange(len(self._names)) % 5 == day.number % 5) if day.number else np.arange(len(self._names))
        at, traits = day.start_us + 2 * HOUR_US + np.arange(len(who)) * 1_000_003, self._traits
        level = np.clip(np.round(22 + 9 * traits["level"][who] + 0.05 * day.number), 1, 60)
        spent = np.where(traits["purse"][who] > 0.3, np.round(np.exp(2.2 + 0.9 * traits["purse"][who]), 2), 0.0)
        buys = 1 / (1 + np.exp(-1.7 * traits["buyer"][who])) < day.knobs("shop", at)  # who has bought it has it for good
        return {
            "event_us": at,
            "known_us": at + 3_000_000,
            "player": self._names[who],
            "level": np.where(who < PLAYERS, level, np.clip(level // 6, 1, 8)).astype(np.int64),
            "spent": np.where(who < PLAYERS, spent, 0.0) + 4.99 * buys,
            "region": np.clip(np.round(3 + 1.2 * traits["region"][who]), 1, 6).astype(np.int64),
        }

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        at = self._moments(day, "asked", 392)
        players, random = self._players(day, "asked", at), day.random("asked")
        servers = random.choice(self._servers, len(at), p=np.linspace(2, 1, SERVERS) / 18)
        friends = 0.7 * np.exp(0.5 * self._traits["sociable"][players] + 0.9 * day.knobs("parties", at) + 0.6 * day.knobs("holiday", at))
        party = 1 + np.minimum(random.poisson(friends), 4)
        mode = random.choice(len(MODES), len(at), p=MODES)
        mode = np.where(random.random(len(at)) < day.knobs("season", at), 4, mode)
        rough = day.knobs("rough", at, self._names[players])
        odds = self._leaves(day, at, players) - 0.35 * (party - 1) + np.array([0.0, -0.3, 0.5, 0.3, -0.2])[mode] * (1 - 2.2 * rough)
        odds += 0.7 * self._bad(day, at, servers) * (1 - day.knobs("robust", at)) - 0.5 * day.knobs("robust", at) + 0.7 * rough
        found = {"at_us": at, "player": self._names[players], "server": servers, "party": party.astype(np.int64)}
        found |= {"mode": mode.astype(np.int64), "label": yes(random, odds)}
        return found | {"known_us": at + (60e6 * random.uniform(15, 50, len(at))).astype(np.int64)}


def short_field(name: str, begins_us: int) -> Rows:
    """A field of the file has grown too narrow: the hundreds are cut off."""
    return changed(name, lambda x: x % 100, begins_us)


def one_client(table: pa.Table) -> np.ndarray:
    """Rows of players who have installed the new client, bool [n]: whose name ends so."""
    return np.array([name[-1] in "02468" for name in table["player"].to_pylist()], dtype=bool)


def of_client(fault: Rows) -> Rows:
    """A fault that only the new client makes; it must not change the number of rows."""

    def act(table: pa.Table) -> pa.Table:
        mine = one_client(table)
        parts = [fault(table.filter(pa.array(mine))), table.filter(pa.array(~mine))]
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.r_[np.flatnonzero(mine), np.flatnonzero(~mine)])))

    return act


def lagging(hours: float, begins_us: int) -> Callable[[Served], None]:
    """Readers were sent to a copy of the store that is so many hours behind."""

    def act(served: Served) -> None:
        assert served.again is not None
        rows = served.at_us >= begins_us
        old = served.again(served.at_us - int(hours * HOUR_US), served.key)
        for name in ("values", "known_us", "ties", "event_us", "letters"):
            getattr(served, name)[rows] = getattr(old, name)[rows]

    return act


def repeated(count: int, begins_us: int) -> Rows:
    """A crash loop of the new client: a fifth of its matches are reported `count` times more, as left after a minute."""

    def act(table: pa.Table) -> pa.Table:
        some = (moments(table) >= begins_us) & one_client(table) & (np.random.default_rng(17).random(table.num_rows) < 0.2)
        again = pa.concat_tables([table.filter(pa.array(some))] * count)
        for name, value in (("minutes", 1.0), ("left", 1)):
            column = pa.array([value] * again.num_rows, again[name].type)
            again = again.set_column(again.column_names.index(name), name, column)
        return pa.concat_tables([table, again]).sort_by("created_timestamp")

    return act


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world, 104.0)
    s.source("field cut off", "played", lambda at: short_field("points", at))
    s.source("constant of a new client", "played", lambda at: of_client(constant("left", 0, at)))
    s.source("rows again and again", "played", lambda at: repeated(3, at))
    s.source("reset to a default", "profiles", lambda at: constant("level", 1, at, 0.5))
    s.source("other unit", "lines", lambda at: changed("loss", lambda x: x / 100, at))
    s.stream("events late", "lines", lambda at: late(0.7, at), LATE)
    s.stream("events lost", "played", lambda at: lost(0.5, at))
    s.stream("field dropped", "played", lambda at: emptied("points", at, 0.6))
    s.stream("events twice", "played", lambda at: doubled(at, 0.7))
    s.store("wrong key", "line", lambda at: wrong_key(at))
    s.store("rows missing", "profile", lambda at: missing(0.35, at))
    s.store("reads an old copy", "form", lambda at: lagging(120, at))
    s.request("codes of a new client", "mode", lambda at: of_client(changed("mode", lambda x: x + 1, at)))
    s.request("nulls", "party", lambda at: emptied("party", at, 0.6))
    s.request("clock of the request", "asked_at", lambda at: shifted("asked_at", 5, at))
    s.request("keys written otherwise", "server", lambda at: renamed("server", "east/", at, 0.4), frozenset({"line"}))
    s.process("sudden, inputs", POPULATION, ("season", 0.5))
    s.process("sudden, inputs", POPULATION, ("abroad", 0.55))
    s.process("new keys", POPULATION, ("newcomers", 0.4))
    s.process("local to keys, inputs", POPULATION, ("lag", 1.0), keys=0.5)
    s.process("gradual, inputs", POPULATION, ("scoring", 0.5), ramp_days=7)
    s.process("recurring, inputs", POPULATION, ("parties", 1.0), every_days=2)
    s.process("gradual, inputs", POPULATION, ("shop", 0.5), ramp_days=3)
    s.process("sudden, concept seen in inputs", CONCEPT, ("calmer", 1.0), also=frozenset({POPULATION}))
    s.process("gradual, concept", CONCEPT, ("robust", 1.0), ramp_days=4)
    s.process("local to keys, concept", CONCEPT, ("rough", 1.0), keys=0.6)
    s.process("sudden, concept", CONCEPT, ("rough", 1.0))
    s.process("whole world", POPULATION, ("season", 0.4), ("newcomers", 0.25), ("scoring", 0.4), ("robust", 1.0), also=frozenset({CONCEPT}))
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=120, days=6)
    s.nothing("nothing", 99)
    s.nothing("nothing", 109)
    s.nothing("nothing", 124)
    return s.cases
