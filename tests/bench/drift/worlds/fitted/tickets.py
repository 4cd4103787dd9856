"""Sparse labels: a support desk. Will this ticket be escalated? Of one in four it is known, days later."""

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
    frozen,
    late,
    lost,
    misdated,
    missing,
    overwritten,
    renamed,
    scored_otherwise,
    shifted,
    silent,
    stopped,
    without,
    wrong_key,
)
from tests.bench.drift.worlds.world import NEVER_KNOWN, Day, Drawn, Latest, Source, Windowed, World, fields, yes

CUSTOMERS, NEW_CUSTOMERS, TEAMS = 500, 300, 9
BY_HOUR = [1, 1, 1, 1, 1, 1, 2, 5, 10, 13, 13, 12, 10, 12, 12, 11, 9, 7, 4, 3, 2, 2, 1, 1]
LABELLED = 0.25


class Tickets(World):
    """Knobs: `long` (words, log scale), `urgent` (log odds), `patience` (the same inputs, fewer escalations), `large` (share of requests from
    large customers), `newcomers` (share from customers never seen before), `slow` (minutes, log scale, per team), `reopened` (reopened share
    rises to its end), `default` (the default year of accounts moves on), `topics` (topic mix), `holiday`.
    """

    name, sort = "tickets", "sparse labels"
    zone, country = "Europe/London", "GB"
    first = date(2023, 8, 28)
    sources = (
        Source("tickets", ("customer", "team"), fields(words="Float64", urgent="Int64")),
        Source("replies", ("team",), fields(minutes="Float64", reopened="Int64")),
        Source("accounts", ("customer",), fields(seats="Float64", plan="Int64", since="Int64")),
    )
    views = (
        Windowed("customer_tickets", "tickets", "customer", {"mean_words": "7d", "count_words": "24h 7d", "mean_urgent": "7d"}),
        Windowed("team_load", "tickets", "team", {"count_words": "1h 6h 24h", "mean_urgent": "6h"}),
        Windowed("team_speed", "replies", "team", {"mean_minutes": "6h 24h", "max_minutes": "24h", "mean_reopened": "6h 7d"}),
        Latest("account", "accounts", "customer"),
    )
    request = fields(words="Float64", topic="Int64")
    window, step, per_day, label_days = 1500, 250, 240, 6.0
    expected = MappingProxyType({"tickets": {"words": (0.0, 1e5)}, "replies": {"minutes": (0.0, 1e5)}, "accounts": {"plan": (1, 4)}})
    seed = 41

    def draw(self, day: Day) -> Drawn:
        return Drawn({"tickets": self._tickets(day), "replies": self._replies(day), "accounts": self._accounts(day)}, self._asked(day))

    def _customers(self, day: Day, part: str, at_us: np.ndarray) -> np.ndarray:
        random, old = day.random(f"{part} customer"), self.names("a", CUSTOMERS)
        weight = np.exp(0.9 * self.trait("size", old))
        found = random.choice(old, len(at_us), p=weight / weight.sum())
        large = random.choice(old[self.trait("size", old) > 1.1], len(at_us))
        found = np.where(random.random(len(at_us)) < day.knobs("large", at_us), large, found)
        new = random.choice(self.names("z", NEW_CUSTOMERS), len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("newcomers", at_us), new, found))

    def _words(self, day: Day, part: str, at_us: np.ndarray, customers: np.ndarray) -> np.ndarray:
        noise = day.random(f"{part} words").normal(size=len(at_us))
        return np.round(np.exp(4.2 + 0.4 * self.trait("verbose", customers) + 0.6 * noise + day.knobs("long", at_us, customers)))

    def _busy(self, day: Day, at_us: np.ndarray, teams: np.ndarray) -> np.ndarray:
        return np.asarray(0.8 * self.latent("busy", at_us, 30) + 0.5 * self.trait("slow", teams) + 1.0 * day.knobs("slow", at_us, teams))

    def _tickets(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        at = day.moments("tickets", int((1700 if day.weekday < 5 else 600) * (1 - 0.6 * holiday)), BY_HOUR)
        customers, random = self._customers(day, "tickets", at), day.random("tickets")
        teams = random.choice(self.names("t", TEAMS), len(at))
        odds = -1.2 + 0.8 * self.trait("nervous", customers) + 0.6 * self.latent("trouble", at, 30) + day.knobs("urgent", at, customers)
        return {
            "event_us": at,
            "known_us": at + (random.gamma(2.0, 10.0, len(at)) * 1e6).astype(np.int64),
            "customer": customers,
            "team": teams,
            "words": self._words(day, "tickets", at, customers),
            "urgent": yes(random, odds).astype(np.int64),
        }

    def _replies(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("replies", 1300 if day.weekday < 5 else 500, BY_HOUR)
        random = day.random("replies")
        teams = random.choice(self.names("t", TEAMS), len(at))
        busy = self._busy(day, at, teams)
        minutes = np.exp(3.4 + 0.5 * busy + 0.9 * random.normal(size=len(at)))
        minutes[random.random(len(at)) < 0.04] = np.nan
        reopened = yes(random, -1.8 + 0.7 * busy + 5.0 * day.knobs("reopened", at, teams)).astype(np.int64)
        known = at + (random.gamma(2.0, 60.0, len(at)) * 1e6).astype(np.int64)
        return {"event_us": at, "known_us": known, "team": teams, "minutes": minutes, "reopened": reopened}

    def _accounts(self, day: Day) -> dict[str, np.ndarray]:
        everyone = np.concatenate([self.names("a", CUSTOMERS), self.names("z", NEW_CUSTOMERS)])
        some = everyone[np.arange(len(everyone)) % 10 == day.number % 10] if day.number else everyone
        at = day.start_us + HOUR_US + np.arange(len(some)) * 2_000_003
        moved = day.knobs("default", at)
        unknown = np.abs(self.trait("unknown", some)) < 0.13 + 0.15 * moved
        since = np.where(unknown, 2010 + (moved > 0), np.round(2016 + 2.5 * self.trait("since", some))).astype(np.int64)
        seats = np.round(np.exp(3 + 1.0 * self.trait("size", some)))
        plan = np.clip(2 + np.round(self.trait("plan", some)), 1, 4).astype(np.int64)
        return {"event_us": at, "known_us": at + 5_000_000, "customer": some, "seats": seats, "plan": plan, "since": since}

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        at = day.moments("asked", int((290 if day.weekday < 5 else 115) * (1 - 0.4 * holiday)), BY_HOUR)
        customers, random = self._customers(day, "asked", at), day.random("asked")
        teams = random.choice(self.names("t", TEAMS), len(at))
        words = self._words(day, "asked", at, customers)
        topic = random.choice(8, len(at), p=np.array([8, 7, 5, 4, 3, 2, 2, 1]) / 32)
        moved = random.random(len(at)) < day.knobs("topics", at) + 0.5 * day.knobs("holiday", at)
        topic = np.where(moved, random.choice([5, 6, 7], len(at)), topic)
        odds = -0.9 + 0.8 * self.trait("nervous", customers) + 0.9 * self._busy(day, at, teams) + 0.4 * (np.log(words) - 4.2)
        odds = odds + 0.5 * self.latent("trouble", at, 30) + 0.15 * (topic - 2) + 1.5 * day.knobs("reopened", at, teams)
        patience = day.knobs("patience", at, customers)
        label = yes(random, (1 - 1.2 * patience) * odds + 0.9 * patience)
        known = at + (DAY_US * random.uniform(2.0, 6.0, len(at))).astype(np.int64)
        known[(random.random(len(at)) > LABELLED)] = NEVER_KNOWN
        found = {"at_us": at, "customer": customers, "team": teams, "words": words, "topic": topic.astype(np.int64)}
        return found | {"label": label, "known_us": known}


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world)
    s.source("unit change", "replies", lambda at: changed("minutes", lambda x: x * 60, at))
    s.source("stuck sensor", "tickets", lambda at: constant("words", 1.0, at))
    s.source("silent source", "replies", lambda at: silent(at))
    s.source("sentinel in 1 of 10", "replies", lambda at: constant("minutes", -1.0, at, 0.1))
    s.source("nulls", "tickets", lambda at: emptied("words", at, 0.6))
    s.source("keys lost at the source", "tickets", lambda at: without("team", 0.35, at))
    s.source("wrong clock at the source", "replies", lambda at: misdated(-1, at))
    s.source("rows twice", "tickets", lambda at: doubled(at))
    s.source("constant column", "tickets", lambda at: constant("urgent", 0, at))
    s.stream("events lost", "replies", lambda at: lost(0.6, at))
    s.stream("events twice", "tickets", lambda at: doubled(at))
    s.stream("events late", "tickets", lambda at: late(10, at), LATE)
    s.stream("events out of order", "replies", lambda at: late(6, at, 0.5))
    s.stream("stream stopped", "tickets", lambda at: stopped(at), LATE)
    s.store("frozen view", "team_speed", lambda at: frozen(at))
    s.store("wrong key", "customer_tickets", lambda at: wrong_key(at))
    s.store("wrong key", "account", lambda at: wrong_key(at))
    s.store("rows missing", "account", lambda at: missing(0.3, at))
    s.store("column overwritten", "team_load", lambda at: overwritten("count_words_24h", lambda x: x * 2, at))
    s.scored("scored otherwise", lambda at: scored_otherwise(1, lambda x: x * 3, at))
    s.request("unit change in the request", "words", lambda at: changed("words", lambda x: x * 5.5, at))
    s.request("constant in the request", "topic", lambda at: constant("topic", 0, at))
    s.request("clock of the request", "asked_at", lambda at: shifted("asked_at", 5, at))
    s.request(
        "keys written otherwise", "customer", lambda at: renamed("customer", "A", at, 0.5), frozenset({"customer_tickets", "account"})
    )
    s.process("sudden, inputs", POPULATION, ("long", 0.5))
    s.process("gradual, inputs", POPULATION, ("topics", 0.6), ramp_days=8)
    s.process("recurring, inputs", POPULATION, ("large", 0.7), every_days=2)
    s.process("local to keys, inputs", POPULATION, ("slow", 2.2), keys=0.5)
    s.process("new keys", POPULATION, ("newcomers", 0.4))
    s.process("a default moves on and gains share", POPULATION, ("default", 1.0), also=frozenset({QUIET}))
    s.process("natural end gains share", POPULATION, ("reopened", 1.0), also=frozenset({CONCEPT}))
    s.process("sudden, concept", CONCEPT, ("patience", 1.0))
    s.process("gradual, concept", CONCEPT, ("patience", 1.2), ramp_days=4)
    s.process("whole world", POPULATION, ("long", 0.5), ("slow", 1.2), ("topics", 0.5), ("patience", 1.0), also=frozenset({CONCEPT}))
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=117, days=10)
    s.nothing("nothing", 99)
    s.nothing("nothing", 114)
    return s.cases
