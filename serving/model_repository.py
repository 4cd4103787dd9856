"""The models of one replica: which version answers, which was refused and why, and the change from one to the next.

Every second the `champion` files below the model root are looked at. A new live version is verified and loaded in a thread, beside
the one that answers; then one assignment makes it live. A version that cannot be loaded leaves the old one in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from feature_repo import contract as contracts
from feature_repo.contract import Contract, ContractError
from feature_repo.definition import DefinitionError, definitions
from feature_repo.use_case import UseCase, UseCaseError
from infra.settings import Settings
from serving.explain import BOOSTER, Explainer
from serving.metrics import Metrics
from serving.on_demand import OnDemand, OnDemandError
from serving.predict import Predictor, WiringError
from serving.prediction_log import PredictionLog
from serving.problem import NotFound, Unavailable
from serving.reader import OnlineReader
from serving.scorer import Scorer, ScorerError

POLL_S = 1.0
_REFUSALS = (ContractError, DefinitionError, OnDemandError, ScorerError, UseCaseError, WiringError)
"""Their messages are written for the caller; any other exception's is not."""
Loader = Callable[[Settings, str, Metrics, PredictionLog], Predictor]
log = logging.getLogger(__name__)


@dataclass
class Entry:
    """One model.

    Attributes:
        predictor: what answers; None while nothing could be loaded.
        reason: why the champion that was asked for does not answer; None where it does.
        champion: identity of the champion file last acted on.
        retired: predictors replaced, to be closed once no request can still hold them.
    """

    name: str
    predictor: Predictor | None = None
    reason: str | None = None
    champion: tuple[int, int, int] | None = None
    retired: list[asyncio.Task[None]] = field(default_factory=list)


class ModelRepository:
    """Loads models and keeps them current.

    Args:
        settings: where models, features and the online store are.
        metrics: told of every load and refusal.
        prediction_log: given to every predictor.
        loader: makes a predictor of a model's champion, in a thread; `load` where not given.
    """

    def __init__(self, settings: Settings, metrics: Metrics, prediction_log: PredictionLog, loader: Loader | None = None) -> None:
        self._settings = settings
        self._loader = loader or load
        self._metrics = metrics
        self._log = prediction_log
        self._entries: dict[str, Entry] = {}
        self._task: asyncio.Task[None] | None = None
        self.loaded = False

    @property
    def entries(self) -> list[Entry]:
        """Every model with a champion, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    @property
    def live(self) -> list[Predictor]:
        return [entry.predictor for entry in self.entries if entry.predictor is not None]

    def entry(self, model: str) -> Entry:
        """
        Raises:
            NotFound: there is no such model; the problem lists those there are.
        """
        entry = self._entries.get(model)
        if entry is None:
            known = sorted(self._entries)
            raise NotFound(f"There is no model {model!r}. There is: {', '.join(known) or 'none yet'}.", models=known)
        return entry

    def predictor(self, model: str) -> Predictor:
        """What answers for a model.

        Raises:
            NotFound: there is no such model.
            Unavailable: its live version was refused; the reason says why.
        """
        entry = self._entries.get(model) or self.entry(model)
        if entry.predictor is None:
            raise Unavailable(f"Model {model!r} does not answer: {entry.reason or 'it is being loaded'}.", retry_after_s=5)
        return entry.predictor

    def versions(self, model: str) -> list[int]:
        """Versions on disk, ascending."""
        folder = self._settings.model_root / model
        return (
            sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / contracts.CONTRACT).is_file())
            if folder.is_dir()
            else []
        )

    async def start(self) -> None:
        """Load every champion, then keep watching for changes."""
        await self._look()
        self.loaded = True
        self._task = asyncio.create_task(self._watch(), name="champions")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for entry in self._entries.values():
            for task in entry.retired:
                task.cancel()
            if entry.predictor is not None:
                await entry.predictor.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except Exception:  # the watch must outlive whatever a file system or a registry does
                log.exception("could not look at the champions")

    async def _look(self) -> None:
        found = await asyncio.to_thread(_champions, self._settings.model_root)
        for name, champion in found.items():
            entry = self._entries.setdefault(name, Entry(name))
            if entry.champion != champion:
                entry.champion = champion
                await self._load(entry)

    async def _load(self, entry: Entry) -> None:
        before = entry.predictor
        try:
            loaded = await asyncio.to_thread(self._loader, self._settings, entry.name, self._metrics, self._log)
        except Exception as refusal:  # one model that cannot be loaded must not take the others down
            expected = isinstance(refusal, _REFUSALS)
            entry.reason = str(refusal) if expected else f"it could not be loaded ({type(refusal).__name__}; see the replica's log)"
            if not expected:
                log.exception("model %s: loading failed", entry.name)
            keeps = f"; version {before.contract.version} keeps answering" if before else ""
            log.error("model %s: champion refused: %s%s", entry.name, entry.reason, keeps)
            self._metrics.refused(entry.name)
            return
        entry.predictor, entry.reason = loaded, None
        self._metrics.swapped(entry.name, loaded.contract.version, before.contract.version if before else None)
        if before is not None:
            grace_s = 2 * before.contract.deadline_ms / 1e3 + 1
            entry.retired = [t for t in entry.retired if not t.done()] + [asyncio.create_task(_retire(before, grace_s))]


async def _retire(predictor: Predictor, grace_s: float) -> None:
    await asyncio.sleep(grace_s)
    await predictor.close()


def _champions(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(root.glob("*/champion")):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found[path.parent.name] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return found


def load(settings: Settings, model: str, metrics: Metrics, prediction_log: PredictionLog) -> Predictor:
    """Verify and load a model's live version; blocks (called in a thread).

    Raises:
        ContractError: a file was altered, or features were redefined since it was trained.
        DefinitionError, OnDemandError, ScorerError, UseCaseError, WiringError: the version cannot be served as it is.
    """
    version = contracts.champion(settings.model_root, model)
    if version is None:
        raise ContractError(f"model {model} has no champion: promote a version")
    folder = settings.model_root / model / str(version)
    contract = contracts.load(folder)
    if (contract.model, contract.version) != (model, version):
        raise ContractError(f"{folder} holds the contract of {contract.model} version {contract.version}")
    store = UseCase(settings.repo).store
    contracts.check_definitions(contract, definitions(store, contract.feature_service))
    return Predictor(
        contract,
        reader=OnlineReader.open(store, contract.feature_service, settings.redis(), settings.redis_timeout_s),
        on_demand=OnDemand.compile(store, contract.feature_service),
        scorer=Scorer(folder / contracts.MODEL, len(contract.inputs)),
        metrics=metrics.model,
        log=prediction_log.put,
        explainer=explainer(folder, contract),
        read_timeout_s=settings.redis_timeout_s,
    )


def explainer(folder: Path, contract: Contract) -> Explainer | None:
    return Explainer(folder / BOOSTER, contract.names) if BOOSTER in contract.files else None
