"""A model version over features from the offline store: the same assembling and scoring, with joined columns in the online reader's place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.records import contract as contracts
from feature_repo.records import release
from serving.features.decoder import FRESH, NULL
from serving.features.on_demand import OnDemand
from serving.features.reader import FeatureRows
from serving.inference.predictor import Predictor
from serving.inference.scorer import Scorer
from serving.telemetry.metrics import Metrics
from streaming.join.on_demand import transformations
from streaming.join.recompute import plan
from streaming.schema.columns import column_name, floats
from streaming.schema.feature_view import Projection, projections

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore


class _Columns:
    """In the online reader's place: what would be read has been joined."""

    def __init__(self, wanted: Sequence[Projection]) -> None:
        self.views = [p.alias for p in wanted]
        self.features = [f"{p.alias}:{name}" for p in wanted for name in p.features]
        self.view_of = [number for number, p in enumerate(wanted) for _ in p.features]
        self.join_keys = {c: k.dtype for p in wanted for c, k in zip(p.spine_keys, p.view.keys, strict=True)}

    async def read(self, instances: Sequence[dict[str, Any]], now_us: int, timeout_s: float | None = None) -> FeatureRows:
        raise NotImplementedError("rows of the offline store are joined, not read: use Predictor.assemble")  # pragma: no cover

    async def close(self) -> None:
        return None


def open_predictor(store: FeatureStore, root: Path, model: str, version: int) -> tuple[Predictor, list[Projection]]:
    """A version that takes joined rows, and what must be joined for it.

    Raises:
        ContractError: the version is gone or altered, or is not the one that was released.
        DefinitionError, OnDemandError, WiringError: the definitions are not what it was trained on.
    """
    contract, folder = release.verified(root, model, version), root / model / str(version)
    joined = projections(store, contract.feature_service)
    on_demand = transformations(store, contract.feature_service, joined)
    needed = {i.source for i in contract.inputs if i.kind == "feature"} | {s.reference for view in on_demand for s in view.sources}
    wanted = plan(store, contract.feature_service, needed)
    columns: Any = _Columns(wanted)
    scorer = Scorer(folder / contracts.MODEL, len(contract.inputs))
    return Predictor(contract, columns, OnDemand(on_demand, columns.features), scorer, Metrics().model, lambda _: None), wanted


def feature_rows(table: pa.Table, wanted: Sequence[Projection]) -> FeatureRows:
    """Joined columns (`alias__feature`) as rows; what is null by the join's rules is null here."""
    n = table.num_rows
    extras: list[dict[str, Any]] = [{} for _ in range(n)]
    columns, statuses = [], []
    for projection in wanted:
        numeric = {f.name for f in projection.view.features if f.numeric}
        for name in projection.features:
            column = table[column_name(projection.alias, name)]
            values = floats(column) if name in numeric else np.full(n, np.nan)
            known = ~np.isnan(values)
            beside = np.flatnonzero(np.abs(values) >= 2.0**53) if name in numeric else np.arange(n)
            for i in beside.tolist():  # what a float cannot carry
                if (value := column[i].as_py()) is not None:
                    extras[i][f"{projection.alias}:{name}"] = value
                    known[i] = True
            columns.append(values)
            statuses.append(np.where(known, FRESH, NULL))
    width = len(columns)
    values = np.stack(columns, axis=1) if width else np.empty((n, 0))
    letters = np.stack(statuses, axis=1).astype(np.uint8) if width else np.empty((n, 0), np.uint8)
    return FeatureRows(values, letters, np.full((n, len(wanted)), np.nan), [{} for _ in range(n)], extras)
