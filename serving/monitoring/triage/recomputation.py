"""Recomputation is proof: some of what was served, computed again from the offline store, to the bit.

Equal: the pipe between source and model did its work, and what looks odd is in the source or in the world. Not equal: serving or
materialization is at fault, and the cause has a name (`streaming.skew.causes`). What the offline store does not hold yet cannot be
compared and is left out: it proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract
from feature_repo.records.prediction import Prediction, logged
from feature_repo.records.redis_keys import prediction_log_key
from infra.cause import cause_of
from serving.monitoring.hours import Matrix

if TYPE_CHECKING:
    import redis

    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings

SAMPLE = 300
"""Predictions that are computed again, spread over the window."""
FEWEST = 30
REST = 20.0
"""In the long run a recomputation is followed by so many times its duration: it may not take more than a twentieth of the watch's time."""
BURST = 30.0
"""Seconds that may be taken at once: verdicts come together after a start, and where a replay brings hours in a moment."""


class Allowance:
    """How much of the watch's time a guest may take.

    Args:
        rest: as `REST`; 0: all of it.
    """

    def __init__(self, rest: float = REST) -> None:
        self.rest, self._left, self._at = rest, BURST, time.monotonic()

    @property
    def open(self) -> bool:
        now = time.monotonic()
        if self.rest > 0:
            self._left, self._at = min(BURST, self._left + (now - self._at) / self.rest), now
        return self.rest == 0 or self._left > 0

    def spend(self, seconds: float) -> None:
        self._left -= seconds


@dataclass(frozen=True)
class Compared:
    """What was found of one view: cells compared, those that are wrong or late, the commonest cause, a few cells as text, and those that
    are wrong."""

    view: str
    cells: int
    different: int
    cause: str
    rows: list[str] = field(default_factory=list)
    wrong: int = 0

    @property
    def share(self) -> float:
        return self.different / self.cells if self.cells else 0.0


@dataclass(frozen=True)
class Recomputed:
    """
    Attributes:
        predictions: how many were compared; 0: none could be, and `trouble` says why.
        places: their places in the window, int64 [k].
        values: what everything known at each moment gives, float64 [k, F]; as served where nothing is recomputed.
    """

    predictions: int
    views: list[Compared] = field(default_factory=list)
    trouble: str = ""
    places: NDArray[np.int64] | None = None
    values: Matrix | None = None


class Recomputer:
    """Of the predictions of one model.

    Args:
        client: where the log is.
        rest: as `REST`.
    """

    def __init__(self, client: redis.Redis, settings: Settings, project: str, model: str, rest: float = REST) -> None:
        self.client, self.settings, self.project, self.model = client, settings, project, model
        self._allowance = Allowance(rest)
        self._case: UseCase | None = None

    def run(self, contract: Contract, entries: Sequence[str], matrix: Matrix) -> Recomputed:
        """Compare a sample of a window.

        Args:
            entries: stream ids of the window's rows.
            matrix: the inputs as the model got them, float64 [m, F].
        """
        if not self._allowance.open:
            return Recomputed(0, trouble="not now: the last recomputation was a short while ago")
        began = time.monotonic()
        try:
            places = np.unique(np.linspace(0, len(entries) - 1, min(SAMPLE, len(entries))).astype(np.int64))
            return self.compare(contract, self._read([entries[i] for i in places], places), matrix)
        except Exception as error:  # a guest in the watch's process: whatever it is, the verdict is due
            return Recomputed(0, trouble=f"cannot be recomputed: {cause_of(error)}")
        finally:
            self._allowance.spend(time.monotonic() - began)

    def _read(self, entries: Sequence[str], places: NDArray[np.int64]) -> list[tuple[int, Prediction]]:
        with self.client.pipeline(transaction=False) as pipe:
            for identity in entries:
                pipe.xrange(prediction_log_key(self.project), identity, identity)
            found: list[Any] = pipe.execute()
        read = []
        for place, entry in zip(places.tolist(), found, strict=True):
            if entry:
                read.append((int(place), logged(entry[0][1], Prediction)))
        return read

    @property
    def case(self) -> UseCase:
        if self._case is None:
            from feature_repo.spec.use_case import UseCase

            self._case = UseCase(self.settings.repo)
        return self._case

    def compare(self, contract: Contract, read: Sequence[tuple[int, Prediction]], matrix: Matrix) -> Recomputed:
        """
        Args:
            read: predictions with their places in the window.

        Raises:
            SkewError, JoinError, DefinitionError: they are not comparable with what the offline store holds.
        """
        return compare(self.case, self.settings, contract, read, matrix)


def compare(case: UseCase, settings: Settings, contract: Contract, read: Sequence[tuple[int, Prediction]], matrix: Matrix) -> Recomputed:
    """As `Recomputer.compare`."""
    from streaming.skew.proof import prove

    upto = _known_upto(case, settings, contract)
    held = [(n, p) for n, p in read if all(m.known_us is None or m.known_us <= upto.get(view, -1) for view, m in p.marks.items())]
    if len(held) < FEWEST:
        return Recomputed(0, trouble="the offline store does not reach to this window yet")

    def no_spark() -> Any:
        raise RuntimeError("the tables are too large for this process (HEADRACE_JOIN_IN_PROCESS_ROWS)")

    by_id = {p.id: n for n, p in held}
    result = prove(no_spark, case, settings, contract, [p for _, p in held], keep=True)
    kept = [p for p in result.log if p.id in by_id]
    places = np.array([by_id[p.id] for p in kept], dtype=np.int64)
    values = matrix[places][:, : len(contract.inputs)].copy()
    place = {i.source: n for n, i in enumerate(contract.inputs)}
    for reference, column in result.now.items():
        values[:, place[reference]] = column
    values = contract.model_inputs(values)
    views = []
    for view in result.views:
        different = view.wrong + view.late
        cause = view.causes.most_common(1)[0][0] if view.causes else ""
        rows = [
            f"{e.prediction}: {e.feature} was served as {e.served}, recomputed {e.recomputed} ({e.cause})"
            for e in result.examples
            if e.feature.startswith(f"{view.view}:")
        ]
        views.append(Compared(view.view, view.cells, different, cause, rows[:3], view.wrong))
    return Recomputed(len(kept), views, "", places, values)


def _known_upto(case: UseCase, settings: Settings, contract: Contract) -> dict[str, int]:
    """By alias of a view, up to when its offline table knows anything, microseconds."""
    from streaming.offline.footers import extent
    from streaming.offline.parquet import TableError
    from streaming.schema.feature_view import projections

    found = {}
    for projection in projections(case.store, contract.feature_service):
        try:
            newest = extent(projection.view, settings.offline_root, None, None).known_us
        except TableError:
            continue
        if newest is not None:
            found[projection.alias] = newest
    return found
