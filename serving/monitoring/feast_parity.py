"""A continuous check that what is served is what anybody else would read: sampled predictions, read again through stock Feast.

Runs beside the watch, off the hot path. A latest-value view is compared as it was served, where its high-water mark has not moved on since;
a windowed one by finishing its stored tiles at its newest event, which is the moment of the value that lies there for Feast. What is applied
between two reads is not compared, nor is a row that lay in the request's own future: that was served as missing, and Feast knows no moments.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from feature_repo.records import release
from feature_repo.records.contract import Contract
from feature_repo.records.prediction import Prediction, logged
from feature_repo.records.redis_keys import equality_key
from feature_repo.spec.use_case import UseCase
from infra.cause import cause_of
from infra.settings import Settings
from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.windows import declared
from streaming.join.on_demand import Transformation, transformations
from streaming.join.recompute import sent
from streaming.online import feast_layout
from streaming.schema.feature_view import Projection, projections

if TYPE_CHECKING:
    import redis

RECENT_S = 60.0
SHOWN = 5
"""Values of one prediction that are kept, to be shown with a verdict."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unequal:
    """One value that stock Feast reads differently.

    Attributes:
        keys: of its entity, as text.
    """

    prediction: str
    feature: str
    ours: Any
    feast: Any
    keys: str = ""

    @property
    def text(self) -> str:
        of = f" of {self.keys}" if self.keys else ""
        return f"{self.prediction}: {self.feature}{of} was served as {self.ours}, stock Feast reads {self.feast}"


class Equality:
    """
    Args:
        every_s: at most one prediction is read again in so many seconds; 0: none is.
    """

    def __init__(self, client: redis.Redis, settings: Settings, project: str, model: str, every_s: float) -> None:
        self.client, self.settings, self.project, self.model, self.every_s = client, settings, project, model, every_s
        self._next = time.monotonic()
        self._failure: tuple[float, str] | None = None
        self._case: UseCase | None = None
        self._plans: dict[int, tuple[Contract, list[Projection]]] = {}

    def offer(self, entry: dict[bytes, bytes] | None) -> None:
        """Check a log entry's prediction, if it is time for one; what is found goes to Redis (`equality_key`) and to the log."""
        if not entry or not self.every_s or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every_s
        try:
            prediction = logged(entry, Prediction)
            if prediction.model != self.model:
                return
            compared, unequal = self.check(prediction)
        except Exception as error:  # the check is a guest in the watch's process
            log.warning("equality check failed: %s: %s", type(error).__name__, error)
            self._failure = (time.monotonic(), f"the equality check failed: {cause_of(error)}")
            return
        self._failure = None
        key = equality_key(self.project, self.model)
        with self.client.pipeline(transaction=True) as pipe:
            pipe.hincrby(key, "compared", compared)
            pipe.hincrby(key, "unequal", len(unequal))
            if unequal:
                pipe.hset(key, "last", msgspec.json.encode([one.text for one in unequal[:SHOWN]]).decode())
            pipe.execute()
        for one in unequal:
            log.error("%s", one.text)

    @property
    def failing(self) -> str:
        """Why the last check could not be done, in one line; empty: it could, or there was none of late."""
        return self._failure[1] if self._failure and time.monotonic() < self._failure[0] + RECENT_S else ""

    def check(self, prediction: Prediction) -> tuple[int, list[Unequal]]:
        """How many values of a prediction could be compared, and those that are not the same."""
        contract, plan = self._plan(prediction.version)
        place = {i.source: n for n, i in enumerate(contract.inputs)}
        features = [f"{p.view.name}:{n}" for p in plan for n in p.features]
        keys = {c: prediction.request.get(c) for p in plan for c in p.spine_keys}
        if any(v is None for v in keys.values()) or any(p.alias != p.view.name or p.key_map for p in plan):
            return 0, []
        blobs = self._blobs(prediction, plan)
        assert self._case is not None
        read = self._case.store.get_online_features(features=features, entity_rows=[keys], full_feature_names=True).to_dict()
        compared, unequal = 0, []
        for projection, before, after in zip(plan, blobs, self._blobs(prediction, plan), strict=True):
            if before is None or before != after:
                continue
            for name, ours in self._ours(prediction, projection, before, place).items():
                compared += 1
                feast = read[f"{projection.alias}__{name}"][0]
                if not _same(ours, feast):
                    of = _named(keys, projection.spine_keys)
                    unequal.append(Unequal(prediction.id, f"{projection.alias}:{name}", ours, feast, of))
        more, others = self._functions(prediction, contract, plan, keys, blobs)
        return compared + more, unequal + others

    def _functions(
        self, prediction: Prediction, contract: Contract, plan: list[Projection], keys: dict[str, Any], blobs: list[bytes | None]
    ) -> tuple[int, list[Unequal]]:
        """The same of what on-demand views make of stored views that have not moved on."""
        assert self._case is not None
        place, found = {i.source: n for n, i in enumerate(contract.inputs)}, []
        unmoved = self._unmoved(prediction, plan, blobs)
        for view in transformations(self._case.store, contract.feature_service, plan):
            if {s.reference.partition(":")[0] for s in view.sources} <= unmoved:
                found.append((view, self._computed(prediction, contract, view, keys)))
        unmoved &= self._unmoved(prediction, plan, self._blobs(prediction, plan)) if found else set()
        compared, unequal = 0, []
        for view, read in found:
            if {s.reference.partition(":")[0] for s in view.sources} <= unmoved:
                for name, feast in read.items():
                    ours = prediction.values[place[f"{view.alias}:{name}"]]
                    compared += 1
                    if not _same(ours, feast):
                        unequal.append(Unequal(prediction.id, f"{view.alias}:{name}", ours, feast, _named(keys, keys)))
        return compared, unequal

    def _unmoved(self, prediction: Prediction, plan: list[Projection], blobs: list[bytes | None]) -> set[str]:
        """Latest-value views of which there lies what was served, and was fresh: Feast has no ttl."""
        found = set()
        for projection, blob in zip(plan, blobs, strict=True):
            if projection.view.layout is None and blob is not None:
                header, ttl_us = tiles.read_header(tiles.unseal(blob)), projection.view.ttl_us
                if self._served(prediction, projection, header) and not 0 < ttl_us < prediction.at_us - header.event_us:
                    found.add(projection.alias)
        return found

    def _served(self, prediction: Prediction, projection: Projection, header: tiles.Header) -> bool:
        """Whether what lies there of a latest-value view is what was served, and not of the request's future."""
        mark = prediction.marks.get(projection.alias)
        if mark is None or (mark.known_us, mark.ties, mark.event_us) != (header.mark_us, header.ties, header.event_us):
            return False
        return header.event_us - prediction.at_us <= self.settings.clock_tolerance_s * 1e6

    def _computed(self, prediction: Prediction, contract: Contract, view: Transformation, keys: dict[str, Any]) -> dict[str, Any]:
        """What stock Feast makes of an on-demand view's features that are inputs, by name."""
        assert self._case is not None
        names = [n for n in view.wanted if f"{view.alias}:{n}" in {i.source for i in contract.inputs}]
        if not names:
            return {}
        dtypes = {f.name: f.dtype for f in contract.request}
        request = {name: sent([prediction], name, dtypes[name])[0].as_py() for name in view.request if name in dtypes}
        # by short names: with full ones Feast leaves out what a function in Python mode gives
        features = [f"{view.name}:{name}" for name in names]
        read = self._case.store.get_online_features(features=features, entity_rows=[keys | request]).to_dict()
        return {name: read[name][0] for name in names if name in read}

    def _plan(self, version: int) -> tuple[Contract, list[Projection]]:
        if self._case is None:
            self._case = UseCase(self.settings.repo)
        if version not in self._plans:
            contract = release.verified(self.settings.model_root, self.model, version)
            self._plans[version] = contract, projections(self._case.store, contract.feature_service)
        return self._plans[version]

    def _blobs(self, prediction: Prediction, plan: list[Projection]) -> list[bytes | None]:
        with self.client.pipeline(transaction=False) as pipe:
            for p in plan:
                encode = feast_layout.key_encoder(p.view.project, [(k.name, k.dtype) for k in p.view.keys])
                key: Any = encode([prediction.request[c] for c in p.spine_keys])
                pipe.hget(key, feast_layout.tile_field(p.view.name))  # type: ignore[arg-type]
            found: list[bytes | None] = pipe.execute()
        return found

    def _ours(self, prediction: Prediction, projection: Projection, blob: bytes, place: dict[str, int]) -> dict[str, Any]:
        """What should lie there for Feast, of the features that can be told."""
        header, view = tiles.read_header(tiles.unseal(blob)), projection.view
        dtypes = {f.name: f.dtype for f in view.features}
        if view.layout is not None:
            layouts = {view.fingerprint: view.layout} | view.former
            if header.fingerprint not in layouts:
                return {}
            names = [f.name for f in view.features]
            finished = dict(zip(names, Finisher(layouts[header.fingerprint], names)(blob, header.event_us), strict=True))
            return {name: _stored(finished[name], dtypes[name]) for name in projection.features}
        if not self._served(prediction, projection, header):
            return {}
        served = {n: place.get(f"{projection.alias}:{n}") for n in projection.features}
        return {name: prediction.values[at] for name, at in served.items() if at is not None}


def _named(keys: dict[str, Any], names: Iterable[str]) -> str:
    """An entity as text."""
    return ", ".join(f"{name} {keys[name]}" for name in names)


def _stored(value: float, dtype: str) -> Any:
    """A window's value as Feast has it: of the declared type, None where that cannot hold it."""
    number = float(declared(np.array([value]), dtype)[0])
    if number != number:
        return None
    return int(number) if dtype in ("int64", "int32") else number


def _same(ours: Any, feast: Any) -> bool:
    if ours is None or feast is None:
        return ours is None and (feast is None or feast != feast)
    return bool(float(ours) == float(feast))
