"""What a backfill writes down while it runs: who holds a view, and which buckets of it are done - so that a killed one goes on.

Both lie in Redis, with what they speak about.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feature_repo.records.redis_keys import journal_key, keys_key
from streaming.online import entity_index
from streaming.online.store import fields_of, noted_id
from streaming.schema.types import FIRST_US, LAST_US

if TYPE_CHECKING:
    import redis

    from streaming.schema.feature_view import View

log = logging.getLogger(__name__)
_MOST_BUCKETS = 1_000_000
KEPT_S = 86_400
"""How long an unfinished backfill can be gone on with."""


Done = tuple[int, int, int, int]


@dataclass
class Journal:
    """An unfinished backfill of one view.

    Attributes:
        end_us, from_us: what it brings the view to, and since when (0: from the beginning).
        buckets: into how many the entities are split, by hash.
        position: the live stream's last id when it began, `ms-seq`.
        done: bucket → (rows, entities, newest event time, rows rejected).
        resumed: whether buckets of an earlier, killed run are among them.
    """

    view: View
    end_us: int
    from_us: int
    buckets: int
    position: str
    done: dict[int, Done] = field(default_factory=dict)
    resumed: bool = False

    @property
    def key(self) -> str:
        return journal_key(self.view.project, self.view.name)

    @property
    def index(self) -> str:
        """Of the entities written so far (`streaming.online.entity_index`)."""
        return keys_key(self.view.project, self.view.name) + ":backfill"

    def remaining(self) -> list[int]:
        return [b for b in range(self.buckets) if b not in self.done]

    def begin(self, client: redis.Redis) -> None:
        client.delete(self.key)
        entity_index.delete(client, self.index)
        head = {"fingerprint": self.view.fingerprint, "end_us": self.end_us, "from_us": self.from_us, "buckets": self.buckets}
        client.hset(self.key, mapping={**head, "position": self.position, "at": int(time.time())})
        client.expire(self.key, KEPT_S)

    def end(self, client: redis.Redis) -> None:
        client.delete(self.key)
        entity_index.delete(client, self.index)


def note(client: redis.Redis, key: str, index: str, bucket: int, done: Done) -> None:
    """A bucket is done: everything of it is in the store."""
    client.hset(key, f"done:{bucket}", " ".join(map(str, done)))
    entity_index.expire(client, index, KEPT_S)


def unfinished(client: redis.Redis, view: View) -> Journal | None:
    """The backfill of a view that was killed, if there is one of the same definition, and what it has written is known."""
    import redis

    try:
        said = fields_of(client.hgetall(journal_key(view.project, view.name)))  # type: ignore[arg-type]
        found = _told(view, said) if said else None
        # what is in no index looks like left over: without it, the end of the backfill would take it for stale
        if found is not None and any(done[1] for done in found.done.values()) and not entity_index.whole(client, found.index):
            raise ValueError(f"{found.index} is no index of the entities written so far")
        return found
    except (KeyError, ValueError, redis.ResponseError) as error:
        log.warning("feature view %r: what is noted of a killed backfill is broken, and it begins anew (%r)", view.name, error)
        return None


def _told(view: View, said: dict[str, str]) -> Journal | None:
    if not view.holds(int(said["fingerprint"])):
        return None
    done = {}
    end_us, from_us, buckets, position = int(said["end_us"]), int(said["from_us"]), int(said["buckets"]), said["position"]
    for name, value in said.items():
        if name.startswith("done:"):
            rows, entities, newest, *rejected = map(int, value.split())
            done[int(name[5:])] = (rows, entities, newest, sum(rejected))
    if not 0 < buckets <= _MOST_BUCKETS or not set(done) <= set(range(buckets)) or noted_id(position) is None:
        raise ValueError(f"{buckets} buckets, position {position[:40]!r}")
    if not 0 <= from_us <= LAST_US or not FIRST_US <= end_us <= LAST_US:
        raise ValueError(f"from {from_us} to {end_us}")
    return Journal(view, end_us, from_us, buckets, position, done, resumed=bool(done))
