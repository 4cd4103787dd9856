"""Windows whose past the store has lost: the stream fills them with live events only, and they would pass for whole.

A view with an offline table and no backfill that the store knows of (`streaming.online.unfilled.unfilled_views`) has no windows to serve: they count as
missing until it is backfilled. That is looked at beside the requests, once a second; no request asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import RedisError

from streaming.online.store import OnlineStoreError, connect
from streaming.online.unfilled import unfilled_views

if TYPE_CHECKING:
    from streaming.schema.feature_view import View

EVERY_S = 1.0
log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads windows that a stream keeps live: see `serving.features.reader.OnlineReader`."""

    windows: list[View]

    def lose(self, names: Collection[str]) -> None: ...


class LostWindows:
    """
    Args:
        redis_url: of the online store.
        root: of the offline tables.
        readers: those that read now.

    Attributes:
        names: views whose windows are lost.
    """

    def __init__(self, redis_url: str, root: Path, readers: Callable[[], Iterable[Reader]]) -> None:
        self._url, self._root, self._readers = redis_url, root, readers
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self.names: list[str] = []

    @property
    def trouble(self) -> str:
        """What is lost, in one line; empty: nothing."""
        if not self.names:
            return ""
        lost = ", ".join(self.names)
        return f"no backfill of {lost} is in the store, or it has lost it: their windows count as missing; run `headrace backfill`"

    async def start(self) -> None:
        """Look, and then again and again."""
        await self.look()
        self._task = asyncio.create_task(self._run(), name="lost-windows")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    async def look(self, *new: Reader) -> None:
        """Tell every reader what is lost, and those that are to read from now on. Where Redis does not answer, what was known before holds."""
        readers = [*new, *self._readers()]
        views = list({view.name: view for reader in readers for view in reader.windows}.values())
        try:
            found = await asyncio.to_thread(self._unfilled, views) if views else []
        except (OnlineStoreError, RedisError, OSError):
            found = self.names
        if found != self.names:
            self.names = found
            log.log(logging.ERROR if found else logging.INFO, "%s", self.trouble or "no view's windows are lost any more")
        for reader in readers:
            reader.lose(found)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except Exception:  # whatever a file system does: it is looked at again
                log.exception("could not look for lost windows")

    def _unfilled(self, views: list[View]) -> list[str]:
        if self._client is None:
            self._client = connect(self._url)
        return unfilled_views(self._client, views, self._root)
