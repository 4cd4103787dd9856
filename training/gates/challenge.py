"""Every gate between a registered version and its first request, asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from feature_repo.records.contract import ContractError
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from training.evaluation.rescoring import NotComparable
from training.gates.base import Challenge, of_version
from training.gates.record import Gates
from training.gates.table import GATES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def examine(spark: Callable[[], SparkSession], case: UseCase, settings: Settings, spec: ModelSpec, version: int) -> Gates:
    """What every gate finds of a version.

    Raises:
        ContractError: the version's folder does not verify.
    """
    challenge = of_version(spark, case, settings, spec, version)
    checks = [found for gate in GATES for found in gate.look(challenge)]
    return Gates(version, challenge.champion, checks, spread=_spread(challenge))


def _spread(challenge: Challenge) -> float | None:
    """The spread of the challenger's gain between held-out days; None where there is no other to compare with."""
    from training.evaluation.comparison import ComparisonError
    from training.evaluation.sequential import gains, spread

    if challenge.rival is None:
        return None
    try:
        _ = challenge.whole
    except (ComparisonError, NotComparable, ContractError):
        return None
    theirs, ours = challenge.scores
    return spread(gains(challenge.label, theirs, ours), challenge.day)
