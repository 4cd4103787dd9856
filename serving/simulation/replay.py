"""Replay: history played as live traffic, in the order in which it became known.

Time advances in steps. What became known in a step is put on the event stream; when the stream has applied it, the requests of the next
step are sent over HTTP, each with its own moment as *now*; and truths that became known by then go in as feedback. A request can so
never see an event from after its moment, and what it misses is at most one step old: that lateness is real, and the skew proof reports it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import applied_key, events_key
from feature_repo.spec.model import ModelSpec
from infra.timestamps import moment_at
from streaming.aggregation.windows import SECOND
from streaming.clock import set_rehearsal
from streaming.offline.parquet import TableError, dataset, fault, verify
from streaming.online.store import connect
from streaming.schema.feature_view import View
from streaming.schema.json_row import encode

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.records.contract import Contract

GROUP = 500
"""Events put on the stream in one transaction: events of one moment are never split over two micro-batches by it."""


RETAINED = 1_000_000
"""Events kept on the stream (approximate)."""


class ReplayError(RuntimeError):
    """The replay cannot go on: no data in the period, the stream does not advance, or the server answers nothing."""


@dataclass
class Replayed:
    """What a replay did.

    Attributes:
        latency_ms: per prediction request, as the client saw it.
        freshness_s: from a batch of events being put on the stream to its being readable, wall seconds.
        truth: prediction id -> (moment in microseconds, label).
        scores: prediction id -> score.
    """

    predictions: int = 0
    failed: int = 0
    events: int = 0
    labels: int = 0
    seconds: float = 0.0
    latency_ms: list[float] = field(default_factory=list)
    freshness_s: list[float] = field(default_factory=list)
    truth: dict[str, tuple[int, int]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def _table(root: Path, name: str, first_us: int, last_us: int, column: str, slack_days: int = 2) -> pa.Table:
    """Rows of an offline table with `first <= column < last`, ascending; days a little around are read as well."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    folder = root / name
    if why := fault(str(folder)):
        raise ReplayError(why)
    day = 86_400 * SECOND
    low, high = (str(moment_at(us + d * day).date()) for us, d in ((first_us, -slack_days), (last_us, slack_days)))
    partitioning = ds.partitioning(pa.schema([("day", pa.string())]), flavor="hive")
    days = (pc.field("day") >= low) & (pc.field("day") <= high)
    try:
        verify(str(folder))
        table = dataset(str(folder), partitioning=partitioning).to_table(filter=days)
    except TableError as error:
        raise ReplayError(str(error)) from None
    except (pa.ArrowException, OSError) as error:
        raise ReplayError(f"the table at {folder} cannot be read: {' '.join(str(error).split())}") from None
    us = table[column].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    table = table.append_column("__us", us).filter(pc.and_(pc.greater_equal(us, first_us), pc.less(us, last_us)))
    others = [c for c in table.column_names if c not in ("__us", "day")]
    # events of one moment in canonical order: by content
    return table.sort_by([("__us", "ascending"), *((c, "ascending") for c in others)]).drop_columns(["day"])


@dataclass(frozen=True)
class _Timeline:
    """Things to do at moments, ascending; handed out span by span."""

    moments: list[int]
    items: list[Any]

    def until(self, start: int, moment_us: int) -> int:
        """Index of the first item at or after `moment_us`, from index `start` on."""
        i = start
        while i < len(self.moments) and self.moments[i] < moment_us:
            i += 1
        return i


def events_of(views: Sequence[View], root: Path, first_us: int, last_us: int) -> _Timeline:
    """Events of every push source that became known in `[first, last)`, in that order, as `(source, row as JSON)`."""
    sources: dict[str, View] = {v.stream: v for v in views if v.stream}
    found: list[tuple[int, int, str, bytes]] = []
    for number, (source, view) in enumerate(sorted(sources.items())):
        backwards = {name: column for column, name in view.mapping}
        known = backwards.get(view.created, view.created) if view.created else backwards.get(view.timestamp, view.timestamp)
        table = _table(root, view.path, first_us, last_us, known)
        moments = table["__us"].to_pylist()
        rows = table.drop_columns(["__us"]).to_pylist()
        found += [(us, number, source, encode(row)) for us, row in zip(moments, rows, strict=True)]
    found.sort(key=lambda e: (e[0], e[1]))  # stable: canonical order within a moment and source
    return _Timeline([e[0] for e in found], [(e[2], e[3]) for e in found])


def requests_of(spec: ModelSpec, contract: Contract, root: Path, first_us: int, last_us: int) -> _Timeline:
    """Examples of the model's spine with their moment in `[first, last)` as `(instance, label or None, moment the label is known)`."""
    import pyarrow as pa

    spine = spec.spine
    table = _table(root, spine.table, first_us, last_us, spine.timestamp)
    moments = table["__us"].to_pylist()
    names = [f.name for f in contract.request]
    instances = table.select(names).to_pylist()
    labels = table[spine.label].to_pylist()
    known = table[spine.label_timestamp].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    items = []
    for instance, label, at in zip(instances, labels, known, strict=True):
        body = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in instance.items()}
        items.append((body, None if label is None else int(label), at))
    return _Timeline(moments, items)


class _Stream:
    """The event stream, from the producer's side."""

    def __init__(self, url: str, project: str, timeout_s: float) -> None:
        self.client, self.project, self.timeout_s = connect(url), project, timeout_s

    def push(self, items: Sequence[tuple[str, bytes]]) -> bytes | None:
        """Put events on the stream, all or nothing; returns the last id."""
        with self.client.pipeline(transaction=True) as pipe:
            for source, data in items:
                pipe.xadd(events_key(self.project), {"source": source, "data": data}, maxlen=RETAINED, approximate=True)
            ids = pipe.execute()
        return ids[-1] if ids else None

    async def applied(self, stream_id: bytes) -> float:
        """Wait until the stream has applied `stream_id`; returns when, wall seconds since the epoch."""
        target, deadline = _pair(stream_id), time.monotonic() + self.timeout_s
        while True:
            done, wall = self.client.hmget(applied_key(self.project), ["id", "wall_us"])  # type: ignore[misc]
            if done is not None and _pair(done) >= target:
                return int(wall) / 1e6
            if time.monotonic() > deadline:
                raise ReplayError(f"the stream has not applied events for {self.timeout_s:.0f} s; is it running? (`headrace status`)")
            await asyncio.sleep(0.01)


def _pair(stream_id: bytes) -> tuple[int, int]:
    ms, _, seq = stream_id.partition(b"-")
    return int(ms), int(seq)


def _steps(first_us: int, last_us: int, step_us: int) -> Iterator[tuple[int, int]]:
    for start in range(first_us, last_us, step_us):
        yield start, min(start + step_us, last_us)


@dataclass(frozen=True)
class Where:
    """What a replay is played to.

    Attributes:
        base_url: the server, such as `http://127.0.0.1:8000`.
        stream_timeout_s: how long the stream may take to apply what was pushed.
    """

    model: str
    base_url: str
    redis_url: str
    project: str
    stream_timeout_s: float = 60.0


async def play(
    where: Where,
    events: _Timeline,
    requests: _Timeline,
    span: tuple[int, int],
    step_us: int,
    concurrency: int = 4,
    progress: Callable[[int, Replayed], None] = lambda *_: None,
) -> Replayed:
    """Play a period.

    Args:
        span: `[first, last)`, microseconds.
        step_us: how far time advances at once; the age of the youngest event a request can miss.
        concurrency: requests under way at once.
        progress: told the moment reached and the tally so far, after each step.

    Raises:
        ReplayError: the stream does not advance, or nothing answers at the server's address.
    """
    import httpx

    tally, began = Replayed(), time.monotonic()
    history = _History(_Stream(where.redis_url, where.project, where.stream_timeout_s), events, tally)
    next_request = 0
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=where.base_url, timeout=10.0, limits=limits) as client:
        caller = _Caller(client, where.model, asyncio.Semaphore(concurrency), tally)
        for start, end in _steps(*span, step_us):
            # what was known before this step begins; it is applied before the step's first request. Nobody asks in the night: no batch for it
            until = requests.until(next_request, end)
            if until > next_request:
                await history.bring(start)
            await asyncio.gather(*(caller.ask(requests.moments[i], requests.items[i]) for i in range(next_request, until)))
            next_request = until
            if tally.failed > 20 and tally.failed > tally.predictions:
                raise ReplayError(f"most requests fail; the first said: {tally.errors[0]}")
            await caller.feedback(end)
            tally.seconds = time.monotonic() - began
            progress(end, tally)
        await history.end(span[1])  # nobody asks any more, but the next replay begins here
        await caller.feedback(None)
    tally.seconds = time.monotonic() - began
    return tally


@dataclass
class _History:
    """The events of a period, brought onto the stream as time advances."""

    stream: _Stream
    events: _Timeline
    tally: Replayed
    next: int = 0

    async def bring(self, moment: int) -> None:
        """What became known before a moment is pushed and applied."""
        pushed, last = time.time(), self._push(moment)
        set_rehearsal(
            self.stream.client, self.stream.project, moment
        )  # never ahead of what was brought: one that is interrupted goes on from there
        if last is not None:
            self.tally.freshness_s.append(await self.stream.applied(last) - pushed)

    async def end(self, moment: int) -> None:
        """As `bring`, where nobody waits for it: no measure of freshness."""
        last = self._push(moment)
        set_rehearsal(self.stream.client, self.stream.project, moment)
        if last is not None:
            await self.stream.applied(last)

    def _push(self, moment: int) -> bytes | None:
        """Push what became known before a moment; the id of the last event."""
        upto, last = self.events.until(self.next, moment), None
        while self.next < upto:
            cut = min(self.next + GROUP, upto)
            while cut < upto and self.events.moments[cut] == self.events.moments[cut - 1]:
                cut += 1
            last = self.stream.push(self.events.items[self.next : cut])
            self.tally.events += cut - self.next
            self.next = cut
        return last


@dataclass
class _Caller:
    """Who asks for predictions and sends their truths when they become known.

    Attributes:
        waiting: (known, prediction id, label) of truths that are still to come.
    """

    client: Any
    model: str
    gate: asyncio.Semaphore
    tally: Replayed
    waiting: list[tuple[int, str, int]] = field(default_factory=list)

    async def ask(self, moment: int, item: tuple[dict[str, Any], int | None, int | None]) -> None:
        """One request as of its moment."""
        import httpx

        instance, label, known = item
        tally, body = self.tally, json.dumps({"instances": [instance], "now": moment_at(moment).isoformat()})
        async with self.gate:
            start = time.perf_counter()
            try:
                path = f"/v1/models/{self.model}/predict"
                answer = await self.client.post(path, content=body, headers={"content-type": "application/json"})
            except httpx.HTTPError as error:
                _failed(tally, f"{type(error).__name__}: {error}")
                return
        tally.latency_ms.append((time.perf_counter() - start) * 1000)
        if answer.status_code != 200:
            _failed(tally, f"HTTP {answer.status_code}: {answer.text[:300]}")
            return
        prediction = answer.json()["predictions"][0]
        tally.predictions += 1
        tally.scores[prediction["prediction_id"]] = prediction["score"]
        for status in ("fresh", "stale", "null", "missing"):
            tally.statuses[status] = tally.statuses.get(status, 0) + prediction["statuses"][status]
        if label is not None and known is not None:
            tally.truth[prediction["prediction_id"]] = (moment, label)
            self.waiting.append((known, prediction["prediction_id"], label))

    async def feedback(self, now_us: int | None) -> None:
        """Send the truths known by `now_us` (None: all)."""
        due = [w for w in self.waiting if now_us is None or w[0] <= now_us]
        self.waiting[:] = [w for w in self.waiting if now_us is not None and w[0] > now_us]
        for i in range(0, len(due), 500):
            some = due[i : i + 500]
            items = [{"prediction_id": number, "label": label, "at": moment_at(known).isoformat()} for known, number, label in some]
            answer = await self.client.post(f"/v1/models/{self.model}/feedback", json={"items": items})
            if answer.status_code != 200:
                _failed(self.tally, f"feedback: HTTP {answer.status_code}: {answer.text[:300]}")
            else:
                self.tally.labels += len(items)


def _failed(tally: Replayed, why: str) -> None:
    tally.failed += 1
    if len(tally.errors) < 20:
        tally.errors.append(why)
