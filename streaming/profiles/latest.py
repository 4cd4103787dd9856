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
from streaming.profiles.facts import DAY_US
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
        newest: by table, up to when its rows are known, microseconds.
    """

    newest: dict[str, int]
    looked: Looked

    @property
    def report(self) -> SourceReport:
        odd = [OddSource(v.source, v.kind, v.column, v.says, v.since_us, v.text, v.rows) for v in self.looked.violations]
        return SourceReport(max(self.newest.values(), default=0), sorted(self.looked.profiled), odd, dict(self.looked.unreadable))


def look_at_latest(case: UseCase, views: Sequence[View], own: Settings, days: float = DAYS, past_days: float | None = None) -> Latest:
    """Hold the newest days of the tables of some views, and what came live since, against all days before them.

    Args:
        past_days: so many of the days before are read, at most; None: all.

    Raises:
        UseCaseError: `expectations.py` cannot be read.
    """
    known = newest(views, own.offline_root)
    if not known:
        return Latest({}, Looked([], frozenset()))
    live = _live(own, views)
    for path in known.keys() & live.keys():
        known[path] = max(known[path], int(live[path].known_us.max()))
    upto_us = max(known.values()) + 1
    from_us = upto_us - round(days * DAY_US)
    usual = Usual(0 if past_days is None else from_us - round(past_days * DAY_US), from_us)
    found = violations(views, own.offline_root, from_us, upto_us, usual, case.expectations, live=live)
    return Latest(known, found)


def _live(own: Settings, views: Sequence[View]) -> dict[str, Live]:
    """What lies on the event stream; nothing where Redis is away."""
    try:
        with contextlib.closing(redis_client.connect(own.redis(), TIMEOUT_S)) as client:
            return read_live(client, views, own.clock_tolerance_s)
    except (redis.RedisError, OSError):
        return {}


def publish(own: Settings, project: str, latest: Latest) -> None:
    """Keep it where `status` and `/metrics` find it. A Redis that is away misses it."""
    said = msgspec.json.encode(latest.report)
    path = report_path(own.state, project)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, msgspec.json.format(said, indent=1))
    with contextlib.suppress(redis.RedisError, OSError), contextlib.closing(redis_client.connect(own.redis(), TIMEOUT_S)) as client:
        client.set(sources_key(project), said)
