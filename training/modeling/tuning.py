"""Look for LightGBM parameters with Optuna: tree-structured Parzen estimators, poor trials pruned early, within a budget of trials and time.

The loss is that of the validation split at the best round, so what is found is fitted to that split as well: the test split stays unseen and is
what the result is to be judged by. The spec's own parameters are fitted first, and kept where no trial is better. Bound by trials alone, the
same training set and spec find the same parameters; a time budget that cuts the search short depends on the machine, and the contract says so.

Akiba et al., "Optuna: a next-generation hyperparameter optimization framework" (KDD 2019); Bergstra et al., "Algorithms for hyper-parameter
optimization" (NeurIPS 2011).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feature_repo.spec.model import ModelSpec
from training.data.splits import Part
from training.modeling.fit import SEED, boost

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

Told = Callable[[int, int, float], None]
"""Told the trials done, the most there will be, and the lowest log loss so far."""
LOG_FROM = 10.0
"""A space whose ends are this many times apart is searched by its logarithm."""
REPORT_EVERY = 10
"""Rounds from one look at a trial's loss, to prune it, to the next."""
_STARTUP = 5


@dataclass(frozen=True)
class Found:
    """
    Attributes:
        parameters: to fit with: the best trial's over the spec's own, or the spec's own.
        record: for the contract: `trials`, `pruned`, `seconds`, `ended_by` (`trials` or `time`), `baseline`, `best`, `parameters`.
    """

    parameters: dict[str, Any]
    record: dict[str, Any]


def search(spec: ModelSpec, parts: Mapping[str, Part], names: list[str], progress: Told | None = None) -> Found:
    """Search `spec.search`, seeded. A trial whose loss lags behind the median of those before it at the same round is pruned.

    Args:
        parts: from `training.modeling.fit.split`.
        names: of the inputs, in the matrix's order.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started, wanted = time.monotonic(), spec.search
    deadline = started + wanted.seconds if wanted.seconds else float("inf")
    baseline = _loss(boost(spec, parts, names))
    late = False

    def objective(trial: Trial) -> float:
        def look(env: Any) -> None:
            nonlocal late
            late = late or time.monotonic() > deadline
            if late:
                raise optuna.TrialPruned
            if env.iteration % REPORT_EVERY == 0:
                trial.report(float(env.evaluation_result_list[0][2]), env.iteration)
                if trial.should_prune():
                    raise optuna.TrialPruned

        parameters = {name: _suggest(trial, name, *ends) for name, ends in wanted.space.items()}
        return _loss(boost(spec.model_copy(update={"parameters": {**spec.parameters, **parameters}}), parts, names, [look]))

    def tell(study: Any, trial: FrozenTrial) -> None:
        if progress is not None:
            progress(trial.number + 1, wanted.trials, min([baseline, *_losses(study)]))
        if late or time.monotonic() > deadline:
            study.stop()

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=_STARTUP, multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=2 * REPORT_EVERY),
    )
    if time.monotonic() < deadline:
        study.optimize(objective, n_trials=wanted.trials, callbacks=[tell])
    losses = _losses(study)
    better = bool(losses) and study.best_value < baseline
    parameters = dict(study.best_params) if better else {}
    record: dict[str, Any] = {
        "trials": len(study.trials),
        "pruned": len(study.trials) - len(losses),
        "seconds": round(time.monotonic() - started, 1),
        "ended_by": "trials" if len(study.trials) == wanted.trials and not late else "time",
        "baseline": baseline,
        "best": study.best_value if better else baseline,
        "parameters": parameters,
    }
    return Found({**spec.parameters, **parameters}, record)


def _suggest(trial: Trial, name: str, low: float, high: float) -> float:
    log = low > 0 and high / low >= LOG_FROM
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _losses(study: Any) -> list[float]:
    return [float(trial.value) for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]


def _loss(booster: Any) -> float:
    return float(booster.best_score["valid_0"]["binary_logloss"])
