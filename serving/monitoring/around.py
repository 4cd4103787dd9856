"""What the watch knows beyond the window: the calendar of the use case, its sources, and how to compute a sample again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from infra.cause import cause_of
from serving.monitoring.triage.calendar import PLAIN, Calendar
from serving.monitoring.triage.recomputation import REST, Allowance, Recomputer
from serving.monitoring.triage.seen import Clues
from serving.monitoring.window import Window
from streaming.profiles.lookup import Looked

if TYPE_CHECKING:
    import redis

    from feature_repo.spec.model import ModelSpec
    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings

log = logging.getLogger("headrace.watch")


def calendar_of(spec: ModelSpec) -> Calendar:
    said = spec.calendar
    return Calendar(said.time_zone, said.country, said.subdivision, said.around)


def sources_of(case: UseCase, service: str) -> dict[str, tuple[str, ...]]:
    """By view of a feature service, the tables that it is made of."""
    from streaming.schema.feature_view import projections

    return {p.alias: (p.view.path,) for p in projections(case.store, service)}


class Around:
    """
    Args:
        project, model: whose predictions are watched.
        rest: as `recomputation.REST`.
    """

    def __init__(self, client: redis.Redis, settings: Settings, project: str, model: str, rest: float = REST) -> None:
        self.client, self.settings, self.project, self.model = client, settings, project, model
        self._allowance = Allowance(rest)
        self.recomputer = Recomputer(client, settings, project, model, rest)
        self._sources: dict[str, dict[str, tuple[str, ...]]] = {}

    @cached_property
    def case(self) -> UseCase | None:
        """None where the use case cannot be read here, or is another: then the watch goes by the window alone, and says so once."""
        from feature_repo.spec.use_case import UseCase

        try:
            found = UseCase(self.settings.repo)
            if found.project == self.project and self.model in found.models:
                return found
            problem = f"{self.settings.repo} has no model {self.model} of project {self.project}"
        except Exception as error:  # whatever a stranger's definitions raise
            problem = cause_of(error)
        log.warning("triage goes without the use case's sources and calendar: %s", problem)
        return None

    @cached_property
    def calendar(self) -> Calendar:
        if self.case is None:
            return PLAIN
        return calendar_of(self.case.model(self.model))

    def clues(self, window: Window) -> Clues:
        """For one window; nothing is read before it is asked for."""
        if self.case is None:
            return Clues()
        made = window.reference.contract
        return Clues(
            calendar=self.calendar,
            recompute=lambda: self.recomputer.run(made, [entry for entry, _ in window.entries], window.matrix()[:, :-1]),
            look=lambda first_us, last_us: self._look(window, first_us, last_us),
            sources=self.sources(made.feature_service),
        )

    def _look(self, window: Window, from_us: int, upto_us: int) -> Looked:
        """What the sources did; nothing where they cannot be read, or were read a short while ago."""
        if self.case is None or window.reference.usual is None or not self._allowance.open:
            return Looked([], frozenset())
        from streaming.profiles.live_rows import read_live
        from streaming.profiles.lookup import violations
        from streaming.schema.feature_view import projections

        began = time.monotonic()
        try:
            views = [p.view for p in projections(self.case.store, window.reference.contract.feature_service)]
            served = self._served(window, self.sources(window.reference.contract.feature_service))
            root, usual = self.settings.offline_root, window.reference.usual
            live = read_live(self.client, views, self.settings.clock_tolerance_s)
            return violations(views, root, from_us, upto_us, usual, self.case.expectations, served, live)
        except Exception as error:  # what others wrote there costs the sources' word, not the verdict
            log.warning("triage goes without the sources: %s", cause_of(error))
            return Looked([], frozenset())
        finally:
            self._allowance.spend(time.monotonic() - began)

    def _served(self, window: Window, sources: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """By table, what became known last of what the window was served of it."""
        found: dict[str, int] = {}
        for _, row in window.entries:
            for view, mark in row.marks.items():
                for path in sources.get(view, ()) if mark.known_us is not None else ():
                    found[path] = max(found.get(path, 0), mark.known_us or 0)
        return found

    def tables(self) -> frozenset[str] | None:
        """That the model is made of; None where the use case cannot be read."""
        if self.case is None:
            return None
        found = self.sources(self.case.model(self.model).feature_service)
        return frozenset(path for paths in found.values() for path in paths)

    def sources(self, service: str) -> dict[str, tuple[str, ...]]:
        """By view of a feature service, the tables that it is made of."""
        if service not in self._sources and self.case is not None:
            try:
                self._sources[service] = sources_of(self.case, service)
            except Exception as error:  # a registry that cannot be read costs the lineage, not the verdict
                log.warning("triage goes without the lineage of %s: %s", service, cause_of(error))
                self._sources[service] = {}
        return self._sources.get(service, {})
