"""Whether every part of a platform lives and does its work: each says so itself, in one Redis hash.

A part's loop notes the end of each round, and whether that did its work; a thread beside it writes the note down. A part that fails for
ever says why; one that hangs, or is dead, stops ending rounds and is silent. One that was told to stop takes its word back: it is absent,
and nobody misses it. Times are Redis' own, so that no clock of anyone's that is wrong makes the living dead. Who hangs is ended by the
supervisor, which goes by a word that does not pass through Redis (`infra.supervision.watchdog`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra import redis_client
from infra.cause import cause_of
from infra.supervision.watchdog import Watchdog
from infra.timestamps import span_text

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

EVERY_S = 5.0
LATE = 3
"""A part that ended no round for so many of its intervals is silent."""
_TIMEOUT_S = 2.0
_LONGEST = 500

# ARGV: field, the beat as JSON without its time, microseconds since the round's end
WRITE = """
local t = redis.call('TIME')
local at = string.format('{"at_us":%.0f,', t[1] * 1000000 + t[2] - ARGV[3])
return redis.call('HSET', KEYS[1], ARGV[1], at .. string.sub(ARGV[2], 2))
"""
READ = "local t = redis.call('TIME') return {string.format('%.0f', t[1] * 1000000 + t[2]), redis.call('HGETALL', KEYS[1])}"


class Beat(msgspec.Struct, frozen=True):
    """
    Attributes:
        at_us: when the part's last round ended, microseconds since the epoch, by Redis' clock.
        pid: of its process.
        every_s: its rounds end at least so often, seconds.
        up_s: how long it had been up by then, seconds.
        failing: why that round did not do its work, in one line; empty: it did.
    """

    at_us: Annotated[int, Meta(ge=0, le=2**53)]
    pid: int
    every_s: Annotated[float, Meta(gt=0, le=1e9)]
    up_s: Annotated[float, Meta(ge=0, le=1e12)]
    failing: str = ""


@dataclass(frozen=True)
class Part:
    """
    Attributes:
        name: as the service is called (`stream`, `watch-<model>`, ...).
        detail: what is wrong, in one line; empty where nothing is.
        age_s: seconds since its last round ended; None: it never said that one did.
    """

    name: str
    state: Literal["well", "starting", "failing", "silent"]
    detail: str = ""
    age_s: float | None = None

    @property
    def degraded(self) -> bool:
        return self.state in ("failing", "silent")


def parts_key(project: str) -> str:
    """The Redis hash of beats: `<part>`, or `<part>/<member>` where there are several of it; each value is a `Beat` as JSON."""
    return f"headrace:{{{project}}}:parts"


def encode(every_s: float, up_s: float, failing: str) -> bytes:
    """A beat of this process, for `WRITE`."""
    said = failing.encode(errors="replace").decode()[:_LONGEST]
    return msgspec.json.encode({"pid": os.getpid(), "every_s": every_s, "up_s": round(up_s, 3), "failing": said})


def parse(answer: Any) -> tuple[int, dict[str, Beat]]:
    """What `READ` answers: Redis' time, microseconds, and the beats by field. What is no beat is passed over."""
    now, flat = answer
    found = {}
    for field, raw in zip(flat[::2], flat[1::2], strict=True):
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found[field.decode()] = msgspec.json.decode(raw, type=Beat)
    return int(now), found


def read(client: redis.Redis, project: str) -> tuple[int, dict[str, Beat]]:
    """Redis' time and every beat, by field.

    Raises:
        redis.RedisError: it does not answer.
    """
    return parse(client.eval(READ, 1, parts_key(project)))


def _age_s(now_us: int, beat: Beat) -> float:
    return (now_us - beat.at_us) / 1e6


def _silent(now_us: int, beat: Beat) -> bool:
    # one that comes from the future was written before Redis' clock was set back: who lives writes the next soon
    return abs(_age_s(now_us, beat)) > LATE * beat.every_s


def replaced(now_us: int, beats: Mapping[str, Beat]) -> list[str]:
    """Fields of members that are silent while another of their part began after their last round: it has taken their place."""
    gone = []
    for field, beat in beats.items():
        began = [b.at_us - round(b.up_s * 1e6) for f, b in beats.items() if f != field and _part(f) == _part(field)]
        if _silent(now_us, beat) and any(us > beat.at_us for us in began):
            gone.append(field)
    return gone


def judge(now_us: int, beats: Mapping[str, Beat]) -> list[Part]:
    """How each part fares, by name. Of several members the worst counts, and those that fare badly are counted."""
    members: dict[str, list[Part]] = {}
    gone = set(replaced(now_us, beats))
    for field in sorted(beats.keys() - gone):
        members.setdefault(_part(field), []).append(_member(_part(field), now_us, beats[field]))
    return [_worst(some) for _, some in sorted(members.items())]


def _part(field: str) -> str:
    return field.partition("/")[0]


def _member(name: str, now_us: int, beat: Beat) -> Part:
    age_s = _age_s(now_us, beat)
    if not _silent(now_us, beat):
        return Part(name, "failing" if beat.failing else "well", f"failing: {beat.failing}" if beat.failing else "", max(age_s, 0.0))
    detail = f"silent for {span_text(age_s)}" if age_s > 0 else f"silent: its last word is dated {span_text(-age_s)} ahead"
    return Part(name, "silent", f"{detail}; failing before: {beat.failing}" if beat.failing else detail, max(age_s, 0.0))


def _worst(some: list[Part]) -> Part:
    worst = max(some, key=lambda p: (("well", "failing", "silent").index(p.state), p.age_s))
    bad = sum(p.degraded for p in some)
    if len(some) == 1 or not bad:
        return worst
    return Part(worst.name, worst.state, f"{bad} of {len(some)}: {worst.detail}", worst.age_s)


def forget(client: redis.Redis, project: str, parts: Iterable[str]) -> None:
    """Take the word of parts back that were stopped and could not do so themselves.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    known: Any = client.hkeys(parts_key(project))
    gone = [field for field in known if _part(field.decode(errors="replace")) in set(parts)]
    if gone:
        client.hdel(parts_key(project), *gone)


def tidy(client: redis.Redis, project: str) -> None:
    """Remove what silent parts once said: who is meant to run says it anew.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    now_us, beats = read(client, project)
    if gone := [field for field, beat in beats.items() if _silent(now_us, beat)]:
        client.hdel(parts_key(project), *gone)


class Pulse:
    """A part's own word: `with Pulse(...) as pulse`, and `pulse.beat()` at the end of each round. Costs the loop nothing, Redis away or not.

    Left without an error, it takes its word back; left with one, that is its last word.

    Args:
        url: of Redis.
        part: as the service is called.
        every_s: a round ends at least so often; so often it is written down as well.
    """

    def __init__(self, url: str, project: str, part: str, every_s: float = EVERY_S) -> None:
        self._url, self._key, self._part, self._every_s = url, parts_key(project), part, every_s
        self._began = self._ended = time.monotonic()
        self._failing = ""
        self._client: Any = None
        self._watchdog = Watchdog(every_s)
        self._news, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def beat(self, failing: str = "") -> None:
        """A round has ended.

        Args:
            failing: why it did not do its work, in one line; empty: it did.
        """
        news, self._failing, self._ended = failing != self._failing, failing, time.monotonic()
        self._watchdog.feed()
        if news:
            self._news.set()

    def touch(self) -> None:
        """A long round goes on; what was said of the one before stands."""
        self._ended = time.monotonic()
        self._watchdog.feed()

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self.beat(cause_of(error))
        self._watchdog.close()
        self._closing = True
        self._news.set()
        self._thread.join(2 * _TIMEOUT_S)
        with suppress(Exception):
            if error is None and self._client is not None and not self._thread.is_alive():
                self._client.hdel(self._key, self._part)
            if self._client is not None:
                self._client.close()

    def _run(self) -> None:
        while True:
            self._news.clear()
            last = self._closing
            try:
                self._write()
            except Exception as error:  # whatever it is, the part goes on; the next try follows
                log.debug("no beat of %s: %s", self._part, error)
            if last:
                return
            self._news.wait(self._every_s)

    def _write(self) -> None:
        if self._client is None:
            self._client = redis_client.connect(self._url, _TIMEOUT_S)
        ended = self._ended
        beat = encode(self._every_s, ended - self._began, self._failing)
        self._client.eval(WRITE, 1, self._key, self._part, beat, round((time.monotonic() - ended) * 1e6))
