"""Training again at a moment: the spec's splits moved up to it, and a new version registered. Done twice it is done once.

`rolled` says what a retraining trains on; `training.gates` what the new version must pass to be let out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from feature_repo.records import contract
from feature_repo.spec.model import ModelSpec, Span, Split
from feature_repo.spec.use_case import UseCase
from infra import files
from infra.timestamps import microseconds, moment_at
from training.data.left_out import Interval, overlapping, words

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


def request_id(as_of_us: int, left_out: Sequence[Interval]) -> str:
    """Of a person's training: what is left out makes it another one."""
    spans = ",".join(f"{first}..{last}" for first, last in left_out)
    return f"request@{as_of_us}" + (f" without {spans}" if spans else "")


class Order(msgspec.Struct, frozen=True):
    """What a training is to be made of, and who asked for it.

    Attributes:
        trigger: id of what asked for it: one of the same id makes the same version.
        why: in words.
        as_of_us: what it may know of, microseconds since the epoch (UTC).
        left_out: spans of moments whose examples it does not learn from.
    """

    trigger: str
    why: str
    as_of_us: int
    left_out: Sequence[Interval] = ()

    @property
    def provenance(self) -> dict[str, str]:
        return {TRIGGER: self.trigger, "reason": self.why, "as_of_us": str(self.as_of_us)}


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
    order: Order,
    progress: Callable[[str], None] = lambda _: None,
) -> int:
    """Build the training set as it was known at a moment, without what is left out, fit and register. Returns the version; the one that is
    there, if it is.

    Raises:
        SplitError, GateError, ExportError, JoinError: no version was made.
    """
    from training.data.training_set import build
    from training.registration.register import train_and_register

    found = find(settings, spec.name, order.trigger)
    if found is not None:
        return found
    moved = rolled(spec, order.as_of_us)
    first, end = microseconds(moved.split.train.bounds()[0]), microseconds((moved.split.test or moved.split.valid).bounds()[1])
    progress("joining the training set")
    made = build(spark(), case, settings, moved, order.as_of_us, overlapping(order.left_out, first, end))
    provenance = order.provenance | ({"left_out": words(made.left_out, made.left_out_rows)} if made.left_out else {})
    progress(f"fitting on {made.rows:,} examples")
    return train_and_register(moved, made, settings, provenance=provenance).version
