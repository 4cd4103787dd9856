"""What a version's windows are compared with: its contract's reference, with the detectors fitted on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.records import contract, release
from feature_repo.records.verdict import Kind
from infra.timestamps import microseconds
from serving.inference.scorer import Scorer, ScorerError
from serving.monitoring.detectors.base import DriftDetector, OutlierDetector
from serving.monitoring.detectors.table import detectors, label_detector
from serving.monitoring.hours import HOUR_US, Matrix, Moments
from serving.monitoring.triage.calendar import PLAIN, Calendar
from serving.monitoring.triage.case import Model
from serving.monitoring.triage.lineage import Lineage
from serving.monitoring.triage.pool import Pool
from serving.monitoring.triage.truth import Expected
from streaming.profiles.lookup import Usual

Kept = TypeVar("Kept")
REFERENCE_ROWS = 30_000
"""More reference rows than this are sampled down (seed fixed): the tests gain nothing, every verdict pays."""
CODES = 64
"""An integer input of at most so many different values in the reference is taken for a code: an unknown one is an unseen category."""
SCORE = "score"


class ReferenceError(RuntimeError):
    """A version's reference cannot be used; the message says why and what to do."""


class Fitted:
    """Detectors and triage, fitted on rows that nothing is wrong with.

    Args:
        rows: inputs and the score, float64 [n, F + 1]; NaN is null.
        names: of the F inputs.
        views: where each input comes from.
        moments: int64 [n] by the local clock, ascending; None: verdicts are not calibrated, and triage has nothing to measure odds on.
        labels: truths, float64 [n], NaN where unknown; None: there are none.
        whole: inputs that are whole numbers, bool [F]: those of few different values are taken for codes.
        held_out: rows that the model was not fitted on, bool [n]; None: it is not known.
    """

    # wide: what a reference is
    def __init__(
        self,
        rows: Matrix,
        names: Sequence[str],
        views: Sequence[str],
        moments: Moments | None,
        labels: Matrix | None,
        kind: Kind,
        whole: NDArray[np.bool_] | None = None,
        held_out: NDArray[np.bool_] | None = None,
    ) -> None:
        self.rows, self.names, self.views = rows, [*names, SCORE], list(views)
        self.moments, self.labels, self._held_out = moments, labels, held_out
        few = np.array([len(np.unique(column[~np.isnan(column)])) <= CODES for column in rows.T])
        self.codes = few & np.append(np.zeros(len(names), dtype=bool) if whole is None else whole, False)
        self.drift: DriftDetector
        self.outliers: OutlierDetector
        self.drift, self.outliers = detectors(kind)
        self.drift.fit(rows, self.names, moments, self.codes, views=[*self.views, ""])
        self.outliers.fit(rows[:, :-1])
        self._expected: dict[int, Expected] = {}
        self._lineages: dict[int, Lineage] = {}

    @property
    def scorer(self) -> Model | None:
        """The model; None where there is none (then inputs are not ranked by their effect on the scores)."""
        return None

    @cached_property
    def truths(self) -> DriftDetector | None:
        """For the base rate; None where the reference has no labels or no moments."""
        return label_detector(self.labels, self.moments) if self.labels is not None and self.moments is not None else None

    def expected(self, moments: Moments) -> Expected | None:
        """What truths to expect at a score in windows as long as this one; None as for `truths`. `moments`: int64 [m]."""
        if self.labels is None or self.moments is None or self.drift.calibration is None:
            return None
        length = self.drift.calibration.length(int(moments.max() - moments.min()))
        if length not in self._expected:
            self._expected[length] = Expected(self.rows[:, -1], self.labels, self.moments, length, self._held_out)
        return self._expected[length]

    def lineage(self, moments: Moments, sources: Mapping[str, Sequence[str]]) -> Lineage | None:
        """The odds of faults in windows as long as this one: measured when they are first asked for (seconds), then remembered.

        Args:
            moments: int64 [m], by the local clock.
            sources: by view, what it is made of.
        """
        calibration = self.drift.calibration
        if calibration is None or self.moments is None:
            return None
        span = int(moments.max() - moments.min())
        # windows of like lengths share what was measured: to the next power of 1.5 of an hour
        length = calibration.length(round(HOUR_US * 1.5 ** round(np.log(max(span, HOUR_US) / HOUR_US) / np.log(1.5))))
        if length not in self._lineages:
            labels = self.labels if self.labels is not None else np.full(len(self.rows), np.nan)
            clocked = calibration.relations.clocked[:-1]
            pool = Pool(self.rows[:, :-1], self.moments, labels, self.views, self.codes[:-1], sources, clocked)
            score = self.scorer.score if self.scorer is not None else None
            null = calibration.null(length)
            self._lineages[length] = Lineage(pool, calibration.relations, null, length, score, self.expected(moments))
        return self._lineages[length]


class Reference(Fitted):
    """The detectors of one model version, fitted on its contract's reference: the inputs by name, `score`, and a column of moments (any
    timestamp); without moments, verdicts are not calibrated.

    Args:
        calendar: by whose clock the hours of the week are.

    Raises:
        ContractError: the contract's folder does not verify, or is not the one that was released.
        ReferenceError: its reference is missing, cannot be read, or lacks columns.
    """

    def __init__(self, root: Path, model: str, version: int, kind: Kind, calendar: Calendar = PLAIN) -> None:
        self.contract = release.verified(root, model, version)
        self.folder = folder = root / model / str(version)
        path = folder / contract.REFERENCE
        if not path.is_file():
            raise ReferenceError(f"{folder} has no {contract.REFERENCE}: train and register the model again")
        names = [*self.contract.names, SCORE]
        schema = _readable(path, pq.read_schema)
        lacking = sorted(set(names) - set(schema.names))
        if lacking:
            raise ReferenceError(f"{path} lacks the columns {', '.join(lacking)}: train and register the model again")
        times = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.name not in names]
        truth = [self.contract.label] if self.contract.label in schema.names and self.contract.label not in names else []
        table = _readable(path, lambda one: pq.read_table(one, columns=[*names, *times[:1], *truth]))
        rows = np.column_stack([table[n].cast(pa.float64()).to_numpy() for n in names])
        chosen = np.arange(len(rows))
        if len(rows) > REFERENCE_ROWS:
            chosen = np.sort(np.random.default_rng(0).choice(len(rows), REFERENCE_ROWS, replace=False))
        moments: Moments | None = None
        self.usual: Usual | None = None
        """The time that the reference is of."""
        if times:
            moments = table[times[0]].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()[chosen]
            chosen = chosen[np.argsort(moments, kind="stable")]
            moments = np.sort(moments, kind="stable")
            self.usual = Usual(int(moments[0]), int(moments[-1])) if len(moments) else None
        super().__init__(
            rows[chosen],
            self.contract.names,
            [i.source.split(":")[0] for i in self.contract.inputs],
            None if moments is None else calendar.local(moments),
            table[truth[0]].cast(pa.float64()).to_numpy()[chosen] if truth else None,
            kind,
            np.array([i.dtype in ("int64", "int32") for i in self.contract.inputs]),
            self._validated(moments),
        )

    def _validated(self, moments: Moments | None) -> NDArray[np.bool_] | None:
        if moments is None or "valid" not in self.contract.split:
            return None
        first, last = (_midnight(day) for day in self.contract.split["valid"])
        return np.asarray((moments >= first) & (moments < last))

    @cached_property
    def scorer(self) -> Scorer | None:
        """The version's model; None where it cannot be loaded here (then inputs are not ranked by their effect on the scores)."""
        try:
            return Scorer(self.folder / contract.MODEL, len(self.contract.inputs))
        except ScorerError:
            return None


def _midnight(day: str) -> int:
    """Microseconds since the epoch."""
    return microseconds(datetime.fromisoformat(day).replace(tzinfo=UTC))


def _readable(path: Path, read: Callable[[Path], Kept]) -> Kept:
    """
    Raises:
        ReferenceError: it is no Parquet file.
    """
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise ReferenceError(f"{path} cannot be read ({' '.join(str(error).split())}): train and register the model again") from None
