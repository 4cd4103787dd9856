"""Requests and answers on Redis Streams: answers and progress are written by one script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import queue_key, queues_key
from serving.queue.scoring import Answered, Queue, QueueError, Request
from streaming.online.store import noted_id, stream_id

if TYPE_CHECKING:
    import redis

_MOST = 100_000
"""Requests that wait are counted up to so many."""
# KEYS: progress, answers, dead letters; ARGV: field, last request done as the reader knows it, the new last one, then request, value, why
_PUT = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '0-0') ~= ARGV[2] then return 0 end
for i = 4, #ARGV, 3 do
  if ARGV[i + 2] == '' then redis.call('XADD', KEYS[2], '*', 'request', ARGV[i], 'data', ARGV[i + 1])
  else redis.call('XADD', KEYS[3], '*', 'request', ARGV[i], 'data', ARGV[i + 1], 'why', ARGV[i + 2]) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


class RedisQueue(Queue):
    """
    Args:
        source, target: names of queues (`feature_repo.records.redis_keys.queue_key`); dead letters go to `<target>.dead`.
    """

    def __init__(self, client: redis.Redis, project: str, model: str, source: str, target: str) -> None:
        self._client, self._name = client, source
        self._source, self._field = queue_key(project, source), f"{model}:{source}"
        self._keys = queues_key(project), queue_key(project, target), queue_key(project, f"{target}.dead")
        self._done, self._taken = "0-0", "0-0"

    def take(self, most: int, wait_s: float) -> list[Request]:
        said: Any = self._client.hget(self._keys[0], self._field)
        self._done = (said or b"0-0").decode(errors="replace")
        if noted_id(self._done) is None:
            raise QueueError(f"field {self._field} of {self._keys[0]} is no stream id: set it to the last request answered")
        found: Any = self._client.xrange(self._source, f"({self._done}", count=most)
        if not found:
            time.sleep(wait_s)
            return []
        self._taken = found[-1][0].decode()
        return [Request(f"{self._name}-{name.decode()}", stream_id(name)[0], fields.get(b"data", b"")) for name, fields in found]

    def put(self, answered: Sequence[Answered]) -> bool:
        flat: list[Any] = []
        for one in answered:
            flat += [one.request.name, one.request.body if one.why else one.answer, one.why]
        return bool(self._client.eval(_PUT, 3, *self._keys, self._field, self._done, self._taken, *flat))

    def back(self) -> None:
        return None  # nothing was noted

    def lag(self) -> int:
        found: Any = self._client.xrange(self._source, f"({self._done}", count=_MOST)
        return len(found)

    def close(self) -> None:
        self._client.close()
