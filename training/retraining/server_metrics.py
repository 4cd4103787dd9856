"""What all replicas say of a model's versions: requests, faults of the server, and latency, summed over everyone who wrote.

A tally that cannot be read, that stands still, or that is another's than before is no number: who asks is told that it is not known, and
why (`Unknown`). Nothing here takes silence for success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from feature_repo.records.redis_keys import tallies_key
from feature_repo.records.replica_tally import Count, Tally
from training.retraining.rollout import Traffic

FRESH_S = 60.0
"""Of all replicas the newest word must not be older: below it lie dozens of writes."""
Counted = dict[str, dict[int, Count]]
"""Each start of a replica -> version -> what it had counted of one model."""
HOUR_US = 3_600_000_000
MARKS = 24 * 30
"""Kept at most."""


class Mark(msgspec.Struct, frozen=True):
    """What one version had been counted for at a moment of the wall's clock, by the replicas' starts."""

    at_us: int
    counts: dict[str, Count]


class Unknown(Exception):
    """There is no answer; says why, in a few words."""


class Counters:
    """A model's counters in the shared hash.

    Args:
        client: Redis.
    """

    def __init__(self, client: Any, project: str, model: str) -> None:
        self._client, self._key, self._model = client, tallies_key(project), model

    def read(self, now_us: int) -> tuple[Counted, list[float]]:
        """Everyone's counts, and the latencies' bounds in milliseconds.

        Args:
            now_us: the clock, microseconds since the epoch.

        Raises:
            Unknown: nobody writes (any more), or something there is no tally.
            redis.RedisError: Redis does not answer.
        """
        from redis import ResponseError

        tallies: dict[str, Tally] = {}
        try:
            written = self._client.hgetall(self._key)
        except ResponseError as error:
            raise Unknown(f"{self._key} is no hash of tallies ({error}): remove it (DEL)") from None
        for field, raw in written.items():
            name = field.decode(errors="replace") if isinstance(field, bytes) else str(field)
            try:
                tallies[name] = msgspec.json.decode(raw, type=Tally)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Unknown(f"field {name[:40]} of {self._key} is no tally of a replica: remove it (HDEL)") from None
        if not tallies:
            raise Unknown("no replica has written its counters yet: is serving running?")
        silent_s = min(abs(now_us - t.at_us) for t in tallies.values()) / 1e6
        if silent_s > FRESH_S:
            raise Unknown(f"no replica has written its counters for {silent_s:,.0f} s: is serving running?")
        bounds = {tuple(t.bounds) for t in tallies.values()}
        if len(bounds) > 1:
            raise Unknown("the replicas count latencies in different buckets: they are of different releases of Headrace")
        return {name: t.models.get(self._model, {}) for name, t in tallies.items()}, list(bounds.pop())


def since(now: Counted, before: Counted) -> Counted:
    """What each start has added; one that was not there before has begun from nothing.

    Raises:
        Unknown: a start's numbers fell, or it has vanished with what it had counted meanwhile.
    """
    gone = sorted(set(before) - set(now))
    if gone:
        raise Unknown(f"the counters of {len(gone)} of {len(before)} replicas have vanished")
    none = Count()
    return {
        start: {v: _less(mine.get(v, none), was.get(v, none), start) for v in {*mine, *was}}
        for start, mine in now.items()
        for was in (before.get(start, {}),)
    }


def marked(marks: Sequence[Mark], at_us: int, now: Counted, version: int) -> list[Mark]:
    """The marks with one of this moment, where the last is an hour old; else the very same list."""
    if marks and at_us - marks[-1].at_us < HOUR_US:
        return marks if isinstance(marks, list) else list(marks)
    return [*marks, Mark(at_us, {start: mine[version] for start, mine in now.items() if version in mine})][-MARKS:]


def from_mark(marks: Sequence[Mark], now: Counted, version: int, from_us: int) -> Counted:
    """What a version added from a moment on, up to `now`: from the last mark before it, or the first there is.

    A mark of counters that have vanished since is passed over; without any the version is not known to have answered anything.
    """
    mine = {start: {version: counted[version]} for start, counted in now.items() if version in counted}
    first = max((n for n, mark in enumerate(marks) if mark.at_us <= from_us), default=0)
    for mark in marks[first:]:
        try:
            return since(mine, {start: {version: count} for start, count in mark.counts.items()})
        except Unknown:
            continue
    return {}


def _less(now: Count, before: Count, start: str) -> Count:
    pairs = [(getattr(now, name), getattr(before, name)) for name in ("answered", "instances", "failed", "scored", "unscored")]
    earlier = before.timed or [0] * len(now.timed)
    timed = [a - b for a, b in zip(now.timed, earlier, strict=False)]
    if any(a < b for a, b in pairs) or len(earlier) != len(now.timed) or any(n < 0 for n in timed):
        raise Unknown(f"the counters of replica start {start[:16]} went back")
    answered, instances, failed, scored, unscored = (a - b for a, b in pairs)
    return Count(answered, instances, failed, timed, scored, unscored)


def summed(counts: Iterable[Mapping[int, Count]], version: int, bounds: list[float], shadow: bool = False) -> Traffic:
    """One version's requests over all replicas; with `shadow`, the instances that it followed.

    Raises:
        Unknown: a replica's latencies do not fit the bounds.
    """
    found = [c for mine in counts if (c := mine.get(version)) is not None]
    if shadow:
        scored = sum(c.scored for c in found)
        return Traffic(scored, sum(c.unscored for c in found), {}, scored)
    if any(c.timed and len(c.timed) != len(bounds) + 1 for c in found):
        raise Unknown("a replica's latencies do not fit its buckets")
    timed = [sum(column) for column in zip(*(c.timed for c in found if c.timed), strict=True)]
    latency = dict(zip([*bounds, float("inf")], map(float, timed), strict=False))
    return Traffic(sum(c.answered for c in found), sum(c.failed for c in found), latency, sum(c.instances for c in found))
