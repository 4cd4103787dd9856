"""How far the stream is: noted in Redis by its tasks, each for its own share; as a whole it is as far as the one that is furthest behind.

A task notes after it has applied, so a note is true whatever dies: all events up to it are in the store, for the entities of that share.
The task whose note moves the whole on writes what all have refused, moves the progress, and takes old events off the stream. Why the
tasks and not the driver: what a Redis that is killed remembers is a beginning of what was written to it. So a note that is in Redis is
never ahead of the state; one in a driver's memory would be, after Redis has lost its last second.

Each start of a query is a run with notes of its own. So a task of an older run, which wakes up late, moves nobody's note but its own run's;
and the progress of the whole never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import applied_key, events_key, run_key
from streaming.live import dead_letters
from streaming.live.share import WHOLE, Share
from streaming.online.store import noted_id, stream_id

if TYPE_CHECKING:
    import redis

Position = tuple[int, int]
NOTES_S = 86_400
"""A run's notes are kept for so long after the last one; what is lost with them is read again, and passed over."""
# KEYS: the progress, the run's notes where there are several tasks; ARGV: milliseconds and sequence of the last entry, wall clock,
# events (of several tasks: since the run began), then view, newest event time, ...
_ADVANCE = """
local ms, seq = string.match(redis.call('HGET', KEYS[1], 'id') or '0-0', '^(%d+)-(%d+)$')
ms, seq = tonumber(ms or '0'), tonumber(seq or '0')
local to_ms, to_seq, events = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'wall_us', ARGV[3])
if KEYS[2] then
  local counted = tonumber(redis.call('HGET', KEYS[2], 'counted') or '0') or 0
  redis.call('HSET', KEYS[2], 'counted', string.format('%.0f', math.max(events, counted)))
  events = math.max(events - counted, 0)
end
if to_ms < ms or (to_ms == ms and to_seq <= seq) then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[1] .. '-' .. ARGV[2])
events = string.format('%.0f', events)
if type(redis.pcall('HINCRBY', KEYS[1], 'events', events)) == 'table' then redis.call('HSET', KEYS[1], 'events', events) end
for i = 5, #ARGV, 2 do
  local before = redis.call('HGET', KEYS[1], ARGV[i])
  if not tonumber(before or '') or tonumber(before) < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
"""
# KEYS: the run's notes; ARGV: task, tasks, the last entry, its milliseconds and sequence, events, seconds to keep, then view, newest, ...
# Returns the entry that all tasks have got to and the events up to it, both '' where one has noted nothing yet; then view, newest, ...
_NOTE = """
local function read(task)
  local ms, seq, events = string.match(redis.call('HGET', KEYS[1], task) or '', '^(%d+)-(%d+) (%d+)$')
  return tonumber(ms or '-1'), tonumber(seq or '-1'), tonumber(events or '0'), ms and (ms .. '-' .. seq)
end
local ms, seq, events = read(ARGV[1])
local to_ms, to_seq = tonumber(ARGV[4]), tonumber(ARGV[5])
if to_ms > ms or (to_ms == ms and to_seq > seq) then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%s %.0f', ARGV[3], events + tonumber(ARGV[6])))
end
for i = 8, #ARGV, 2 do
  local before = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '')
  if not before or before < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
redis.call('EXPIRE', KEYS[1], ARGV[7])
local least_ms, least_seq, least_events, least
for task = 0, tonumber(ARGV[2]) - 1 do
  local ms, seq, events, text = read(tostring(task))
  if not text then return {'', ''} end
  if not least or ms < least_ms or (ms == least_ms and seq < least_seq) then
    least_ms, least_seq, least_events, least = ms, seq, events, text
  end
end
local found = {least, string.format('%.0f', least_events)}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 7) == 'newest:' then table.insert(found, all[i]); table.insert(found, all[i + 1]) end
end
return found
"""


def newest_field(view: str) -> str:
    """Field of the progress hash: the newest event time the stream has seen of a view, microseconds."""
    return f"newest:{view}"


def reached(client: redis.Redis, project: str, share: Share = WHOLE) -> Position:
    """How far a share is; (0, 0) where nothing is noted, or where it is broken: what was applied before is passed over."""
    done = noted_id(client.hget(applied_key(project), "id") or b"") or (0, 0)  # type: ignore[arg-type]
    if share.tasks == 1:
        return done
    note: Any = client.hget(run_key(project, share.run), str(share.task)) or b""
    return max(done, noted_id(note.partition(b" ")[0]) or (0, 0))


def commit(
    client: redis.Redis, project: str, upto: Position, events: int, newest: Mapping[str, int], keep_s: float, share: Share = WHOLE
) -> bool:
    """Note that the share's entities hold all events up to a position; the whole moves on where this was the last to get there.

    Args:
        upto: position of the last event that was read, whoever's it is.
        events: that were read, whoever's they are.
        newest: newest event time by view, of those applied.
        keep_s: events are taken off the stream when they are applied by all and older than this.

    Returns:
        Whether the whole moved on.
    """
    told = [part for view, us in newest.items() for part in (newest_field(view), us)]
    keys = [applied_key(project)]
    if share.tasks > 1:
        keys.append(run_key(project, share.run))
        text = f"{upto[0]}-{upto[1]}"
        said: Any = client.eval(_NOTE, 1, keys[1], share.task, share.tasks, text, *upto, events, NOTES_S, *told)
        if not said[0]:
            return False
        upto, events, told = stream_id(said[0]), int(said[1]), said[2:]
    dead_letters.settle(client, project, upto)
    # after the entities: what Redis remembers of a crash is a beginning of what was written, so progress never runs ahead
    if not client.eval(_ADVANCE, len(keys), *keys, *upto, time.time_ns() // 1000, events, *told):
        return False
    _trim(client, project, upto[0], keep_s)
    return True


def _trim(client: redis.Redis, project: str, ms: int, keep_s: float) -> None:
    # by the clock of Redis and by this machine's: one that jumps ahead takes nothing
    oldest = min(ms, time.time_ns() // 1_000_000) - round(keep_s * 1000)
    if oldest > 0:
        client.xtrim(events_key(project), minid=oldest, approximate=True)
        first: Any = client.xrange(events_key(project), count=1)
        dead_letters.forget(client, project, stream_id(first[0][0])[0] if first else oldest)
