"""What a version's windows are compared with: its contract's reference, with the detectors fitted on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records import contract, release
from feature_repo.records.verdict import Kind
from serving.inference.scorer import Scorer, ScorerError
from serving.monitoring.detectors.base import DriftDetector, OutlierDetector
from serving.monitoring.detectors.table import detectors, label_detector
from serving.monitoring.hours import Matrix, Moments

Kept = TypeVar("Kept")
REFERENCE_ROWS = 30_000
"""More reference rows than this are sampled down (seed fixed): the tests gain nothing, every verdict pays."""
CODES = 64
"""An integer input of at most so many different values in the reference is taken for a code: an unknown one is an unseen category."""
SCORE = "score"


class ReferenceError(RuntimeError):
    """A version's reference cannot be used; the message says why and what to do."""


class Reference:
    """The detectors of one model version, fitted on its contract's reference: the inputs by name, `score`, and a column of moments (any
    timestamp); without moments, verdicts are not calibrated.

    Raises:
        ContractError: the contract's folder does not verify, or is not the one that was released.
        ReferenceError: its reference is missing, cannot be read, or lacks columns.
    """

    def __init__(self, root: Path, model: str, version: int, kind: Kind) -> None:
        self.contract = release.verified(root, model, version)
        self.folder = folder = root / model / str(version)
        path = folder / contract.REFERENCE
        if not path.is_file():
            raise ReferenceError(f"{folder} has no {contract.REFERENCE}: train and register the model again")
        self.names = [*self.contract.names, SCORE]
        schema = _readable(path, pq.read_schema)
        lacking = sorted(set(self.names) - set(schema.names))
        if lacking:
            raise ReferenceError(f"{path} lacks the columns {', '.join(lacking)}: train and register the model again")
        times = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.name not in self.names]
        truth = [self.contract.label] if self.contract.label in schema.names and self.contract.label not in self.names else []
        table = _readable(path, lambda one: pq.read_table(one, columns=[*self.names, *times[:1], *truth]))
        rows = np.column_stack([table[n].cast(pa.float64()).to_numpy() for n in self.names])
        chosen = np.arange(len(rows))
        if len(rows) > REFERENCE_ROWS:
            chosen = np.sort(np.random.default_rng(0).choice(len(rows), REFERENCE_ROWS, replace=False))
        self.moments: Moments | None = None
        if times:
            self.moments = table[times[0]].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()[chosen]
            chosen = chosen[np.argsort(self.moments, kind="stable")]
            self.moments = np.sort(self.moments, kind="stable")
        self.rows = rows[chosen]
        self.labels: Matrix | None = table[truth[0]].cast(pa.float64()).to_numpy()[chosen] if truth else None
        whole = np.array([i.dtype in ("int64", "int32") for i in self.contract.inputs] + [False])
        few = np.array([len(np.unique(column[~np.isnan(column)])) <= CODES for column in self.rows.T])
        self.drift: DriftDetector
        self.outliers: OutlierDetector
        self.drift, self.outliers = detectors(kind)
        self.views = [i.source.split(":")[0] for i in self.contract.inputs]
        self.drift.fit(self.rows, self.names, self.moments, whole & few, views=[*self.views, ""])
        self.outliers.fit(self.rows[:, :-1])

    @cached_property
    def truths(self) -> DriftDetector | None:
        """For the base rate; None where the reference has no labels or no moments."""
        return label_detector(self.labels, self.moments) if self.labels is not None and self.moments is not None else None

    @cached_property
    def scorer(self) -> Scorer | None:
        """The version's model; None where it cannot be loaded here (then inputs are not ranked by their effect on the scores)."""
        try:
            return Scorer(self.folder / contract.MODEL, len(self.contract.inputs))
        except ScorerError:
            return None


def _readable(path: Path, read: Callable[[Path], Kept]) -> Kept:
    """
    Raises:
        ReferenceError: it is no Parquet file.
    """
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise ReferenceError(f"{path} cannot be read ({' '.join(str(error).split())}): train and register the model again") from None
