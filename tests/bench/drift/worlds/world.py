"""A generated use case: what its features are, and the process that makes its raw rows, its requests and its truths.

A world says its sources, views and request fields (`tests.bench.drift.worlds.definitions` writes them as plain Feast objects), and draws
one day at a time. A day's draw depends on the seed, the day and the knobs only. So a change that begins on some day leaves all days before
it as they are, to the bit, and only the days after it are drawn again.

A *knob* is a name for something that may change in the process: its value is 0 as long as nothing does, and `Change` says how it turns.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.hours import DAY_US, HOUR_US

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]
TRAINING_DAYS, LIVE_DAYS = 98, 42
"""14 weeks that the version learns from (they are the reference, too), and 6 weeks that are watched."""
NEVER_KNOWN = -1
"""In place of the moment at which a truth becomes known: it never does."""


@dataclass(frozen=True)
class Source:
    """A table of the offline store, and the stream of its rows.

    Attributes:
        keys: join keys that its rows carry, all texts.
        columns: column → Feast type by name (`Float64`, `Int64`).
    """

    name: str
    keys: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Windowed:
    """A view of windows. `features={"mean_amount": "1h 24h"}` declares mean_amount_1h and mean_amount_24h; units h and d."""

    name: str
    source: str
    key: str
    features: Mapping[str, str]


@dataclass(frozen=True)
class Latest:
    """A view of latest values, all columns of its source; `ttl_h` 0: they never grow stale."""

    name: str
    source: str
    key: str
    ttl_h: float = 0


View = Windowed | Latest


@dataclass(frozen=True)
class Change:
    """How a knob turns.

    Attributes:
        size: its value where it is turned wholly.
        ramp_days: it turns gradually over so many days; 0: at once.
        every_days: it is turned in every second stretch of so many days, beginning with the first; 0: for good.
        days: after so many days it is back at 0; 0: for good.
        keys: share of the keys that are concerned (by a hash of their names, so always the same ones).
    """

    knob: str
    begins_us: int
    size: float = 1.0
    ramp_days: float = 0.0
    every_days: float = 0.0
    days: float = 0.0
    keys: float = 1.0

    def value(self, at_us: Ints, keys: NDArray[Any] | None) -> Floats:
        """float64 [n] at moments int64 [n]; `keys`: texts [n]."""
        since = (at_us - self.begins_us) / DAY_US
        turned = (since >= 0).astype(np.float64)
        if self.ramp_days:
            turned *= np.clip(since / self.ramp_days, 0, 1)
        if self.every_days:
            turned *= (since // self.every_days) % 2 == 0
        if self.days:
            turned *= since < self.days
        if self.keys < 1:
            if keys is None:
                return np.zeros(len(at_us))
            turned *= chosen(keys, self.keys)
        return turned * self.size


def chosen(keys: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Which keys belong to a share of all keys, bool [n]: by a hash of their names, so always the same ones."""
    names, place = np.unique(keys.astype(str), return_inverse=True)
    low = np.array([zlib.crc32(f"{name}:shard".encode()) / 2**32 < share for name in names])
    return np.asarray(low[place])


@dataclass(frozen=True)
class Knobs:
    """All changes of one run of the process."""

    changes: tuple[Change, ...] = ()

    def __call__(self, name: str, at_us: Ints, keys: NDArray[Any] | None = None) -> Floats:
        """A knob's value, float64 [n], at moments int64 [n]; 0 where nothing has changed. `keys`: whose (a local change asks)."""
        found = np.zeros(len(at_us))
        for change in self.changes:
            if change.knob == name:
                found += change.value(at_us, keys)
        return found

    def level(self, name: str, at_us: int) -> float:
        """A knob's value at one moment, for what has no keys (how many rows a day has)."""
        return float(self(name, np.array([at_us]))[0])

    @property
    def begins_us(self) -> int:
        return min((c.begins_us for c in self.changes), default=2**62)


CALM = Knobs()


@dataclass(frozen=True)
class Drawn:
    """What one day brought.

    Attributes:
        rows: source → its rows: `event_us`, `known_us` (int64), its keys and columns.
        asked: requests: `at_us` (int64), keys, request fields, `label` (0/1) and `known_us`, when that became known (`NEVER_KNOWN`: never).
    """

    rows: dict[str, Columns]
    asked: Columns


@dataclass(frozen=True)
class Day:
    """One day of the use case's own time zone, with what a draw needs: its numbers and its random streams.

    Attributes:
        number: days since the world's first day.
        offset_us: local time minus UTC.
    """

    number: int
    day: date
    start_us: int
    offset_us: int
    seed: tuple[int, ...]
    knobs: Knobs = field(default=CALM)

    @property
    def weekday(self) -> int:
        """0 is Monday."""
        return self.day.weekday()

    def random(self, part: str) -> np.random.Generator:
        """A stream of its own for each part of the draw: how many rows one part takes says nothing about the others."""
        return np.random.default_rng([*self.seed, self.number, zlib.crc32(part.encode())])

    def moments(self, part: str, count: int, by_hour: Sequence[float] | Floats) -> Ints:
        """Moments of the day, int64 [count], ascending; `by_hour`: weights of the 24 hours of local time."""
        random, weight = self.random(f"{part} moments"), np.asarray(by_hour, dtype=np.float64)
        hour = random.choice(24, count, p=weight / weight.sum())
        return np.sort(self.start_us + hour * HOUR_US + random.integers(0, HOUR_US, count))

    def local_hour(self, at_us: Ints) -> Ints:
        """0..23."""
        return np.asarray((at_us + self.offset_us) // HOUR_US % 24)


class World(ABC):
    """One generated use case; subclasses declare it and draw its days.

    Attributes:
        sort: what kind of world it is, for tables.
        zone, country: its local time, and whose holidays it keeps (ISO 3166).
        first: first day of the training weeks.
        request: request field → Feast type by name (`fields`). Beside these, a request carries `asked_at`, the moment as the caller has it, of which
            the on-demand view `asked` makes `hour` and `weekday` in local time; it hands on every other field as it is.
        expected: source → column → the least and the greatest value that it declares it has, as `expectations.py` of a use case does.
        window, step: of the watch, in predictions; `per_day`: about how many requests a day brings.
        label_days: after so many days most truths are known that ever become known.
        seed: of the process.
    """

    name: ClassVar[str]
    sort: ClassVar[str]
    zone: ClassVar[str] = "UTC"
    country: ClassVar[str] = "DE"
    first: ClassVar[date]
    sources: ClassVar[tuple[Source, ...]]
    views: ClassVar[tuple[View, ...]]
    request: ClassVar[Mapping[str, str]]
    expected: ClassVar[Mapping[str, Mapping[str, tuple[float, float]]]] = MappingProxyType({})
    window: ClassVar[int] = 1500
    step: ClassVar[int] = 250
    per_day: ClassVar[float] = 240.0
    label_days: ClassVar[float] = 1.0
    seed: ClassVar[int] = 1

    def __init__(self, luck: int = 0) -> None:
        """`luck`: another one gives other live weeks after the same training weeks."""
        self.luck = luck

    @abstractmethod
    def draw(self, day: Day) -> Drawn:
        """What the day brings. Use `day.random(part)` for chance and `day.knobs(name, moments, keys)` for what may change."""

    def day(self, number: int, knobs: Knobs = CALM) -> Day:
        at = self.first + timedelta(days=number)
        midnight = datetime(at.year, at.month, at.day, tzinfo=ZoneInfo(self.zone))
        offset = midnight.replace(hour=12).utcoffset() or timedelta()
        start = int(datetime(at.year, at.month, at.day, tzinfo=UTC).timestamp() * 1e6) - int(offset.total_seconds() * 1e6)
        seed = (self.seed, self.luck) if number >= TRAINING_DAYS and self.luck else (self.seed,)
        return Day(number, at, start, int(offset.total_seconds() * 1e6), seed, knobs)

    @property
    def live_us(self) -> int:
        """When the training weeks end and the live weeks begin (midnight UTC), microseconds."""
        return self.at(TRAINING_DAYS)

    def at(self, days: float) -> int:
        """The moment so many days after the first day's midnight in UTC, microseconds."""
        return int(datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC).timestamp() * 1e6) + int(days * DAY_US)

    def raw(self, first: int, last: int, knobs: Knobs = CALM) -> Drawn:
        """Days [first, last), one after the other, every table by known time or moment."""
        days = [self.draw(self.day(number, knobs)) for number in range(first, last)]
        rows = {}
        for source in self.sources:
            rows[source.name] = _joined([d.rows[source.name] for d in days], "known_us")
        return Drawn(rows, _joined([d.asked for d in days], "at_us"))

    @cached_property
    def _latents(self) -> dict[str, Floats]:
        return {}

    def latent(self, name: str, at_us: Ints, remembers_h: float = 48.0) -> Floats:
        """A slowly moving quantity of the world: hourly AR(1) of variance 1, float64 [n] at moments int64 [n].

        Args:
            remembers_h: hours after which about a third of what it was is left.
        """
        if name not in self._latents:
            hours = (TRAINING_DAYS + LIVE_DAYS + 3) * 24
            kept = float(np.exp(-1 / remembers_h))
            noise = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).normal(size=hours)
            if self.luck:
                live = (TRAINING_DAYS + 1) * 24
                noise[live:] = np.random.default_rng([self.seed, self.luck, zlib.crc32(name.encode())]).normal(size=hours - live)
            noise *= np.sqrt(1 - kept**2)
            found = np.zeros(hours)
            for i in range(1, hours):
                found[i] = kept * found[i - 1] + noise[i]
            self._latents[name] = found
        hour = np.clip((at_us - self.at(0)) // HOUR_US + 24, 0, len(self._latents[name]) - 1)
        return self._latents[name][hour]

    def names(self, what: str, count: int) -> NDArray[np.object_]:
        """Keys by name: text [count]."""
        return np.array([f"{what}{i:04d}" for i in range(count)], dtype=object)

    def trait(self, name: str, keys: NDArray[Any]) -> Floats:
        """A lasting property of each key, standard normal by a hash of its name, float64 [n]: a key that is new has one, too."""
        unique, place = np.unique(keys.astype(str), return_inverse=True)
        drawn = [np.random.default_rng([self.seed, zlib.crc32(f"{name}:{key}".encode())]).normal() for key in unique]
        return np.asarray(drawn)[place] if len(unique) else np.zeros(0)


def fields(**types: str) -> Mapping[str, str]:
    """Names and Feast types, such as `fields(amount="Float64", channel="Int64")`."""
    return MappingProxyType(types)


def yes(random: np.random.Generator, log_odds: Floats) -> Floats:
    """0/1 with these log odds, float64 [n]."""
    return (random.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)


def _joined(days: Sequence[Columns], by: str) -> Columns:
    columns = {name: np.concatenate([d[name] for d in days]) for name in days[0]}
    order = np.argsort(columns[by], kind="stable")
    return {name: values[order] for name, values in columns.items()}
