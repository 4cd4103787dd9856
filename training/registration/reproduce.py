"""A version, made again from the same data and the same spec: what it should be to the byte, or the account of what is not the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from platform import machine
from typing import TYPE_CHECKING

import msgspec

from feature_repo.records import contract
from feature_repo.records.contract import Contract, ContractError
from feature_repo.registry.definitions import definitions_of
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from streaming.versions.data_version import DataVersion
from streaming.versions.table_version import numbers
from training.data import manifest
from training.registration import provenance

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from infra.settings import Settings
    from training.data.training_set import TrainingSet


class Reproduced(msgspec.Struct, frozen=True):
    """
    Attributes:
        hashes: `training set`, `lightgbm.txt`, `model.onnx` -> (as registered, as made again), SHA-256.
        changed: training-set partitions that are no longer what they were, in words.
        environment: what else differs that a fit's bytes may depend on: name -> (then, now).
        data_version: of the tables that were read; 0: as they are now, because they have none, or it is not there any more.
        restored: the training set's file was lost, and lies there again.
    """

    model: str
    version: int
    hashes: dict[str, tuple[str, str]]
    changed: list[str]
    environment: dict[str, tuple[str, str]]
    data_version: int = 0
    restored: bool = False

    @property
    def same(self) -> bool:
        return all(then == now for then, now in self.hashes.values())


def make_again(
    spark: Callable[[], SparkSession],
    case: UseCase,
    settings: Settings,
    made: Contract,
    told: Callable[[str], None],
    data: DataVersion | None = None,
) -> Reproduced:
    """Join the training set under the cut-off it had, fit with the spec it had, export; nothing is registered.

    Args:
        data: the version of the tables to read; None: the one that it was made of, where that is still there.

    Raises:
        ContractError: the version does not say what it was made with, or a feature's definition has changed since.
        JoinError, SplitError: it cannot be made at all any more.
    """
    from training.data.training_set import build
    from training.export.tree_ensemble import export
    from training.modeling.fit import fit_model, model_text
    from training.registration.register import LIGHTGBM

    if not made.spec:
        raise ContractError(
            f"model {made.model} version {made.version} was registered before contracts held the whole spec: train it again"
        )
    spec = ModelSpec.model_validate(made.spec)
    contract.check_definitions(made, definitions_of(case.store, made.feature_service))
    told("joining the training set")
    kept = settings.state / "training_sets" / made.model / str(made.training_set["path"])
    left_out = [(int(first), int(last)) for first, last in made.training_set.get("left_out", ())]
    lost, data = not kept.exists(), data or _data(settings, made)
    again = build(spark(), case, settings, spec, int(made.training_set["known_upto_us"]), left_out, data)
    differs = again.hash != made.training_set["hash"]
    changed = _changed(spec, kept, again) if differs and kept.exists() else []
    try:
        told(f"fitting on {again.rows:,} examples")
        fitted = fit_model(spec, again)
        files = {LIGHTGBM: model_text(fitted).encode(), contract.MODEL: export(fitted.booster)}
    finally:
        if differs:  # it was made to be compared
            for path in (again.path, manifest.path_of(again.path)):
                path.unlink(missing_ok=True)
    hashes = {"training set": (str(made.training_set["hash"]), again.hash)}
    hashes |= {name: (made.files.get(name, ""), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    number, restored = data.number if data else 0, lost and not differs
    return Reproduced(made.model, made.version, hashes, changed, _environment(made), number, restored)


def _data(settings: Settings, made: Contract) -> DataVersion | None:
    """What the tables were when it was made; None: the contract does not say, or a version is not there any more."""
    tables = {str(name): int(number) for name, number in made.training_set.get("tables", {}).items()}
    there = all(number in numbers(settings.offline_root / name) for name, number in tables.items())
    return DataVersion(int(made.training_set["data_version"]), 0, tables) if tables and there else None


def _changed(spec: ModelSpec, kept: Path, again: TrainingSet) -> list[str]:
    """Partitions of the tables that are no longer what they were."""
    from training.data.training_set import read

    before, after = manifest.load(kept), manifest.load(again.path)
    return list(manifest.differences(before, after, read(kept), read(again.path), spec.spine.id).partitions)


def _environment(made: Contract) -> dict[str, tuple[str, str]]:
    now = {name: machine() if name == "machine" else metadata.version(name) for name in provenance.FITTING}
    return {name: (made.code[name], value) for name, value in now.items() if name in made.code and made.code[name] != value}
