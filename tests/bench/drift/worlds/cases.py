"""A case: a world, what happens in it, when it begins, and what triage should say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from feature_repo.records.verdict import Reason
from serving.monitoring.hours import HOUR_US
from tests.bench.drift.worlds.definitions import ASKED
from tests.bench.drift.worlds.pipe import Faults
from tests.bench.drift.worlds.world import CALM, LIVE_DAYS, Change, Knobs, World

Place = Literal["source", "stream", "store", "request", "process", "none"]
Answer = Reason | Literal["quiet"]
FAULT: Reason = "pipeline fault"
SKEW: Reason = "training/serving skew"
POPULATION: Reason = "population change"
CONCEPT: Reason = "concept change"
CALENDAR: Reason = "calendar"
QUIET: Answer = "quiet"
"""No drift is called, or nothing is said of it."""
LATE: frozenset[Answer] = frozenset({FAULT})
"""Also right of a stream that is behind or has stopped: whoever calls it a fault of that source sends the same person to the same place."""
HORIZON_DAYS = 15
REAL_DAYS = 21
"""How long a case is watched at least; a real change for longer: was its training held for too long?"""


@dataclass(frozen=True)
class Truth:
    """What really happened.

    Attributes:
        cause: what triage should say.
        of: sources and views that it should name first, any of them; empty: it is of none.
        also: other answers that are right, too (of the same source or view, where they name one).
    """

    cause: Answer
    of: frozenset[str] = frozenset()
    also: frozenset[Answer] = frozenset()


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        name: unique in its world.
        kind: what tables are by.
        place: where it was put in.
        full_days: after so many days everything is as it will be: the window that begins then is full of it.
        days: how long it is watched.
        luck: of the world's live weeks.
    """

    name: str
    world: str
    kind: str
    place: Place
    truth: Truth
    begins_us: int
    faults: Faults = field(default=Faults())
    knobs: Knobs = CALM
    full_days: float = 0.0
    days: float = HORIZON_DAYS
    luck: int = 0

    @property
    def real(self) -> bool:
        """Whether the world itself has changed for good, so that a new model is needed."""
        return self.truth.cause in (POPULATION, CONCEPT)


Made = Callable[..., Any]
"""One of `tests.bench.drift.worlds.faults`: everything but `begins_us` is bound by the caller's `lambda begins_us: …`."""


class Suite:
    """Collects the cases of one world; each method adds one.

    Args:
        begins_days: days of the world after which the cases begin; each begins a few hours after the one before it, so that not all begin
            at the same hour.
    """

    def __init__(self, world: World, begins_days: float = 105.0) -> None:
        self.world, self.begins_days = world, begins_days
        self.cases: list[Case] = []

    def source(self, kind: str, source: str, fault: Made, name: str = "") -> None:
        """The raw rows of a source are wrong. Right is: a fault of this source (or of a view of it)."""
        begins = self._next()
        truth = Truth(FAULT, self._of(source))
        self._add(name or f"{kind}, {source}", kind, "source", truth, begins, faults=Faults(source={source: fault(begins)}))

    def stream(self, kind: str, source: str, fault: Made, also: frozenset[Answer] = frozenset()) -> None:
        """The online store gets a source's events otherwise than they were. Right is: training/serving skew, of this source's views."""
        begins = self._next()
        truth = Truth(SKEW, self._of(source), also)
        self._add(f"{kind}, {source}", kind, "stream", truth, begins, faults=Faults(stream={source: fault(begins)}))

    def store(self, kind: str, view: str, fault: Made) -> None:
        """The online store gives a view otherwise than it was. Right is: training/serving skew, of this view."""
        begins = self._next()
        source = next(v.source for v in self.world.views if v.name == view)
        self._add(
            f"{kind}, {view}", kind, "store", Truth(SKEW, frozenset({view, source})), begins, faults=Faults(store={view: fault(begins)})
        )

    def scored(self, kind: str, fault: Made) -> None:
        """The model gets something else than what is logged. Right is: training/serving skew."""
        begins = self._next()
        self._add(kind, kind, "store", Truth(SKEW), begins, faults=Faults(scored=fault(begins)))

    def request(self, kind: str, field_name: str, fault: Made, of: frozenset[str] = frozenset()) -> None:
        """The caller sends something else than it means. Right is: a fault of the request.

        Args:
            of: further views that may be named: those that are keyed by the field.
        """
        begins = self._next()
        truth = Truth(FAULT, of | {ASKED, "request"})
        self._add(f"{kind}, {field_name}", kind, "request", truth, begins, faults=Faults(request=fault(begins)))

    # wide: one keyword for each thing that a change may have
    def process(
        self,
        kind: str,
        cause: Answer,
        *turns: tuple[str, float] | Change,
        also: frozenset[Answer] = frozenset(),
        at_days: float = 0.0,
        **how: float,
    ) -> None:
        """The process itself changes.

        Args:
            turns: knob and size, or changes of their own.
            at_days: days of the world after which it begins; 0: as the other cases.
            how: `ramp_days`, `every_days`, `days`, `keys` of `Change`.
        """
        begins = self.world.at(at_days) if at_days else self._next()
        changes = tuple(t if isinstance(t, Change) else Change(t[0], begins, t[1], **how) for t in turns)
        full = how.get("ramp_days", 0.0) + (self.world.label_days if cause == CONCEPT else 0.0)
        days = max(REAL_DAYS if cause in (POPULATION, CONCEPT) else HORIZON_DAYS, full + self.window_days + 2)
        truth = Truth(cause, frozenset(), also)
        name = f"{kind}: {', '.join(c.knob for c in changes)}" if changes else kind
        self._add(name, kind, "process", truth, begins, knobs=Knobs(changes), full_days=full, days=days)

    def nothing(self, kind: str, at_days: float, days: float = HORIZON_DAYS) -> None:
        """Nothing happens. Right is: quiet."""
        self._add(f"{kind}, from day {at_days:g}", kind, "none", Truth(QUIET), self.world.at(at_days), days=days)

    def quiet_weeks(self, luck: int) -> Case:
        """All live weeks with other luck, in which nothing happens: for false alarms. Not one of `cases`."""
        name = f"quiet weeks, luck {luck}"
        return Case(name, self.world.name, "quiet weeks", "none", Truth(QUIET), self.world.live_us, days=LIVE_DAYS, luck=luck)

    @property
    def window_days(self) -> float:
        return self.world.window / self.world.per_day

    def _of(self, source: str) -> frozenset[str]:
        return frozenset({source, *(v.name for v in self.world.views if v.source == source)})

    def _next(self) -> int:
        return self.world.at(self.begins_days) + (len(self.cases) * 5 % 72) * HOUR_US

    def _add(self, name: str, kind: str, place: Place, truth: Truth, begins_us: int, **more: Any) -> None:
        if any(case.name == name for case in self.cases):
            raise ValueError(f"two cases of {self.world.name} are called {name!r}")
        self.cases.append(Case(name, self.world.name, kind, place, truth, begins_us, **more))
