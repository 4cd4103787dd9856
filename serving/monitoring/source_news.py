"""What the last look at the sources has found, in the watch's log: also while no window drifts, so that no verdict says it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from feature_repo.records.source_report import OddSource, read_source_report
from infra import files
from infra.settings import Settings
from streaming import clock

if TYPE_CHECKING:
    import redis

EVERY_S = 30.0


class SourceNews:
    """Each finding once, and once when it is over.

    Args:
        sources: gives the tables that the model is made of; None: they are not known.
        say: is told an event (`source`, `source over`) and its facts.
    """

    # wide: where it is read, where it is said
    def __init__(
        self, client: redis.Redis, settings: Settings, project: str, sources: Callable[[], Collection[str] | None], say: Callable[..., None]
    ) -> None:
        self.client, self.settings, self.project, self.sources, self.say = client, settings, project, sources, say
        self._told: dict[str, OddSource] = {}
        self._next = time.monotonic()

    def offer(self) -> None:
        """Look, if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        try:
            report = read_source_report(self.settings.state, self.project)
        except files.FileError as error:
            self.say("sources", problem=str(error))
            return
        if report is not None and report.is_ahead(clock.rehearsal_us(self.client, self.project)):
            return
        news = report.news(self.sources()) if report is not None and report.odd else {}
        for finding, one in news.items():
            if finding not in self._told:
                self.say("source", source=one.source, kind=one.kind, says=one.says, text=one.text, rows=one.rows)
        gone = self._told.keys() - news.keys()
        over = {finding for finding in gone if report is None or report.can_end(finding)}
        for finding in over:
            self.say("source over", finding=finding)
        self._told = {finding: one for finding, one in self._told.items() if finding not in over} | news
