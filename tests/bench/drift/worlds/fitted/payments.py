"""Heavy-tailed: card payments. Will this payment be charged back?"""

from __future__ import annotations

from datetime import date

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
from tests.bench.drift.worlds.world import Day, Drawn, Latest, Source, Windowed, World, fields, yes

CARDS, NEW_CARDS, MERCHANTS, NEW_MERCHANTS = 1500, 800, 150, 60
BY_HOUR = [1, 1, 1, 1, 1, 2, 3, 5, 7, 8, 9, 10, 12, 11, 10, 10, 11, 12, 13, 12, 9, 7, 4, 2]


class Payments(World):
    """Knobs: `prices` (amounts, log scale), `fraud` (the same inputs, more chargebacks), `abroad` (share of requests at foreign merchants),
    `newcomers` (share of cards never seen before), `declined` (declined share, log odds), `openings` (share at merchants never seen before),
    `default` (the default year of merchants moves on), `online` (channel mix), `holiday`.
    """

    name, sort = "payments", "heavy-tailed"
    zone, country = "America/New_York", "US"
    first = date(2024, 5, 6)
    sources = (
        Source("payments", ("card", "merchant"), fields(amount="Float64", declined="Int64", foreign="Int64")),
        Source("merchants", ("merchant",), fields(rating="Float64", category="Int64", since="Int64")),
    )
    views = (
        Windowed(
            "card_use", "payments", "card", {"mean_amount": "24h 7d", "max_amount": "7d", "count_amount": "24h 7d", "mean_declined": "7d"}
        ),
        Windowed("merchant_use", "payments", "merchant", {"mean_amount": "6h 24h", "mean_declined": "24h", "count_amount": "6h"}),
        Windowed("abroad", "payments", "card", {"mean_foreign": "7d"}),
        Latest("merchant_now", "merchants", "merchant", ttl_h=72),
    )
    request = fields(amount="Float64", channel="Int64")
    window, step, per_day, label_days = 1800, 300, 310, 2.5
    seed = 23

    def draw(self, day: Day) -> Drawn:
        return Drawn({"payments": self._payments(day), "merchants": self._merchants(day)}, self._asked(day))

    def _cards(self, day: Day, part: str, at_us: np.ndarray) -> np.ndarray:
        random, old = day.random(f"{part} card"), self.names("c", CARDS)
        weight = np.exp(1.1 * self.trait("spends", old))
        found = random.choice(old, len(at_us), p=weight / weight.sum())
        new = random.choice(self.names("k", NEW_CARDS), len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("newcomers", at_us), new, found))

    def _shops(self, day: Day, part: str, at_us: np.ndarray) -> np.ndarray:
        random, old = day.random(f"{part} shop"), self.names("m", MERCHANTS)
        weight = 1 / (1 + np.arange(MERCHANTS)) ** 0.8
        found = random.choice(old, len(at_us), p=weight / weight.sum())
        abroad = random.choice(old[self._foreign(old)], len(at_us))
        found = np.where(random.random(len(at_us)) < day.knobs("abroad", at_us), abroad, found)
        new = random.choice(self.names("o", NEW_MERCHANTS), len(at_us))
        return np.asarray(np.where(random.random(len(at_us)) < day.knobs("openings", at_us), new, found))

    def _foreign(self, shops: np.ndarray) -> np.ndarray:
        return np.asarray(self.trait("foreign", shops) > 1.0)

    def _amount(self, day: Day, part: str, at_us: np.ndarray, cards: np.ndarray, shops: np.ndarray) -> np.ndarray:
        noise = day.random(f"{part} amount").standard_t(3, len(at_us))
        weekend = 0.2 * (day.weekday >= 5)
        log = 3 + 0.5 * self.trait("rich", cards) + 0.8 * self.trait("dear", shops) + 0.6 * noise + 0.15 * self.latent("mood", at_us, 40)
        return np.round(np.exp(np.clip(log + weekend + day.knobs("prices", at_us, shops) + 0.5 * day.knobs("holiday", at_us), 0, 13)), 2)

    def _risk(self, shops: np.ndarray, cards: np.ndarray, at_us: np.ndarray) -> np.ndarray:
        return np.asarray(0.9 * self.trait("risk", shops) + 0.6 * self.trait("careless", cards) + 0.4 * self.latent("ring", at_us, 80))

    def _payments(self, day: Day) -> dict[str, np.ndarray]:
        at = day.moments("payments", 2000 if day.weekday < 5 else 2400, BY_HOUR)
        cards, shops = self._cards(day, "payments", at), self._shops(day, "payments", at)
        random = day.random("payments")
        odds = -2.4 + self._risk(shops, cards, at) + day.knobs("declined", at, shops)
        known = at + (random.gamma(1.5, 4.0, len(at)) * 1e6).astype(np.int64)
        return {
            "event_us": at,
            "known_us": known,
            "card": cards,
            "merchant": shops,
            "amount": self._amount(day, "payments", at, cards, shops),
            "declined": yes(random, odds).astype(np.int64),
            "foreign": self._foreign(shops).astype(np.int64),
        }

    def _merchants(self, day: Day) -> dict[str, np.ndarray]:
        """Every merchant once a day."""
        shops = np.concatenate([self.names("m", MERCHANTS), self.names("o", NEW_MERCHANTS)])
        at = day.start_us + 2 * HOUR_US + np.arange(len(shops)) * 3_000_017
        random, moved = day.random("merchants"), day.knobs("default", at)
        rating = np.round(3.6 - 0.5 * self.trait("risk", shops) + 0.2 * random.normal(size=len(shops)), 2)
        rating[random.random(len(shops)) < 0.05] = np.nan
        unknown = np.abs(self.trait("unknown", shops)) < 0.12 + 0.1 * moved
        since = np.where(unknown, 2000 + (moved > 0), np.round(2008 + 5 * self.trait("age", shops))).astype(np.int64)
        category = (np.abs(self.trait("dear", shops)) * 4).astype(np.int64)
        return {"event_us": at, "known_us": at + 1_000_000, "merchant": shops, "rating": rating, "category": category, "since": since}

    def _asked(self, day: Day) -> dict[str, np.ndarray]:
        holiday = day.knobs.level("holiday", day.start_us + DAY_US // 2)
        by_hour = np.array(BY_HOUR, dtype=np.float64) + holiday * 10 * (np.arange(24) % 20 < 12)
        at = day.moments("asked", int((290 if day.weekday < 5 else 360) * (1 + 0.5 * holiday)), by_hour)
        cards, shops, random = self._cards(day, "asked", at), self._shops(day, "asked", at), day.random("asked")
        amount = self._amount(day, "asked", at, cards, shops)
        online = random.random(len(at)) < 0.35 + 0.4 * day.knobs("online", at)
        channel = np.where(online, 2 + (random.random(len(at)) < 0.3), random.random(len(at)) < 0.4).astype(np.int64)
        usual = 3 + 0.5 * self.trait("rich", cards) + 0.8 * self.trait("dear", shops) + day.knobs("prices", at, shops)
        odds = -1.9 + self._risk(shops, cards, at) + 0.8 * (np.log(amount) - usual) + 0.7 * online + 0.6 * self._foreign(shops)
        fraud = day.knobs("fraud", at, shops)
        label = yes(random, (1 - 0.8 * fraud) * odds + 1.2 * fraud)
        return {
            "at_us": at,
            "card": cards,
            "merchant": shops,
            "amount": amount,
            "channel": channel,
            "label": label,
            "known_us": at + (DAY_US * random.uniform(0.5, 2.5, len(at))).astype(np.int64),
        }


def suite(world: World) -> list[Case]:
    """What happens to it."""
    s = Suite(world)
    s.source("unit change", "payments", lambda at: changed("amount", lambda x: x * 100, at))
    s.source("unit change in 1 of 2", "payments", lambda at: changed("amount", lambda x: x / 1.1, at, 0.5))
    s.source("stuck sensor", "merchants", lambda at: constant("rating", 3.0, at))
    s.source("silent source", "payments", lambda at: silent(at))
    s.source("sentinel in 1 of 10", "merchants", lambda at: constant("since", 0, at, 0.1))
    s.source("nulls", "merchants", lambda at: emptied("rating", at, 0.7))
    s.source("keys lost at the source", "payments", lambda at: without("merchant", 0.4, at))
    s.source("wrong clock at the source", "payments", lambda at: misdated(-5, at))
    s.source("cut off", "payments", lambda at: changed("amount", lambda x: np.minimum(x, 20.0), at), "cut off, payments")
    s.stream("events lost", "payments", lambda at: lost(0.5, at))
    s.stream("events twice", "payments", lambda at: doubled(at, 0.6))
    s.stream("events late", "payments", lambda at: late(18, at), LATE)
    s.stream("stream stopped", "merchants", lambda at: stopped(at), LATE)
    s.stream("keys lost in the stream", "payments", lambda at: without("card", 0.35, at))
    s.store("frozen view", "merchant_use", lambda at: frozen(at))
    s.store("wrong key", "card_use", lambda at: wrong_key(at))
    s.store("rows missing", "merchant_now", lambda at: missing(0.3, at))
    s.store("column overwritten", "card_use", lambda at: overwritten("mean_amount_24h", lambda x: np.nan_to_num(x), at))
    s.scored("scored otherwise", lambda at: scored_otherwise(0, lambda x: np.zeros_like(x), at))
    s.request("unit change in the request", "amount", lambda at: changed("amount", lambda x: x * 100, at))
    s.request("constant in the request", "channel", lambda at: constant("channel", 0, at))
    s.request("clock of the request", "asked_at", lambda at: shifted("asked_at", -4, at))
    s.request(
        "keys written otherwise", "merchant", lambda at: renamed("merchant", "M-", at, 0.6), frozenset({"merchant_use", "merchant_now"})
    )
    s.process("sudden, inputs", POPULATION, ("prices", 0.35))
    s.process("gradual, inputs", POPULATION, ("online", 1.0), ramp_days=8)
    s.process("recurring, inputs", POPULATION, ("abroad", 0.5), every_days=2)
    s.process("local to keys, inputs", POPULATION, ("prices", 1.2), keys=0.3)
    s.process("new keys", POPULATION, ("newcomers", 0.4), ("openings", 0.2))
    s.process("a default moves on and gains share", POPULATION, ("default", 1.0), also=frozenset({QUIET}))
    s.process("natural end gains share", POPULATION, ("declined", 2.6))
    s.process("sudden, concept", CONCEPT, ("fraud", 1.0))
    s.process("gradual, concept", CONCEPT, ("fraud", 1.2), ramp_days=5)
    s.process("whole world", POPULATION, ("prices", 0.5), ("online", 0.8), ("abroad", 0.3), ("fraud", 1.0), also=frozenset({CONCEPT}))
    s.process("holiday week", CALENDAR, ("holiday", 1.0), also=frozenset({QUIET}), at_days=116, days=4)
    s.nothing("nothing", 99)
    s.nothing("nothing", 122)
    return s.cases
