"""The watcher: one process per model that follows the prediction log and says, window by window, whether the world has moved.

How it stays right across kills. The log (a Redis Stream) is read through a consumer group, and an entry is acknowledged only together
with the verdict that it completes: `SET drift`, `HSET state`, `XACK` in one MULTI. So after a kill Redis delivers again exactly the
entries after the last verdict, the window before them is read back from the stream (`state` knows where each version's last verdict
ended), and the next verdict falls on the same entry, with the same id, as it would have. The history file is appended to before the
MULTI; a line whose id is already there is not written twice.

Every version has a window and a reference of its own. A verdict comes with the entry that fills the window, and every `step` entries of
that version from there (`serving.monitoring.window`).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any, cast

import msgspec
import redis

from feature_repo.records import contract, prediction, release
from feature_repo.records.redis_keys import drift_key, equality_key, labels_key, prediction_log_key, watch_key
from feature_repo.records.verdict import Verdict, history, history_path
from infra import files, redis_client
from infra.redis_client import misplaced, says, whole
from infra.settings import Settings
from infra.supervision.beat import Pulse
from serving.monitoring.around import Around
from serving.monitoring.feast_parity import Equality
from serving.monitoring.reference import Reference, ReferenceError
from serving.monitoring.source_news import SourceNews
from serving.monitoring.window import Entry, Row, Window, judge
from streaming.online.store import noted_id

log = logging.getLogger("headrace.watch")

WINDOW, STEP = 1000, 250
BATCH, BLOCK_MS = 500, 1000
SCAN = 50
"""How many times the window is scanned back in the stream, at most, to find one model's entries again."""
RETRY_S = 60.0
VERSIONS = 4
"""Versions watched at the same time (champion, challengers)."""


class WatchError(RuntimeError):
    """The watcher cannot do its work; the message says why and what to do."""


class Watch:
    """See the module's description; `run` is the process around it."""

    def __init__(self, client: redis.Redis, settings: Settings, project: str, model: str, window: int, step: int) -> None:
        if window < 1 or step < 1:
            raise ValueError(f"window ({window}) and step ({step}) must be at least 1")
        self.client, self.settings, self.project, self.model = client, settings, project, model
        self.rows, self.step = window, step
        self.stream = prediction_log_key(project)
        self.group = f"watch:{model}"
        self.counts: Counter[str] = Counter()
        self.equality = Equality(client, settings, project, model, settings.equality_every_s)
        self.around = Around(client, settings, project, model)
        self.news = SourceNews(client, settings, project, self.around.tables, partial(_say, level=logging.WARNING))
        self._checked = (0, 0)
        self.windows: dict[int, Window] = {}
        self._unreadable: dict[int, tuple[float, str]] = {}
        """Versions that cannot be judged: when it is tried again, and why."""
        self.skipped = 0
        self.joined = False

    def join(self) -> None:
        """Take up the work where the last watcher left it; also after Redis has lost the group. The first poll does it, too."""
        self.joined = False
        try:
            self.client.xgroup_create(self.stream, self.group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self.windows, self._unreadable = {}, {}
        state = cast(dict[bytes, bytes], self.client.hgetall(watch_key(self.project, self.model)))
        self.cursors = _cursors(state)
        self.skipped = whole(state.get(b"skipped")) or 0
        self._again: str | None = "0"
        """Stream id up to which unacknowledged entries have been taken again; None once there are no more, and new ones are read."""
        self._open_history()
        self._unequal()
        self.joined = True

    def refused(self, error: BaseException) -> str:
        """What Redis has against its commands, in one line: the key that somebody else has written, where that is it."""
        said = says(error)
        if "WRONGTYPE" in said:
            kinds = {self.stream: "stream", watch_key(self.project, self.model): "hash"}
            kinds |= {key(self.project, self.model): "hash" for key in (labels_key, equality_key)}
            with contextlib.suppress(redis.RedisError):
                found = [cast(bytes, self.client.type(key)) for key in kinds]
                said = f"refuses: {misplaced(kinds, found) or said.partition(': ')[2]}"
        return said

    def poll(self, block_ms: int | None) -> bool:
        """Take the next entries and judge what is due. Returns False when there was nothing (after `block_ms`; None: at once)."""
        if not self.joined:
            self.join()
        again = self._again
        answer: Any = self.client.xreadgroup(
            self.group, "watch", {self.stream: again or ">"}, count=BATCH, block=None if again is not None else block_ms
        )
        entries = answer[0][1] if answer else []
        if again is not None:
            self._again = entries[-1][0].decode() if entries else None
            if not entries:
                return self.poll(block_ms)
        done: list[str] = []
        for raw, fields in entries:
            identity = raw.decode()
            row = self._read(identity, fields)
            window = self._window(row.version) if row else None
            if row is None or window is None:
                done.append(identity)
            elif len(row.values) + 1 != len(window.reference.names):
                self._skip(identity, f"{len(row.values)} values for {len(window.reference.names) - 1} inputs of version {row.version}")
                done.append(identity)
            else:
                window.add((identity, row))
                if window.due(self.step):
                    self.conclude(window)
        self.equality.offer(entries[-1][1] if entries else None)
        self.news.offer()
        if done:
            with self.client.pipeline(transaction=True) as pipe:
                pipe.xack(self.stream, self.group, *done)
                pipe.hset(watch_key(self.project, self.model), "skipped", str(self.skipped))
                pipe.execute()
        return bool(entries)

    def conclude(self, window: Window) -> Verdict:
        """Judge a window, publish the verdict, acknowledge what led to it."""
        started = time.perf_counter()
        clues = self.around.clues(window)
        unequal, differing = self._unequal()
        verdict = judge(window, self.settings.drift_detector, self.skipped, unequal, self._truths(window.ids()), clues, differing)
        if verdict.id in self._written:
            # reached before a kill, but not published: what the history says stands, though the equality check has gone on since
            verdict = next(v for v in reversed(history(self.settings, self.model)) if v.id == verdict.id)
        encoded = msgspec.json.encode(verdict)
        if verdict.id not in self._written:
            with history_path(self.settings, self.model).open("ab") as file:
                file.write(encoded + b"\n")
            self._written.add(verdict.id)
        live = release.champion(self.settings.model_root, self.model)
        with self.client.pipeline(transaction=True) as pipe:
            if live is None or live == verdict.version:
                pipe.set(drift_key(self.project, self.model), encoded)
            pipe.hset(watch_key(self.project, self.model), f"cursor:{verdict.version}", window.entries[-1][0])
            pipe.xack(self.stream, self.group, *window.pending)
            pipe.execute()
        self.cursors[verdict.version] = window.entries[-1][0]
        window.pending, window.judged = [], True
        self.counts["verdicts"] += 1
        self.counts["drift"] += verdict.drift
        names = [f.name for f in (*verdict.features, verdict.score) if f.drift]
        seconds = round(time.perf_counter() - started, 3)
        cause = verdict.triage.cause if verdict.triage else ""
        _say("verdict", id=verdict.id, drift=names, cause=cause, outliers=round(verdict.outliers.share, 4), seconds=seconds)
        return verdict

    def _truths(self, ids: list[str]) -> dict[str, float]:
        """Those known by now; a truth comes later than its prediction, so a window's newest have none yet."""
        found = cast(list[bytes | None], self.client.hmget(labels_key(self.project, self.model), ids))
        known = ((number, prediction.known_truths(raw)) for number, raw in zip(ids, found, strict=True))
        return {number: float(truths.label) for number, truths in known if truths is not None}

    def _unequal(self) -> tuple[tuple[int, int], list[str]]:
        """What the equality check has found since the last verdict: values compared, of these not equal, and some of them."""
        found = cast(list[bytes | None], self.client.hmget(equality_key(self.project, self.model), ["compared", "unequal", "last"]))
        before, self._checked = self._checked, (whole(found[0]) or 0, whole(found[1]) or 0)
        compared, unequal = (max(now - then, 0) for now, then in zip(self._checked, before, strict=True))
        shown: list[str] = []
        with contextlib.suppress(ValueError):  # an older version has written values
            shown = files.parse(found[2], list[str]) if unequal and found[2] else []
        return (compared, unequal), shown

    def finish(self) -> None:
        """Judge what has come since each version's last verdict, though no full step has (windows that fill at least one step)."""
        for window in self.windows.values():
            if window.pending and len(window.entries) >= min(self.step, self.rows):
                self.conclude(window)

    def _read(self, identity: str, fields: dict[bytes, bytes] | None) -> Row | None:
        """The entry as a row of this model; None for another model's, and for what is no prediction (counted, said once per entry)."""
        if not fields:
            self._skip(identity, "trimmed from the log before it was judged")
            return None
        try:
            row = prediction.logged(fields, Row)
        except ValueError as error:
            self._skip(identity, f"not a prediction: {error}")
            return None
        if row.model != self.model:
            return None
        self.counts["predictions"] += 1
        return row

    @property
    def trouble(self) -> str:
        """Why some of what comes in is not judged or compared, in one line; empty: all is."""
        now = time.monotonic()
        # of a version that nobody asks any more nothing is tried again, and nothing is missed
        recent = [" ".join(why.split()) for until, why in self._unreadable.values() if now < until + RETRY_S]
        return "; ".join([*recent, *([self.equality.failing] if self.equality.failing else [])])

    def _skip(self, identity: str, reason: str) -> None:
        self.skipped += 1
        _say("skipped", level=logging.WARNING, entry=identity, reason=reason)

    def _window(self, version: int) -> Window | None:
        """The version's window, opened on first use; None (counted) while its contract cannot be read: tried again every minute."""
        if version in self.windows:
            return self.windows[version]
        if time.monotonic() < self._unreadable.get(version, (0.0, ""))[0]:
            self.skipped += 1
            return None
        try:
            reference = Reference(self.settings.model_root, self.model, version, self.settings.drift_detector, self.around.calendar)
        except (contract.ContractError, ReferenceError, ValueError) as error:
            self._unreadable[version] = (time.monotonic() + RETRY_S, f"version {version} is not judged: {error}")
            self._skip(f"version {version}", str(error))
            return None
        self._unreadable.pop(version, None)
        cursor = self.cursors.get(version)
        window = Window(reference, self.rows, self._before(version, cursor, len(reference.names) - 1) if cursor else [])
        window.judged = cursor is not None
        self.windows[version] = window
        self._retire()
        _say("reference", version=version, inputs=len(reference.names) - 1, resumed_rows=len(window.entries))
        return window

    def _retire(self) -> None:
        """Let go of the version whose last prediction is the oldest, once there are more than VERSIONS."""
        if len(self.windows) > VERSIONS:
            quiet = min(self.windows, key=lambda v: max((row.at_us for _, row in self.windows[v].entries), default=2**63))
            if pending := self.windows.pop(quiet).pending:
                self.client.xack(self.stream, self.group, *pending)

    def _before(self, version: int, cursor: str, inputs: int) -> list[Entry]:
        """The version's last entries up to its last verdict, oldest first, read back from the stream."""
        found: list[Entry] = []
        newest, scanned = cursor, 0
        while len(found) < self.rows and scanned < SCAN * self.rows:
            page = cast(list[tuple[bytes, dict[bytes, bytes]]], self.client.xrevrange(self.stream, max=newest, count=BATCH))
            for raw, fields in page:
                try:
                    row = prediction.logged(fields, Row)
                except ValueError:
                    continue
                if row.model == self.model and row.version == version and len(row.values) == inputs:
                    found.append((raw.decode(), row))
            if len(page) < BATCH:
                break
            scanned += len(page)
            newest = f"({page[-1][0].decode()}"
        return found[: self.rows][::-1]

    def _open_history(self) -> None:
        """Know the ids already written, and cut off a line that a kill left unfinished."""
        path = history_path(self.settings, self.model)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
        self._written = {verdict.id for verdict in history(self.settings, self.model)}


def _cursors(state: Mapping[bytes, bytes]) -> dict[int, str]:
    """By version, as far as what lies in Redis is one; a version without begins with what comes next."""
    found = {whole(k[7:]): noted_id(v) for k, v in state.items() if k.startswith(b"cursor:")}
    return {version: f"{at[0]}-{at[1]}" for version, at in found.items() if version is not None and at is not None}


def _say(event: str, level: int = logging.INFO, **facts: object) -> None:
    log.log(level, "%s", msgspec.json.encode({"event": event, **facts}).decode())


def _lock(settings: Settings, model: str) -> IO[str]:
    path = settings.state / "watch" / f"{model}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise WatchError(f"model {model} is already being watched from this checkout ({path} is locked); stop that watcher first") from None
    return file


def _patiently(step: Callable[[], bool], watch: Watch, stop: threading.Event, beat: Callable[[str], None]) -> bool:
    """One step; where Redis is away or refuses, wait (1 s doubling to 10 s) and take up the work again from what Redis knows."""
    wait = 0.0
    while not stop.is_set():
        try:
            return step()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            problem = f"Redis: {error}"
        except redis.ResponseError as error:
            problem = f"Redis {watch.refused(error)}"
        watch.joined = False
        wait = min(max(1.0, 2 * wait), 10.0)
        beat(problem)
        _say("redis", level=logging.WARNING, problem=problem, again_in_s=wait)
        stop.wait(wait)
    return False


def run(
    settings: Settings,
    project: str,
    model: str,
    *,
    window: int = WINDOW,
    step: int = STEP,
    once: bool = False,
    stop: threading.Event | None = None,
) -> dict[str, int]:
    """Watch one model until SIGTERM, SIGINT or `stop`; with `once`, judge everything now in the log and return.

    Args:
        project: the use case's Feast project (it names the Redis keys).
        window: predictions per window.
        step: predictions from one verdict to the next.
        once: at the end, what has come since the last verdict is judged too, on a window of at least `step` rows.
        stop: another way to end it; signals are handled only in a process's main thread.

    Returns:
        Counts of this run: `predictions`, `verdicts`, `drift` (verdicts that called drift) and `skipped` (since the watch began).

    Raises:
        WatchError: the model is already being watched from this checkout.
        redis.RedisError: with `once`, Redis cannot be reached, or refuses.
    """
    stop = stop or threading.Event()
    lock = _lock(settings, model)
    client = redis_client.client(settings.redis(), socket_timeout=BLOCK_MS / 1000 + 10, socket_connect_timeout=5)
    previous: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
        watch = Watch(client, settings, project, model, window, step)
        if once:
            while not stop.is_set() and watch.poll(None):
                pass
            if not stop.is_set():
                watch.finish()
        else:
            with Pulse(settings.redis(), project, f"watch-{model}") as pulse:
                while not stop.is_set():
                    _patiently(lambda: watch.poll(BLOCK_MS), watch, stop, pulse.beat)
                    pulse.beat(watch.trouble)
        return {"predictions": 0, "verdicts": 0, "drift": 0, **watch.counts, "skipped": watch.skipped}
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        client.close()
        lock.close()
