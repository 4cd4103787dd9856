"""The models of one replica: which version answers, which was refused and why, and the change from one to the next.

Four times a second the release files below the model root are looked at (`feature_repo.records.release`). A version that is new in them is
verified and loaded in a thread, beside the one that answers; then one assignment makes it live. A version that cannot be loaded leaves
the old one in place. Canary, shadow and the version before stay loaded, so that promoting or rolling back among them is immediate.

Once a second the registry is looked at: a version whose features an `apply` has redefined does not answer any more, until they are back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_repo.records import contract as contracts
from feature_repo.records import release
from feature_repo.records.contract import Contract, ContractError
from feature_repo.records.release import Release, ReleaseError
from feature_repo.registry.followed import Followed
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from serving.features.reader import OnlineReader
from serving.inference.explainer import BOOSTER
from serving.inference.predictor import Predictor
from serving.models.loading import REFUSALS, Loader, explainer, load, misfit
from serving.models.shadow import Shadow
from serving.protocol.answer import Contribution
from serving.protocol.limits import natural
from serving.protocol.problem import NotFound, Unavailable
from serving.telemetry.metrics import Metrics
from serving.telemetry.prediction_log import PredictionLog

POLL_S = 0.25
LOOK_S = 60.0
"""A look at the releases may take so long, loading included; beyond, it is said that nothing is followed."""
Explain = Callable[[NDArray[np.float64]], Awaitable[list[list[Contribution]]]]
log = logging.getLogger(__name__)


@dataclass
class Entry:
    """One model.

    Attributes:
        predictor: the champion that answers; None while nothing could be loaded.
        canary: answers for the release's share of keys.
        shadow: follows the champion.
        release: what was last acted on.
        reason: why the champion that was asked for does not answer; None where it does.
        refused: why a version other than the champion is not in its role.
        ready: every version that is loaded: a promotion or a roll-back among them takes no loading.
        seen: identity of the release file last acted on.
        retired: what is being closed, once no request can still hold it.
    """

    name: str
    predictor: Predictor | None = None
    canary: Predictor | None = None
    shadow: Shadow | None = None
    release: Release | None = None
    reason: str | None = None
    refused: dict[int, str] = field(default_factory=dict)
    ready: dict[int, Predictor] = field(default_factory=dict)
    seen: tuple[int, int, int] | None = None
    retired: set[asyncio.Task[None]] = field(default_factory=set)

    def answering(self, champion: Predictor, key: Callable[[], bytes]) -> tuple[Predictor, str]:
        """What answers for a key, and its role."""
        if self.canary is not None and self.release is not None and self.release.answers(key()) == self.canary.contract.version:
            return self.canary, "canary"
        return champion, "champion"


class ModelRepository:
    """Loads models and keeps them current.

    Args:
        settings: where models, features and the online store are.
        metrics: told of every load and refusal.
        prediction_log: given to every predictor.
        loader: makes a predictor of a model's version, in a thread; `load` where not given.
        before: is given a version's reader before it reads.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        prediction_log: PredictionLog,
        loader: Loader | None = None,
        before: Callable[[OnlineReader], Awaitable[None]] | None = None,
    ) -> None:
        self._settings, self._before = settings, before
        self._loader = loader or load
        self._metrics = metrics
        self._log = prediction_log
        self._entries: dict[str, Entry] = {}
        self._task: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self.loaded = False
        self._looked = time.monotonic()
        self._registry, self._misfits = Followed(UseCase(settings.repo)), set[tuple[str, int]]()

    @property
    def stuck(self) -> str:
        """That releases are not followed any more, in one line; empty: they are."""
        late_s = time.monotonic() - self._looked
        return f"the releases were not looked at for {late_s:.0f} s: what was promoted since does not answer" if late_s > LOOK_S else ""

    @property
    def entries(self) -> list[Entry]:
        """Every model with a champion, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    @property
    def readers(self) -> list[OnlineReader]:
        """Of every version that is loaded."""
        return [predictor.reader for entry in self.entries for predictor in entry.ready.values()]

    @property
    def live(self) -> list[Predictor]:
        return [entry.predictor for entry in self.entries if entry.predictor is not None]

    def __contains__(self, model: str) -> bool:
        return model in self._entries

    def entry(self, model: str) -> Entry:
        """
        Raises:
            NotFound: there is no such model; the problem lists those there are.
            Unavailable: no release was found here at all, so nobody can say that there is no such model.
        """
        entry = self._entries.get(model)
        if entry is None:
            known = sorted(self._entries)
            if not known:
                raise Unavailable("No model has a champion here yet: train and promote one.", retry_after_s=5)
            raise NotFound(f"There is no model {model!r}. There is: {', '.join(known)}.", models=known)
        return entry

    def predictor(self, model: str) -> tuple[Entry, Predictor]:
        """A model, and its champion.

        Raises:
            NotFound: there is no such model.
            Unavailable: its live version was refused; the reason says why.
        """
        entry = self._entries.get(model) or self.entry(model)
        if entry.predictor is None:
            raise Unavailable(f"Model {model!r} does not answer: {entry.reason or 'it is being loaded'}.", retry_after_s=5)
        return entry, entry.predictor

    async def version(self, model: str, version: int) -> tuple[Contract, Explain | None]:
        """The contract of any version on disk, and what explains its scores.

        Raises:
            NotFound: the version is not there (any more).
        """
        entry = self._entries.get(model)
        loaded = entry.ready.get(version) if entry else None
        if loaded is not None:
            return loaded.contract, loaded.explain
        folder = self._settings.model_root / model / str(version)
        try:
            contract = await asyncio.to_thread(release.verified, self._settings.model_root, model, version)
        except ContractError as error:
            raise NotFound(f"Version {version} of {model!r} cannot be read: {error}") from None

        async def explain(matrix: NDArray[np.float64]) -> list[list[Contribution]]:
            made = explainer(folder, contract)
            assert made is not None
            try:
                return await made.explain(matrix)
            finally:
                made.close()

        return contract, explain if BOOSTER in contract.files else None

    def versions(self, model: str) -> list[int]:
        """Versions on disk, ascending."""
        folder = self._settings.model_root / model
        return (
            sorted(n for p in folder.iterdir() if (n := natural(p.name)) is not None and (p / contracts.CONTRACT).is_file())
            if folder.is_dir()
            else []
        )

    async def start(self) -> None:
        """Load every champion, then keep watching for changes."""
        await self._look()
        self.loaded = True
        self._task = asyncio.create_task(self._watch(), name="champions")

    async def stop(self) -> None:
        for task in (self._task, self._warming):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for entry in self._entries.values():
            for retired in entry.retired:
                retired.cancel()
            if entry.shadow is not None:
                await entry.shadow.close()
            for predictor in entry.ready.values():
                await predictor.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except Exception:  # the watch must outlive whatever a file system or a registry does
                log.exception("could not look at the releases")

    async def _look(self) -> None:
        await self._follow_apply()
        found = await asyncio.to_thread(_releases, self._settings.model_root)
        for entry in self.entries:
            if entry.name not in found and entry.seen is not None:
                entry.seen = None
                path = self._settings.model_root / entry.name / release.RELEASE
                self._refuse(entry, f"{path} is gone: promote a version again")
        for name, seen in found.items():
            entry = self._entries.setdefault(name, Entry(name))
            if entry.seen != seen:
                entry.seen = seen
                try:
                    await self._follow(entry)
                except Exception:  # one model must not keep the others from being loaded
                    log.exception("model %s: its release could not be followed", name)
                    self._refuse(entry, "its release could not be followed (see the replica's log)")
        self._looked = time.monotonic()

    async def _follow_apply(self) -> None:
        """A version whose features were redefined answers no more, and what was refused is tried again: as if it started now.

        Looked at twice, for an `apply` writes one object after the other.
        """
        if not self._registry.due or not await asyncio.to_thread(self._registry.changed):
            return
        loaded = [(entry, version, predictor.contract) for entry in self.entries for version, predictor in entry.ready.items()]
        fit = await asyncio.to_thread(lambda: [not misfit(self._registry.case, contract) for _, _, contract in loaded])
        misfits = {(entry.name, version) for (entry, version, _), well in zip(loaded, fit, strict=True) if not well}
        sure, self._misfits = misfits & self._misfits, misfits
        if misfits - sure:
            self._registry.again()
        for entry in self.entries:
            gone = [version for version in entry.ready if (entry.name, version) in sure]
            for version in gone:
                await self._let_go(entry, version)
            if gone or entry.reason or entry.refused:
                entry.seen = None

    async def _let_go(self, entry: Entry, version: int) -> None:
        """Close a version, once no request can still hold it."""
        gone = entry.ready.pop(version)
        entry.predictor = None if entry.predictor is gone else entry.predictor
        entry.canary = None if entry.canary is gone else entry.canary
        if entry.shadow is not None and entry.shadow.challenger is gone:
            ended, entry.shadow = entry.shadow, None
            await ended.close()
        task = asyncio.create_task(_retire(gone, 2 * gone.contract.deadline_ms / 1e3 + 1))
        entry.retired.add(task)
        task.add_done_callback(entry.retired.discard)

    async def _follow(self, entry: Entry) -> None:
        """Make a model's release what answers: its champion first, the others when it does."""
        try:
            wanted = await asyncio.to_thread(release.read, self._settings.model_root, entry.name)
        except ReleaseError as error:
            self._refuse(entry, str(error))
            return
        if wanted is None:
            return
        before, reason = entry.predictor, await self._ready(entry, wanted, wanted.champion)
        if reason is not None:
            self._refuse(entry, reason)
            return
        champion = entry.ready[wanted.champion]
        if champion is not before:
            entry.predictor, entry.reason = champion, None
            self._metrics.swapped(entry.name, wanted.champion, before.contract.version if before else None)
        entry.reason, entry.release = None, wanted
        if entry.canary is not None and entry.canary.contract.version != wanted.canary:
            entry.canary = None
        if entry.shadow is not None and (entry.shadow.challenger.contract.version != wanted.shadow or champion is not before):
            ended, entry.shadow = entry.shadow, None
            await ended.close()
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._warm(), name="warming")

    async def _warm(self) -> None:
        """Load what stands beside the champions, and let go of what has no role any more."""
        for entry in list(self._entries.values()):
            wanted = entry.release
            while wanted is not None:
                await self._beside(entry, wanted)
                wanted = None if entry.release is wanted else entry.release  # it has changed meanwhile: once more
        while not self.loaded:  # what a start need not wait for must not slow it down
            await asyncio.sleep(0.1)
        for predictor in (p for entry in self._entries.values() for p in entry.ready.values()):
            predictor.warm()

    async def _beside(self, entry: Entry, wanted: Release) -> None:
        entry.refused = {}
        for version, role in wanted.versions.items():
            if role == "champion":
                continue
            reason = await self._ready(entry, wanted, version)
            if entry.release is not wanted or entry.predictor is None:
                return
            if reason is None and role != "previous" and _asks(entry.ready[version]) != _asks(entry.predictor):
                reason = "it takes other request fields than the champion: it can be promoted, but not answer or follow its requests"
            if reason is not None:
                entry.refused[version] = reason
                log.error("model %s: %s version %d refused: %s", entry.name, role, version, reason)
                self._metrics.refused(entry.name, role)
                continue
            predictor = entry.ready[version]
            if role == "canary":
                entry.canary = predictor
            elif role == "shadow" and entry.shadow is None:
                entry.shadow = Shadow(predictor, entry.predictor, self._metrics.shadow(entry.name, version))
        for version in [v for v in entry.ready if v not in wanted.versions]:
            await self._let_go(entry, version)

    async def _ready(self, entry: Entry, wanted: Release, version: int) -> str | None:
        """Load a version, unless it is; why it cannot be, or None."""
        if version in entry.ready:
            return None
        try:
            await asyncio.to_thread(release.load, self._settings.model_root, entry.name, version, wanted)
            loaded = await asyncio.to_thread(self._loader, self._settings, entry.name, version, self._metrics, self._log)
            if self._before is not None:
                await self._before(loaded.reader)
            # what was applied while it was being loaded, the look of then could not hold against it
            if self._registry.read and (why := await asyncio.to_thread(misfit, self._registry.case, loaded.contract)):
                await loaded.close()
                return why
            entry.ready[version] = loaded
        except Exception as refusal:  # one version that cannot be loaded must not take the others down
            if isinstance(refusal, REFUSALS):
                return str(refusal)
            log.exception("model %s: loading version %d failed", entry.name, version)
            return f"it could not be loaded ({type(refusal).__name__}; see the replica's log)"
        return None

    def _refuse(self, entry: Entry, reason: str) -> None:
        entry.reason = reason
        keeps = f"; version {entry.predictor.contract.version} keeps answering" if entry.predictor else ""
        log.error("model %s: champion refused: %s%s", entry.name, reason, keeps)
        self._metrics.refused(entry.name)


def _asks(predictor: Predictor) -> list[tuple[str, str, str]]:
    """What a request must carry; examples and bounds are of each version's own data."""
    return sorted((f.name, f.kind, f.dtype) for f in predictor.contract.request)


async def _retire(before: Predictor, grace_s: float) -> None:
    await asyncio.sleep(grace_s)
    await before.close()


def _releases(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(root.glob(f"*/{release.RELEASE}")):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found[path.parent.name] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return found
