"""What is odd about the newest days of the tables, and where it is told: a file for the commands, a key of Redis for `/metrics`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import redis

from feature_repo.records.redis_keys import sources_key
from feature_repo.records.source_report import OddSource, SourceReport, report_path
from infra import files, redis_client
from streaming import clock
from streaming.profiles.facts import DAY_US
from streaming.profiles.lasting import begins_us
from streaming.profiles.live_rows import Live, read_live
from streaming.profiles.lookup import Looked, Usual, newest, violations

if TYPE_CHECKING:
    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings
    from streaming.schema.feature_view import View

DAYS, TIMEOUT_S = 7.0, 5.0


@dataclass(frozen=True)
class Latest:
    """
    Attributes:
        newest: by table, up to when its rows are known, microseconds; in a rehearsal not beyond its clock.
        from_us: where the days begin that were held against what is before them.
        rehearsed: whether it was looked no further than to where a rehearsal has got (`streaming.clock`).
        live: whether the event stream could be asked; else only the tables were looked at.
    """

    newest: dict[str, int]
    looked: Looked
    from_us: int = 0
    rehearsed: bool = False
    live: bool = True

    @property
    def report(self) -> SourceReport:
        odd = [OddSource(v.source, v.kind, v.column, v.says, v.since_us, v.text, v.rows) for v in self.looked.violations]
        unreadable = dict(self.looked.unreadable)
        return SourceReport(self.upto_us, sorted(self.looked.profiled), odd, unreadable)

    @property
    def upto_us(self) -> int:
        return max(self.newest.values(), default=0)


def readers(case: UseCase) -> list[View]:
    """The views that read the tables: those that are applied, or before the first `apply` those that the folder defines."""
    from feature_repo.registry.plan import proposed
    from streaming.schema.compilation import usable

    if case.applied:
        return list(usable(case.store)[0].values())
    with proposed(case) as after:
        return list(usable(after.store)[0].values())


def look_at_latest(case: UseCase, views: Sequence[View], own: Settings, days: float = DAYS, past_days: float | None = None) -> Latest:
    """Hold the newest days of the tables of some views, and what came live since, against all days before them. The newest is the last row's,
    or where a rehearsal's clock stands, as for everything else that asks what time it is.

    Args:
        past_days: so many of the days before are read, at most; None: all.

    Raises:
        UseCaseError: `expectations.py` cannot be read.
    """
    known = newest(views, own.offline_root)
    if not known:
        return Latest({}, Looked([], frozenset()))
    told = _told_by_redis(own, views)
    live, clock_us = told if told is not None else ({}, None)
    for path in known.keys() & live.keys():
        known[path] = max(known[path], int(live[path].known_us.max()))
    rehearsed = clock_us is not None and clock_us < max(known.values())
    if clock_us is not None:
        known = {path: min(us, clock_us) for path, us in known.items()}
    upto_us = max(known.values()) + 1
    from_us = upto_us - round(days * DAY_US)
    usual = Usual(0 if past_days is None else from_us - round(past_days * DAY_US), from_us, begins=begins_us(days, upto_us))
    found = violations(views, own.offline_root, from_us, upto_us, usual, case.expectations, live=live)
    return Latest(known, found, from_us, rehearsed, told is not None)


def _told_by_redis(own: Settings, views: Sequence[View]) -> tuple[dict[str, Live], int | None] | None:
    """What lies on the event stream, and the moment that a rehearsal has got to; None where Redis is away."""
    try:
        with contextlib.closing(redis_client.connect(own.redis(), TIMEOUT_S)) as client:
            return read_live(client, views, own.clock_tolerance_s), clock.rehearsal_us(client, views[0].project)
    except (redis.RedisError, OSError):
        return None


def publish(own: Settings, project: str, latest: Latest) -> None:
    """Keep it where `status` and `/metrics` find it. A Redis that is away misses it."""
    said = msgspec.json.encode(latest.report)
    path = report_path(own.state, project)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, msgspec.json.format(said, indent=1))
    with contextlib.suppress(redis.RedisError, OSError), contextlib.closing(redis_client.connect(own.redis(), TIMEOUT_S)) as client:
        client.set(sources_key(project), said)
