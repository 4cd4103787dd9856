"""A version of a model, verified and made ready to answer; and whether it still fits what is applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from feature_repo.records import contract as contracts
from feature_repo.records import release
from feature_repo.records.contract import Contract, ContractError
from feature_repo.records.release import ReleaseError
from feature_repo.registry.definitions import DefinitionError, definitions_of
from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import UseCaseError
from infra.settings import Settings
from serving.features.on_demand import OnDemand, OnDemandError
from serving.features.reader import OnlineReader
from serving.inference.explainer import BOOSTER, Explainer
from serving.inference.input_sources import WiringError
from serving.inference.predictor import Predictor
from serving.inference.scorer import Scorer, ScorerError
from serving.protocol.limits import Limits
from serving.telemetry.metrics import Metrics
from serving.telemetry.prediction_id import PredictionIds
from serving.telemetry.prediction_log import PredictionLog
from streaming.schema.feature_view import projections

Loader = Callable[[Settings, str, int, Metrics, PredictionLog], Predictor]
REFUSALS = (ContractError, DefinitionError, OnDemandError, ReleaseError, ScorerError, UseCaseError, WiringError)
"""Their messages are written for the caller; any other exception's is not."""


def load(
    settings: Settings, model: str, version: int, metrics: Metrics, prediction_log: PredictionLog, ids: PredictionIds | None = None
) -> Predictor:
    """Verify and load a version of a model; blocks (called in a thread). `ids`: of its predictions; None: this checkout's.

    Raises:
        ContractError: a file was altered, the contract is not the one that was released, or features were redefined since it was trained.
        DefinitionError, OnDemandError, ScorerError, UseCaseError, WiringError: the version cannot be served as it is.
    """
    folder = settings.model_root / model / str(version)
    contract = release.verified(settings.model_root, model, version)
    store = UseCase(settings.repo).store
    contracts.check_definitions(contract, definitions_of(store, contract.feature_service))
    joined = projections(store, contract.feature_service)
    reader = OnlineReader(joined, settings.redis(), settings.redis_timeout_s, settings.window_cache_mb * 2**20, settings.clock_tolerance_s)
    return Predictor(
        contract,
        reader=reader,
        on_demand=OnDemand.compile(store, contract.feature_service, joined, reader.features, metrics.on_demand),
        scorer=Scorer(folder / contracts.MODEL, len(contract.inputs)),
        metrics=metrics.model,
        log=prediction_log.put,
        explainer=explainer(folder, contract),
        read_timeout_s=settings.redis_timeout_s,
        limits=Limits.of(settings),
        ids=ids or PredictionIds.of(settings),
    )


def explainer(folder: Path, contract: Contract) -> Explainer | None:
    return Explainer(folder / BOOSTER, contract.names) if BOOSTER in contract.files else None


def misfit(case: UseCase, contract: Contract) -> str:
    """Why a version cannot answer by what is applied; empty: it was trained on it."""
    try:
        contracts.check_definitions(contract, definitions_of(case.store, contract.feature_service))
    except REFUSALS as refusal:
        return str(refusal)
    return ""
