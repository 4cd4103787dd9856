"""Fit a model: the training set as matrices, split by time, LightGBM with early stopping, calibrated, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.contract import Input, Policy
from feature_repo.use_case import ModelSpec, Span
from infra.timestamps import microseconds
from training import calibration

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
    """One split: float64 `[n, inputs]`, labels 0/1 `[n]`, the rows of the training set they are, and how many were left out, their labels
    being known only after the split's end."""

    matrix: NDArray[np.float64]
    label: NDArray[np.float64]
    table: pa.Table
    late: int = 0


@dataclass(frozen=True)
class Fitted:
    """`slope` and `intercept` are of the log odds, and are in the booster already."""

    booster: lightgbm.Booster
    parts: Mapping[str, Part]
    slope: float = 1.0
    intercept: float = 0.0

    def score(self, part: Part) -> NDArray[np.float64]:
        return np.asarray(self.booster.predict(part.matrix, num_threads=THREADS))


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
        FitError: a split has no examples, or of one class only.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from training.training_set import read

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
            raise FitError(
                f"model {spec.name!r}: the {name} split ({span.start} to {span.end}) has {len(label)} examples, not of both classes"
            )
        parts[name] = Part(matrix(rows, training_set.inputs), label, rows, late)
    return parts


def boost(spec: ModelSpec, parts: Mapping[str, Part], names: list[str], callbacks: Sequence[Any] = ()) -> lightgbm.Booster:
    """LightGBM on the training split, stopped early by the validation split's log loss; positives weighted in both, if the spec says so."""
    import lightgbm

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

    def weight(part: Part) -> NDArray[np.float64] | None:
        return None if spec.imbalance is None else np.where(part.label == 1, spec.imbalance.positive_weight, 1.0)

    train = lightgbm.Dataset(parts["train"].matrix, parts["train"].label, weight=weight(parts["train"]), feature_name=names)
    valid = lightgbm.Dataset(parts["valid"].matrix, parts["valid"].label, weight=weight(parts["valid"]), reference=train)
    stop = lightgbm.early_stopping(spec.early_stopping, verbose=False)
    return lightgbm.train(parameters, train, spec.rounds, valid_sets=[valid], callbacks=[stop, *callbacks])


def fit(spec: ModelSpec, training_set: TrainingSet, progress: Progress | None = None, parts: Mapping[str, Part] | None = None) -> Fitted:
    """Fit and calibrate. The same spec and training set give the same booster.

    Args:
        parts: from `split`, where the caller has made them already.

    Raises:
        FitError: a split cannot be used.
        CalibrationError: the spec asks for calibration, and the scores do not rise with the label.
    """
    parts = split(spec, training_set) if parts is None else parts
    callbacks: list[Any] = []
    if progress is not None:
        told = progress

        def tell(env: Any) -> None:
            told(env.iteration + 1, env.end_iteration, float(env.evaluation_result_list[0][2]))

        callbacks.append(tell)
    booster = boost(spec, parts, [i.name for i in training_set.inputs], callbacks)
    # weighted positives multiply the odds by their weight
    slope, intercept = 1.0, -float(np.log(spec.imbalance.positive_weight)) if spec.imbalance else 0.0
    if spec.calibration == "sigmoid":
        raw = np.asarray(booster.predict(parts["valid"].matrix, raw_score=True, num_threads=THREADS))
        slope, intercept = calibration.platt(parts["valid"].label, raw)
    if (slope, intercept) != (1.0, 0.0):
        calibration.rescale(booster, slope, intercept)
    return Fitted(booster, parts, slope, intercept)


def model_text(fitted: Fitted) -> str:
    """The booster as LightGBM writes it, up to its best round."""
    return fitted.booster.model_to_string(num_iteration=fitted.booster.best_iteration)
