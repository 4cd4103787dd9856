"""Fit a model: LightGBM with early stopping on the splits, calibrated, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.spec.model import ModelSpec
from training.data.splits import Part, split
from training.modeling import calibration

if TYPE_CHECKING:
    import lightgbm

    from training.data.training_set import TrainingSet

Progress = Callable[[int, int, float], None]
"""Told the rounds done, the most there will be, and the validation loss."""
SEED, THREADS = 7, 2  # the number of threads is part of what makes two fits the same


@dataclass(frozen=True)
class Fitted:
    """`slope` and `intercept` are of the log odds, and are in the booster already."""

    booster: lightgbm.Booster
    parts: Mapping[str, Part]
    slope: float = 1.0
    intercept: float = 0.0

    def score(self, part: Part) -> NDArray[np.float64]:
        return np.asarray(self.booster.predict(part.matrix, num_threads=THREADS))


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


def fit_model(
    spec: ModelSpec, training_set: TrainingSet, progress: Progress | None = None, parts: Mapping[str, Part] | None = None
) -> Fitted:
    """Fit and calibrate. The same spec and training set give the same booster.

    Args:
        parts: from `split`, where the caller has made them already.

    Raises:
        SplitError: a split cannot be used.
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
