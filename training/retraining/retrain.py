"""Training again at a moment: the spec's splits moved up to it, and a new version registered. Done twice it is done once.

`rolled` says what a retraining trains on; `training.gates` what the new version must pass to be let out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from feature_repo.records import contract
from feature_repo.spec.model import ModelSpec, Span, Split
from feature_repo.spec.use_case import UseCase
from infra import files
from infra.timestamps import moment_at

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from infra.settings import Settings

TRIGGER = "trigger"
"""Key of a contract's provenance: the id of what asked for the training."""


def rolled(spec: ModelSpec, now_us: int) -> ModelSpec:
    """The spec with its splits moved up to the day of a moment: train, valid, test, each right before the next.

    The bounds a first model had to reach stay for `valid`; those on `test` were set for another test split.

    Raises:
        ValueError: nothing is left to train on.
    """
    asked = spec.learning.retraining
    end = moment_at(now_us).date()
    test = end - timedelta(days=asked.test_days)
    valid = test - timedelta(days=asked.valid_days)
    start = spec.split.train.start if asked.train_days is None else valid - timedelta(days=asked.train_days)
    start = max(start, spec.split.train.start)
    if start >= valid:
        raise ValueError(f"model {spec.name!r}: a training at {end} would train on nothing: it begins on {start}, validation on {valid}")
    split = Split(train=Span(start=start, end=valid), valid=Span(start=valid, end=test), test=Span(start=test, end=end))
    return spec.model_copy(update={"split": split, "gates": [g for g in spec.gates if g.on == "valid"]})


@contextmanager
def alone(settings: Settings, model: str) -> Iterator[None]:
    """One training of a model at a time in a checkout: the second waits, and then finds what the first made.

    A killed autopilot leaves its training behind; the next one must not make the same version twice.
    """
    with files.alone(settings.state / "autopilot" / model / "training.lock"):
        yield


def find(settings: Settings, model: str, trigger: str) -> int | None:
    """The version that a trigger has made already, if it has: a training that is asked for twice is one training."""
    root = settings.model_root / model
    for folder in sorted(root.glob("[0-9]*"), key=lambda p: -int(p.name) if p.name.isdigit() else 0):
        try:
            made = contract.load(folder)
        except contract.ContractError:
            continue
        if made.provenance.get(TRIGGER) == trigger:
            return made.version
    return None


def train_again(
    spark: Callable[[], SparkSession],
    case: UseCase,
    settings: Settings,
    spec: ModelSpec,
    now_us: int,
    provenance: dict[str, str],
    progress: Callable[[str], None] = lambda _: None,
) -> int:
    """Build the training set as it was known at a moment, fit and register. Returns the version; the one that is there, if it is.

    Raises:
        SplitError, GateError, ExportError, JoinError: no version was made.
    """
    from training.data.training_set import build
    from training.registration.register import train_and_register

    found = find(settings, spec.name, provenance[TRIGGER])
    if found is not None:
        return found
    moved = rolled(spec, now_us)
    progress("joining the training set")
    made = build(spark(), case, settings, moved, now_us)
    progress(f"fitting on {made.rows:,} examples")
    return train_and_register(moved, made, settings, provenance=provenance).version
