"""The prediction log: every answer goes to a Redis Stream, and no request ever waits for it.

A request appends to a buffer that is bounded in predictions and in bytes; one background task sends batches in a pipeline. Full buffer: the
newest is dropped and counted.
Redis away: the buffer is kept and tried again, ever slower. Delivery is at least once (a batch whose answer was lost is sent again;
readers tell entries apart by the prediction's id). What is not sent yet lies in a spool as well: a replica that is killed loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

import hiredis
import msgspec
from redis.exceptions import RedisError

from feature_repo.records.prediction import Prediction
from infra import files
from serving.features.redis_connection import StoreClient
from serving.telemetry.spool import Spool

BATCH = 100
LINGER_S = 0.02
"""How long the first entry waits for company: one pipeline per batch costs a fraction of one per prediction."""
_BACKOFF_S = (0.1, 5.0)
_ORPHANS_S = 1.0
"""How often the spool is looked at."""

log = logging.getLogger(__name__)


class PredictionLog:
    """A bounded buffer before a Redis Stream.

    Args:
        client: a connection of the log's own: a slow write must not stand before a read.
        stream: the stream's key (`feature_repo.records.redis_keys.prediction_log_key`).
        capacity: predictions kept while they cannot be sent.
        retention: entries kept in the stream, approximately.
        timeout_s: of one batch.
        spool: outlives this process; None: what is buffered dies with it.
        capacity_bytes: likewise, in bytes.

    Attributes:
        dropped: predictions lost because the buffer was full.
        written: predictions acknowledged by Redis.
    """

    def __init__(
        self,
        client: StoreClient,
        stream: str,
        capacity: int,
        retention: int,
        timeout_s: float = 5.0,
        capacity_bytes: int = 64 * 2**20,
        spool: Spool | None = None,
    ) -> None:
        self._client = client
        self._command = (b"XADD", stream.encode(), b"MAXLEN", b"~", b"%d" % retention, b"*", b"p")
        self._capacity = capacity
        self._capacity_bytes, self._bytes = capacity_bytes, 0
        self._timeout_s = timeout_s
        self._spool = spool
        self._buffer: deque[bytes] = deque()
        self._awake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._orphans: asyncio.Task[None] | None = None
        self.dropped = 0
        self.written = 0

    @property
    def depth(self) -> int:
        """Predictions waiting."""
        return len(self._buffer)

    @property
    def unspooled(self) -> int:
        """Predictions that the spool did not take."""
        return self._spool.unwritten if self._spool is not None else 0

    @property
    def trouble(self) -> str:
        """Why the spool takes none now; empty: it does."""
        return self._spool.trouble if self._spool is not None else ""

    def put(self, prediction: Prediction) -> bool:
        """Take a prediction, or drop and count it when the buffer is full; never blocks."""
        entry = msgspec.json.encode(prediction)
        if len(self._buffer) >= self._capacity or self._bytes + len(entry) > self._capacity_bytes:
            self.dropped += 1
            return False
        self._buffer.append(entry)
        if self._spool is not None:
            self._spool.put(entry)
        self._bytes += len(entry)
        if not self._awake.is_set():
            self._awake.set()
        return True

    def start(self) -> None:
        """Begin sending, on the running event loop."""
        self._task = asyncio.create_task(self._run(), name="prediction-log")
        if self._spool is not None:
            self._orphans = asyncio.create_task(self._take_over(self._spool), name="prediction-log-orphans")

    async def close(self, timeout_s: float = 5.0) -> None:
        """Send what is buffered, for at most `timeout_s` seconds; what is left then is the next replica's to send, or counts as dropped."""
        if self._task is None:
            return
        self._closing = True
        self._awake.set()
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(self._task, timeout_s)
        self._task = None
        if self._buffer:
            log.error("prediction log closed with %d predictions unsent", len(self._buffer))
            self.dropped += len(self._buffer) if self._spool is None else 0
            self._buffer.clear()
        if self._orphans is not None:
            self._orphans.cancel()
        if self._spool is not None:
            self._spool.close()
            self._bytes = 0
        await self._client.close()

    async def _run(self) -> None:
        backoff, most = _BACKOFF_S
        while True:
            await self._awake.wait()
            if not self._closing and len(self._buffer) < BATCH:
                await asyncio.sleep(LINGER_S)
            self._awake.clear()
            while self._buffer:
                batch = [self._buffer[i] for i in range(min(BATCH, len(self._buffer)))]
                try:
                    await self._send(batch)
                except (RedisError, OSError, TimeoutError) as error:
                    if backoff == _BACKOFF_S[0]:
                        log.warning("prediction log: Redis does not take entries (%s); buffering up to %d", error, self._capacity)
                    await asyncio.sleep(backoff)
                    backoff = min(2 * backoff, most)
                    continue
                if backoff != _BACKOFF_S[0]:
                    log.warning("prediction log: Redis takes entries again; %d dropped so far", self.dropped)
                backoff = _BACKOFF_S[0]
                for _ in batch:
                    self._bytes -= len(self._buffer.popleft())
                if self._spool is not None:
                    self._spool.confirm(len(batch))
                self.written += len(batch)
            if self._closing:
                return

    async def _take_over(self, spool: Spool) -> None:
        """Send what replicas that died had answered; before long, and again and again: another may die. And see to our own files."""
        while True:
            spool.mend()
            with contextlib.suppress(RedisError, OSError, TimeoutError), spool.orphan() as left:
                if left is not None:
                    whole = [entry for entry in left if _is_prediction(entry)]
                    for i in range(0, len(whole), BATCH):
                        await self._send(whole[i : i + BATCH])
                    if whole:
                        log.warning("prediction log: %d predictions of a replica that died are logged", len(whole))
                    continue
            await asyncio.sleep(_ORPHANS_S)

    async def _send(self, batch: Sequence[bytes]) -> None:
        for reply in await self._client.ask([(*self._command, entry) for entry in batch], self._timeout_s):
            if isinstance(reply, hiredis.ReplyError):
                raise OSError(str(reply))


def _is_prediction(entry: bytes) -> bool:
    try:
        files.parse(entry, Prediction)
    except ValueError:
        return False
    return True
