"""The reference: examples as the model saw them, spread over what it was trained and validated on. What the watch compares with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.spec.model import ModelSpec

if TYPE_CHECKING:
    from training.data.training_set import TrainingSet
    from training.modeling.fit import Fitted

ROWS = 30_000
"""Some hundred rows for each window of a week in a year: what the watch's calibration resamples."""
COLD = 0.05
"""The first part of the period that is left out: at the start of the data, windows have not filled and entities are unknown."""


def write_reference(path: Path, spec: ModelSpec, training_set: TrainingSet, fitted: Fitted, scores: Mapping[str, Any]) -> None:
    """Write `reference.parquet`: the moment, the label, the inputs as the model saw them (defaults filled in), the score; by moment.

    Every k-th example of the training and validation splits in order of time, so that it is always the same. One month could not say how
    much months differ; the scores of examples that were trained on are a little too sure, which is small beside that.

    Args:
        scores: float64 [n] of each split, by its name in `fitted.parts`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [(fitted.parts[name], np.asarray(scores[name])) for name in ("train", "valid")]
    stamps = [part.table[spec.spine.timestamp].cast(pa.timestamp("us", "UTC")) for part, _ in parts]
    moments = np.concatenate([stamp.cast(pa.int64()).to_numpy(zero_copy_only=False) for stamp in stamps])
    rows = chosen(moments)
    columns: dict[str, Any] = {spec.spine.timestamp: pa.array(moments[rows], pa.timestamp("us", "UTC"))}
    columns[spec.spine.label] = np.concatenate([part.label for part, _ in parts])[rows]
    matrix = np.concatenate([part.matrix for part, _ in parts])[rows]
    columns |= {i.name: matrix[:, n] for n, i in enumerate(training_set.inputs)}
    columns["score"] = np.concatenate([score for _, score in parts])[rows]
    pq.write_table(pa.table(columns), path, compression="zstd")


def chosen(moments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which examples the reference holds, int64 [<= ROWS], by moment. `moments`: int64 [n], microseconds since the epoch."""
    order = np.argsort(moments, kind="stable")
    first, last = moments[order[0]], moments[order[-1]]
    order = order[np.searchsorted(moments[order], first + int((last - first) * COLD)) :]
    return order[np.unique(np.linspace(0, len(order) - 1, min(ROWS, len(order))).astype(int))]
