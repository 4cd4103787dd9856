"""On-demand features of a request: what was read and what was sent, as the declared values that `streaming.join.on_demand` runs on.

The plan is compiled once: where each stored feature lies in what the reader gives, and how it becomes the type that is declared of it.

A function is a user's: it may sleep, or compute for seconds. One that has shown to be quick runs on the event loop, where a call costs
nothing but itself; any other runs in a thread, with the request's deadline, and holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.features.decoder import STALE
from serving.features.threads import Threads
from serving.protocol.problem import Late
from streaming.join.on_demand import OnDemandError, Transformation, serveable, transformations
from streaming.schema.declared import Convert, converter, from_floats
from streaming.schema.feature_view import NUMERIC, Projection

if TYPE_CHECKING:
    from serving.features.reader import FeatureRows

__all__ = ["OnDemand", "OnDemandError"]

SLOW_S = 0.02
"""A call that takes longer is slow: so long may nobody hold the event loop."""
OFF_LOOP_ROWS = 256
"""Calls with more rows run in a thread, and say nothing of those with few."""
PROVEN, REPROVEN = 10, 1000
"""So many calls in a row must have been quick before a function comes to the event loop; and before it comes there again."""
LATE_S = 0.05
"""An answer that comes so much later than its deadline is none."""
THREADS = 4
"""For the functions of one feature service."""
log = logging.getLogger(__name__)


@dataclass
class _Pace:
    """What was seen of a function.

    Attributes:
        owed: quick calls that it owes before it may run on the event loop.
        proof: what it owes after a slow one.
        told: whether the log says that it is slow.
    """

    owed: int = PROVEN
    proof: int = PROVEN
    told: bool = False


class _Call:
    """One call of a function, and the seconds that it took; 0 where it has not ended."""

    __slots__ = ("_columns", "began", "rows", "took_s", "view")

    def __init__(self, view: Transformation, columns: dict[str, list[Any]], rows: int) -> None:
        self.view, self._columns, self.rows, self.took_s, self.began = view, columns, rows, 0.0, False

    def __call__(self) -> dict[str, list[Any]]:
        self.began, began = True, time.perf_counter()
        try:
            return self.view.run(self._columns, self.rows)
        finally:
            self.took_s = time.perf_counter() - began

    def named(self, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """`view:feature` → value per row, of what the function gave."""
        return {f"{self.view.alias}:{name}": column for name, column in values.items()}


class OnDemand:
    """The compiled transformations of one feature service.

    Args:
        views: see `compile`.
        columns: `view:feature` of the columns of `FeatureRows.values`.
        counts: by view and outcome, calls of slow functions (`Metrics.on_demand`).

    Attributes:
        sources: `view:feature` of every stored feature a transformation reads.
        fields: request fields and join keys the transformations read; `types` has their types.
        features: `view:feature` of what they give; `dtypes` has the types of these.

    Raises:
        OnDemandError: a transformation is not written in Python mode.
    """

    def __init__(self, views: Sequence[Transformation], columns: Sequence[str], counts: Counter[tuple[str, str]] | None = None) -> None:
        serveable(views)
        self._views = views
        self._counts = Counter() if counts is None else counts
        self._paced = [(view, _Pace()) for view in views]
        self._proven = not views  # every function has shown to be quick
        self._threads = Threads(THREADS, "on-demand")
        dtypes = {source.reference: source.dtype for view in views for source in view.sources}
        self.sources = sorted(dtypes)
        self.types = {field: dtype for view in views for field, dtype in (view.keys | view.request).items()}
        self.fields = sorted(self.types)
        self.dtypes = {f"{view.alias}:{name}": view.outputs[name] for view in views for name in view.wanted}
        self.features = list(self.dtypes)
        self._request: list[tuple[str, Convert]] = [(field, converter(self.types[field])) for field in self.fields]
        place = {feature: i for i, feature in enumerate(columns)}
        self._stored = [(s, place[s], dtypes[s], converter(dtypes[s])) for s in self.sources if s in place]

    @classmethod
    def compile(
        cls,
        store: Any,
        service: str,
        joined: Sequence[Projection],
        columns: Sequence[str],
        counts: Counter[tuple[str, str]] | None = None,
    ) -> OnDemand:
        """Read the transformations that belong to a feature service.

        Args:
            store: a `feast.FeatureStore`.
            service: name of the feature service.
            joined: its views (`streaming.schema.feature_view.projections`).
            columns, counts: see the class.

        Raises:
            DefinitionError: the service is not applied.
            OnDemandError: a transformation cannot be served.
        """
        return cls(transformations(store, service, joined), columns, counts)

    def run(self, request: Mapping[str, Sequence[Any]], rows: FeatureRows) -> dict[str, list[Any]]:
        """Compute every on-demand feature, however long it takes.

        Args:
            request: each of `fields` → value per row; timestamps as aware datetimes; None is null.
            rows: what was read; what is stale there is null.

        Returns:
            `view:feature` → value per row, as it is declared; None is null.

        Raises:
            OnDemandError: a function raised, gave another number of values, or one that is not as declared.
        """
        found: dict[str, list[Any]] = {}
        for call, pace in self._calls(request, rows):
            found.update(call.named(self._here(call, pace)))
        return found

    def at_once(self, rows: int) -> bool:
        """Whether so many rows may be computed on the event loop, by `run`."""
        return self._proven and rows <= OFF_LOOP_ROWS

    async def answer(self, request: Mapping[str, Sequence[Any]], rows: FeatureRows, left_s: float) -> dict[str, list[Any]]:
        """As `run`, for a request that waits, and for no longer than it waits: in threads, but for what is quick.

        Args:
            left_s: seconds until its deadline.

        Raises:
            OnDemandError: as `run`.
            Late: a function was not ready by then.
        """
        found: dict[str, list[Any]] = {}
        until = time.perf_counter() + left_s
        for call, pace in self._calls(request, rows):
            apart = pace.owed or call.rows > OFF_LOOP_ROWS
            found.update(call.named(await self._in_thread(call, pace, until) if apart else self._here(call, pace)))
        return found

    def _calls(self, request: Mapping[str, Sequence[Any]], rows: FeatureRows) -> list[tuple[_Call, _Pace]]:
        if not self._views:
            return []
        given = {field: _declared(field, convert, request[field]) for field, convert in self._request}
        stored = {feature: _column(rows, place, feature, dtype, convert) for feature, place, dtype, convert in self._stored}
        return [(_Call(view, view.arguments(given, stored), len(rows.extras)), pace) for view, pace in self._paced]

    def _here(self, call: _Call, pace: _Pace) -> dict[str, list[Any]]:
        try:
            return call()
        finally:
            if call.took_s > SLOW_S and call.rows <= OFF_LOOP_ROWS:
                self._held(call.view, pace, call.took_s)

    async def _in_thread(self, call: _Call, pace: _Pace, until: float) -> dict[str, list[Any]]:
        view, began = call.view, time.perf_counter()
        if began >= until:
            raise Late(f"Nothing was left of the request's deadline for {view.where}; ask again, with a longer one.")
        outcome = "refused"
        try:
            submitted = self._threads.submit(call, view.where)
            values: dict[str, list[Any]] = await asyncio.wait_for(asyncio.wrap_future(submitted), until - began)
            if time.perf_counter() > until + LATE_S:  # it kept the interpreter to itself, and nobody could be told
                raise TimeoutError
            outcome = "answered"
            return values
        except TimeoutError:
            outcome = "late" if call.began else "waited"
            raise Late(
                f"{view.where[0].upper()}{view.where[1:]} was not ready within the deadline: {self._why(call)}; "
                "ask again, with a longer deadline."
            ) from None
        finally:
            took_s = call.took_s or (time.perf_counter() - began if call.began else 0.0)
            slow, few = took_s > SLOW_S, call.rows <= OFF_LOOP_ROWS
            if slow and few:
                self._slow(view, pace, took_s)
            elif few and outcome not in ("late", "waited"):
                pace.owed = max(0, pace.owed - 1)
                self._proven = not any(one.owed for _, one in self._paced)
            if slow or outcome in ("late", "waited"):
                self._counts[view.name, outcome] += 1

    @property
    def trouble(self) -> str:
        """That functions do not return, and which, in one line; empty: they do."""
        stuck = self._threads.stuck
        if stuck.total() < THREADS:
            return ""
        named = ", ".join(f"{count} of {where}" for where, count in sorted(stuck.items()))
        return f"calls of on-demand functions do not return: {named}" + (
            "; no thread is left for the others" if self._threads.exhausted else ""
        )

    def _why(self, call: _Call) -> str:
        if call.began:
            return "its function is slow"
        stuck = self._threads.stuck
        return f"calls of {', '.join(sorted(stuck))} do not return" if stuck else "too many wait for a thread"

    def _held(self, view: Transformation, pace: _Pace, took_s: float) -> None:
        """A call on the event loop was slow."""
        pace.proof = REPROVEN
        self._slow(view, pace, took_s)
        self._counts[view.name, "held"] += 1

    def _slow(self, view: Transformation, pace: _Pace, took_s: float) -> None:
        """What was quick does not count any more."""
        pace.owed, self._proven = pace.proof, False
        if not pace.told:
            pace.told = True
            log.warning(
                "%s took %.0f ms, and more than %.0f ms is too long for the event loop: its function runs in a thread until %d calls in a "
                "row were quick; a request that it keeps beyond its deadline is told 504",
                view.where, took_s * 1e3, SLOW_S * 1e3, pace.proof,
            )  # fmt: skip

    def close(self) -> None:
        """Let the threads go."""
        self._threads.close()


def _declared(field: str, convert: Convert, values: Sequence[Any]) -> list[Any]:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(convert(value))
        except ValueError as error:
            raise OnDemandError(f"{field!r} {error}", row) from None
    return found


def _column(rows: FeatureRows, place: int, feature: str, dtype: str, convert: Convert) -> list[Any]:
    """A stored feature's values as they are declared: numbers from the matrix, what a float cannot carry from beside it."""
    if dtype in NUMERIC:
        values = from_floats(rows.values[:, place], dtype)
        values = [convert(extra[feature]) if feature in extra else v for v, extra in zip(values, rows.extras, strict=True)]
    else:
        values = [convert(extra.get(feature)) for extra in rows.extras]
    # as for the model, stale is null; what is missing is null already, and the windows of an entity without events are empty
    stale = rows.statuses[:, place] == STALE
    return [None if old else v for v, old in zip(values, stale.tolist(), strict=True)] if stale.any() else values
