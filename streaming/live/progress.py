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

from feature_repo.records.redis_keys import applied_key, events_key, refused_key, run_key
from streaming.live import dead_letters
from streaming.live.share import WHOLE, Share
from streaming.online.store import noted_id, stream_id

if TYPE_CHECKING:
    import redis

Position = tuple[int, int]
NOTES_S = 86_400
"""A run's notes are kept for so long after the last one; what is lost with them is read again, and passed over."""
_MOVE = """
local function move(ms, seq, wall_us, events, told)
  local at_ms, at_seq = string.match(redis.call('HGET', KEYS[1], 'id') or '0-0', '^(%d+)-(%d+)$')
  at_ms, at_seq = tonumber(at_ms or '0'), tonumber(at_seq or '0')
  redis.call('HSET', KEYS[1], 'wall_us', wall_us)
  if tonumber(ms) < at_ms or (tonumber(ms) == at_ms and tonumber(seq) <= at_seq) then return 0 end
  redis.call('HSET', KEYS[1], 'id', ms .. '-' .. seq)
  if type(redis.pcall('HINCRBY', KEYS[1], 'events', events)) == 'table' then redis.call('HSET', KEYS[1], 'events', events) end
  for i = 1, #told, 2 do
    local before = tonumber(redis.call('HGET', KEYS[1], told[i]) or '')
    if not before or before < tonumber(told[i + 1]) then redis.call('HSET', KEYS[1], told[i], told[i + 1]) end
  end
  return 1
end
"""
# KEYS: the progress; ARGV: milliseconds and sequence of the last entry, wall clock, events, then view, newest event time, ...
_ADVANCE = f"{_MOVE} return move(ARGV[1], ARGV[2], ARGV[3], ARGV[4], {{unpack(ARGV, 5)}})"
# In one step, so that it goes by notes that are in Redis now: what an answer of a moment ago said may have been lost since.
# KEYS: the progress, the run's notes, what is held back; ARGV: milliseconds and sequence of the last entry, wall clock, events read,
# task, tasks, seconds to keep notes, milliseconds and sequence up to which nothing is held back, then view, newest event time, ...
# Returns 0 or 1, and the entry that all have got to: '' where one has noted nothing. 2: what is held back up to there must be settled first
_SHARED = f"""{_MOVE}
local function note(task)
  local ms, seq, events = string.match(redis.call('HGET', KEYS[2], task) or '', '^(%d+)-(%d+) (%d+)$')
  return {{ms = ms or '-1', seq = seq or '-1', events = tonumber(events or '0')}}
end
local function before(a, b)
  if tonumber(a.ms) == tonumber(b.ms) then return tonumber(a.seq) < tonumber(b.seq) end
  return tonumber(a.ms) < tonumber(b.ms)
end
local mine, upto = note(ARGV[5]), {{ms = ARGV[1], seq = ARGV[2]}}
if before(mine, upto) then
  redis.call('HSET', KEYS[2], ARGV[5], string.format('%s-%s %.0f', upto.ms, upto.seq, mine.events + tonumber(ARGV[4])))
end
for i = 10, #ARGV, 2 do
  local newest = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '')
  if not newest or newest < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
redis.call('EXPIRE', KEYS[2], ARGV[7])
local least = note('0')
for task = 1, tonumber(ARGV[6]) - 1 do
  local other = note(tostring(task))
  if before(other, least) then least = other end
end
if least.ms == '-1' then return {{0, ''}} end
if redis.call('HLEN', KEYS[3]) > 0 and before({{ms = ARGV[8], seq = ARGV[9]}}, least) then return {{2, least.ms .. '-' .. least.seq}} end
local told, all = {{}}, redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 7) == 'newest:' then table.insert(told, all[i]); table.insert(told, all[i + 1]) end
end
local counted = tonumber(redis.call('HGET', KEYS[2], 'counted') or '') or 0
redis.call('HSET', KEYS[2], 'counted', string.format('%.0f', math.max(least.events, counted)))
local events = string.format('%.0f', math.max(least.events - counted, 0))
return {{move(least.ms, least.seq, ARGV[3], events, told), least.ms .. '-' .. least.seq}}
"""


def newest_field(view: str) -> str:
    """Field of the progress hash: the newest event time the stream has seen of a view, microseconds."""
    return f"newest:{view}"


def advance(client: redis.Redis, key: str, position: Position, events: int, newest: Mapping[str, int]) -> bool:
    """Note how far a stream has got, never backwards.

    Args:
        key: of the progress hash.
        newest: by view, the newest event time, microseconds.

    Returns:
        Whether it moved on.
    """
    told = [part for view, us in newest.items() for part in (newest_field(view), us)]
    return bool(client.eval(_ADVANCE, 1, key, *position, _now_us(), events, *told))


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
    if share.tasks == 1:
        dead_letters.settle(client, project, upto)  # of an earlier run's tasks
        moved = advance(client, applied_key(project), upto, events, newest)
    else:
        told = [part for view, us in newest.items() for part in (newest_field(view), us)]
        moved, upto = _commit_share(client, project, upto, events, told, share)
    if moved:
        _trim(client, project, upto[0], keep_s)
    return moved


def _commit_share(client: redis.Redis, project: str, upto: Position, events: int, told: list[Any], share: Share) -> tuple[bool, Position]:
    keys, settled = (applied_key(project), run_key(project, share.run), refused_key(project)), (0, 0)
    while True:
        noted = (*upto, _now_us(), events, share.task, share.tasks, NOTES_S, *settled, *told)
        said: Any = client.eval(_SHARED, len(keys), *keys, *noted)
        least = stream_id(said[1] or b"0-0")
        if said[0] != 2:
            return said[0] == 1, least
        dead_letters.settle(client, project, least)
        settled = least


def _now_us() -> int:
    return time.time_ns() // 1000


def _trim(client: redis.Redis, project: str, ms: int, keep_s: float) -> None:
    # by the clock of Redis and by this machine's: one that jumps ahead takes nothing
    oldest = min(ms, _now_us() // 1000) - round(keep_s * 1000)
    if oldest > 0:
        client.xtrim(events_key(project), minid=oldest, approximate=True)
        first: Any = client.xrange(events_key(project), count=1)
        dead_letters.forget(client, project, min(stream_id(first[0][0])[0], oldest) if first else oldest)
