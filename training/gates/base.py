"""What a gate is, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from feature_repo.records import contract, release
from feature_repo.records.contract import Contract
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from feature_repo.triggers.base import DAY_US
from infra.settings import Settings
from infra.timestamps import microseconds
from training.data.column_moments import micros
from training.evaluation.rescoring import Rescorer, scored
from training.gates.record import Checked

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from training.evaluation.comparison import Comparison
    from training.export.certificate import Certificate


@dataclass(frozen=True)
class Challenge:
    """A registered version, and what it is held against. What is costly is read when a gate asks for it, and once.

    Attributes:
        made: the challenger's contract.
        champion: the version that is live; None: none is yet.
    """

    spark: Callable[[], SparkSession]
    case: UseCase
    settings: Settings
    spec: ModelSpec
    made: Contract
    champion: int | None

    @property
    def folder(self) -> Path:
        return self.settings.model_root / self.spec.name / str(self.made.version)

    @property
    def rival(self) -> int | None:
        """The live version, where it is another one."""
        return None if self.champion == self.made.version else self.champion

    @cached_property
    def challenger(self) -> Rescorer:
        return scored(self.settings.model_root, self.spec.name, self.made.version)

    @cached_property
    def held_out(self) -> pa.Table:
        """The labelled rows of the version's own test split (or validation split, where it has none)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from training.data.training_set import read

        path = self.settings.state / "training_sets" / self.spec.name / str(self.made.training_set["path"])
        table = read(path)
        start, end = self.made.split.get("test", self.made.split["valid"])
        at = micros(table, self.spec.spine.timestamp)
        first, last = (microseconds(datetime.fromisoformat(day).replace(tzinfo=UTC)) for day in (start, end))
        return table.filter(pc.and_(pa.array((at >= first) & (at < last)), pc.is_valid(table[self.spec.spine.label])))

    @cached_property
    def label(self) -> NDArray[np.float64]:
        """Of the held-out rows, 0/1 `[n]`."""
        return np.asarray(self.held_out[self.spec.spine.label].to_numpy().astype(np.float64))

    @cached_property
    def day(self) -> NDArray[np.int64]:
        """Of the held-out rows `[n]`. Days are drawn whole, since the rows of a day share their circumstances."""
        return micros(self.held_out, self.spec.spine.timestamp) // DAY_US

    @cached_property
    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the live version and the challenger say of the held-out rows, `[n]` each.

        Raises:
            NotComparable: the live version reads what these rows do not have.
            ContractError: its folder does not verify.
        """
        assert self.rival is not None
        ours = self.challenger.score(self.held_out)
        return scored(self.settings.model_root, self.spec.name, self.rival).score(self.held_out), ours

    @cached_property
    def whole(self) -> Comparison:
        """Challenger against champion on all held-out rows.

        Raises:
            NotComparable, ContractError: as of `scores`.
            ComparisonError: the rows are too few, or of one class.
        """
        from training.evaluation.comparison import compare

        return compare(self.label, *self.scores, self.spec.learning.challenge.metric, groups=self.day)

    @cached_property
    def certificate(self) -> Certificate:
        """The exported model against LightGBM's own, on the held-out rows and on probes."""
        import lightgbm

        from training.export.certificate import certify

        booster = lightgbm.Booster(model_file=str(self.folder / "lightgbm.txt"))
        exported = (self.folder / contract.MODEL).read_bytes()
        return certify(booster, exported, self.challenger.matrix(self.held_out), self.spec.threshold)

    @cached_property
    def archived(self) -> pa.Table:
        """Every archived prediction of the model."""
        from streaming.offline.archive import of

        return of(self.settings, self.case.project).predictions(self.spec.name)

    def archived_where(self, keep: Callable[[int, str], bool]) -> pa.Table:
        """Archived predictions by (version, role)."""
        rows = self.archived
        if not rows.num_rows:
            return rows
        pairs: Any = zip(rows["model_version"].to_pylist(), rows["role"].to_pylist(), strict=True)
        return rows.filter(np.array([keep(version, role) for version, role in pairs], dtype=bool))


def of_version(spark: Callable[[], SparkSession], case: UseCase, settings: Settings, spec: ModelSpec, version: int) -> Challenge:
    """
    Raises:
        ContractError: the version's folder does not verify.
    """
    made = release.verified(settings.model_root, spec.name, version)
    return Challenge(spark, case, settings, spec, made, release.champion(settings.model_root, spec.name))


class Gate(ABC):
    """
    What cannot be looked at does not pass. Only where nothing is live yet there is nothing to compare with, and the gate says that.

    Attributes:
        name: as people and the journal read it.
    """

    name: ClassVar[str]

    @abstractmethod
    def look(self, at: Challenge) -> list[Checked]:
        """What was found; nothing where the gate has nothing to say of this challenge."""

    def found(self, passed: bool, text: str) -> list[Checked]:
        return [Checked(self.name, passed, text)]
