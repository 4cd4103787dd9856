"""Fit a model: the training set as matrices, split by time, LightGBM with early stopping, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.contract import Input
from feature_repo.use_case import ModelSpec, Span

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

    from training.training_set import TrainingSet

Progress = Callable[[int, int, float], None]
"""Told the rounds done, the most there will be, and the validation loss."""
SEED, THREADS = 7, 2  # the number of threads is part of what makes two fits the same


class FitError(ValueError):
    """The training set cannot be fitted: a split is empty or has one class only."""


@dataclass(frozen=True)
class Part:
    """One split: float64 `[n, inputs]`, labels 0/1 `[n]`, and the rows of the training set they are."""

    matrix: NDArray[np.float64]
    label: NDArray[np.float64]
    table: pa.Table


@dataclass(frozen=True)
class Fitted:
    booster: lightgbm.Booster
    parts: Mapping[str, Part]

    def score(self, part: Part) -> NDArray[np.float64]:
        return np.asarray(self.booster.predict(part.matrix, num_threads=THREADS))


def matrix(table: pa.Table, inputs: list[Input]) -> NDArray[np.float64]:
    """The model's matrix `[n, inputs]`, columns in the contract's order, NaN for null, defaults where the null policy has one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    out = np.empty((table.num_rows, len(inputs)))
    for i, one in enumerate(inputs):
        default = one.null.value if one.null.action == "default" else np.nan
        out[:, i] = pc.fill_null(table[one.name].cast(pa.float64()), np.nan).to_numpy()
        if one.null.action == "default":
            out[np.isnan(out[:, i]), i] = default
    return out


def _within(table: pa.Table, column: str, span: Span) -> Any:
    import pyarrow as pa

    us = table[column].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    first, last = (round(b.timestamp() * 1e6) for b in span.bounds())
    return (us >= first) & (us < last)


def split(spec: ModelSpec, training_set: TrainingSet) -> dict[str, Part]:
    """The examples of each split that have a label. Of the training split, only those whose label was known by its end.

    Raises:
        FitError: a split has no examples, or of one class only.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(training_set.path)
    table = table.filter(pc.is_valid(table[spec.spine.label]))
    parts: dict[str, Part] = {}
    for name, span in (("train", spec.split.train), ("valid", spec.split.valid), ("test", spec.split.test)):
        if span is None:
            continue
        keep = _within(table, spec.spine.timestamp, span)
        if name == "train":
            known = table[spec.spine.label_timestamp].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
            keep &= pc.fill_null(known, 2**62).to_numpy() < round(span.bounds()[1].timestamp() * 1e6)
        rows = table.filter(pa.array(keep))
        label = rows[spec.spine.label].cast(pa.float64()).to_numpy()
        if len(np.unique(label)) < 2:
            raise FitError(
                f"model {spec.name!r}: the {name} split ({span.start} to {span.end}) has {len(label)} examples, not of both classes"
            )
        parts[name] = Part(matrix(rows, training_set.inputs), label, rows)
    return parts


def fit(spec: ModelSpec, training_set: TrainingSet, progress: Progress | None = None) -> Fitted:
    """Fit LightGBM on the training split, stopped early by the validation split's log loss.

    Raises:
        FitError: a split cannot be used.
    """
    import lightgbm

    parts = split(spec, training_set)
    names = [i.name for i in training_set.inputs]
    parameters = {
        "verbosity": -1,
        **spec.parameters,
        "objective": "binary",
        "metric": "binary_logloss",
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": THREADS,
        "seed": SEED,
    }
    train = lightgbm.Dataset(parts["train"].matrix, parts["train"].label, feature_name=names, free_raw_data=True)
    valid = lightgbm.Dataset(parts["valid"].matrix, parts["valid"].label, reference=train)
    callbacks: list[Any] = [lightgbm.early_stopping(spec.early_stopping, verbose=False)]
    if progress is not None:
        told = progress

        def tell(env: Any) -> None:
            told(env.iteration + 1, env.end_iteration, float(env.evaluation_result_list[0][2]))

        callbacks.append(tell)
    booster = lightgbm.train(parameters, train, spec.rounds, valid_sets=[valid], callbacks=callbacks)
    return Fitted(booster, parts)
