"""The examples as matrices, split by time: what a version is fitted on, validated on and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Input, Policy
from feature_repo.spec.model import ModelSpec, Span
from infra.timestamps import microseconds

if TYPE_CHECKING:
    import pyarrow as pa

    from training.data.training_set import TrainingSet


class SplitError(ValueError):
    """The training set cannot be fitted: a split is empty or has one class only."""


@dataclass(frozen=True)
class Part:
    """One split: float64 `[n, inputs]`, labels 0/1 `[n]`, the rows of the training set they are, and how many were left out, their labels
    being known only after the split's end."""

    matrix: NDArray[np.float64]
    label: NDArray[np.float64]
    table: pa.Table
    late: int = 0


def matrix(table: pa.Table, inputs: list[Input]) -> NDArray[np.float64]:
    """The model's matrix `[n, inputs]`, columns in the contract's order, NaN for null, defaults where the null policy has one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    out = np.empty((table.num_rows, len(inputs)))
    for i, one in enumerate(inputs):
        out[:, i] = pc.fill_null(table[one.name].cast(pa.float64(), safe=False), np.nan).to_numpy()
    return Policy(inputs)(out)


def _within(table: pa.Table, column: str, span: Span) -> Any:
    import pyarrow as pa

    us = table[column].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    first, last = (microseconds(b) for b in span.bounds())
    return (us >= first) & (us < last)


def split(spec: ModelSpec, training_set: TrainingSet) -> dict[str, Part]:
    """The examples of each split that have a label. Of train and valid, only those whose label was known by the split's end.

    Raises:
        SplitError: a split has no examples, or of one class only.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from training.data.training_set import read

    table = read(training_set.path)
    table = table.filter(pc.is_valid(table[spec.spine.label]))
    parts: dict[str, Part] = {}
    for name, span in (("train", spec.split.train), ("valid", spec.split.valid), ("test", spec.split.test)):
        if span is None:
            continue
        keep = _within(table, spec.spine.timestamp, span)
        late = 0
        if name != "test":
            # valid ends the boosting and calibrates: with labels of the test's time, test would be no test
            known = table[spec.spine.label_timestamp].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
            by_then = pc.fill_null(known, 2**62).to_numpy() < microseconds(span.bounds()[1])
            late = int((keep & ~by_then).sum())
            keep &= by_then
        rows = table.filter(pa.array(keep))
        label = rows[spec.spine.label].cast(pa.float64()).to_numpy()
        if len(np.unique(label)) < 2:
            raise SplitError(
                f"model {spec.name!r}: the {name} split ({span.start} to {span.end}) has {len(label)} examples, not of both classes"
            )
        parts[name] = Part(matrix(rows, training_set.inputs), label, rows, late)
    return parts
