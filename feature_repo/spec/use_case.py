"""A use case: one folder with plain Feast objects, `ingest.yaml` and `models/*.yaml`, opened.

What is in this package is everything that Headrace reads from such a folder besides Feast's own objects.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import yaml

from feature_repo.spec.expectations import expectations_of
from feature_repo.spec.ingest import Ingest
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.yaml_file import UseCaseError, parse_yaml, read_yaml

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.infra.registry.base_registry import BaseRegistry


def _tell_snapshots_apart(registry: BaseRegistry) -> None:
    """Give each snapshot of a registry a version of its own.

    Feast remembers what it built from the last snapshot, once for all registries of the process. It knows the snapshot by its address in
    memory (`id`) and its version, and snapshots of an SQL registry have no version. So when an old snapshot is gone and a new one comes to lie
    at the same address, Feast answers with the views of the old one. A version for each snapshot prevents this.
    """
    read = registry.proto

    def proto() -> Any:
        snapshot = read()
        if snapshot.ListFields():  # an empty one is read anew each time
            snapshot.version_id = snapshot.version_id or uuid4().hex
        return snapshot

    registry.proto = proto  # type: ignore[method-assign]
    registry.refresh()


class UseCase:
    """A use case folder, opened.

    Args:
        folder: the folder with `feature_store.yaml`.
        registry: an SQLite file to keep the registry in, instead of the one that the folder names; a copy of its settings lies beside it.

    Raises:
        UseCaseError: the folder or one of its files is not what it should be.
    """

    def __init__(self, folder: Path, registry: Path | None = None) -> None:
        self.folder = folder
        self._registry = registry
        self._broken: list[str] = []
        if not (folder / "feature_store.yaml").is_file():
            raise UseCaseError(f"{folder} is not a use case: it has no feature_store.yaml (see README, 'Your own use case')")

    @cached_property
    def project(self) -> str:
        path = self.folder / "feature_store.yaml"
        said = read_yaml(path)
        if not isinstance(said, dict) or not isinstance(said.get("project"), str):
            raise UseCaseError(f"{path} names no project: give `project: <a name>`")
        return said["project"]

    @cached_property
    def ingest(self) -> Ingest:
        return parse_yaml(Ingest, self.folder / "ingest.yaml")

    @cached_property
    def models(self) -> dict[str, ModelSpec]:
        specs = []
        for path in sorted((self.folder / "models").glob("*.yaml")):
            try:
                specs.append(parse_yaml(ModelSpec, path))
            except UseCaseError as error:  # costs its own model only; whoever asks for that is told
                log.warning("%s; its model is left out", error)
                self._broken.append(str(error))
        if self._broken and not specs:
            raise UseCaseError("; ".join(self._broken))
        return {spec.name: spec for spec in specs}

    def model(self, name: str) -> ModelSpec:
        """The spec of one model.

        Raises:
            UseCaseError: there is none of that name; the message lists those there are.
        """
        if name not in self.models:
            known = ", ".join(self.models) or "none"
            broken = f". {'; '.join(self._broken)}" if self._broken else ""
            raise UseCaseError(f"no model {name!r} in {self.folder / 'models'} (there is: {known}){broken}")
        return self.models[name]

    @cached_property
    def expectations(self) -> dict[str, Any]:
        """What the use case declares of its tables: Pandera schemas by table."""
        return expectations_of(self.folder)

    @cached_property
    def store(self) -> FeatureStore:
        """Feast's own view of the folder. Call `Settings.export()` first: the YAML refers to its variables."""
        from feast import FeatureStore

        store = FeatureStore(repo_path=str(self.folder), fs_yaml_file=self._settings)
        _tell_snapshots_apart(store.registry)
        return store

    @property
    def _settings(self) -> Path:
        """Feast's settings of the folder."""
        own = self.folder / "feature_store.yaml"
        if self._registry is None:
            return own
        registry = {"registry_type": "sql", "path": f"sqlite:///{self._registry}", "cache_ttl_seconds": 60}
        changed = self._registry.with_suffix(".yaml")
        changed.write_text(yaml.safe_dump(read_yaml(own) | {"registry": registry}))
        return changed

    @property
    def applied(self) -> bool:
        """Whether its registry is there; Feast makes one as soon as it opens it. One on a server is taken to be."""
        file = self._registry_file()
        return file is None or file.is_file()

    def revision(self) -> Any:
        """What changes whenever the registry is written; None: it is not there. Cheap enough to be asked every second."""
        file = self._registry_file()
        if file is None:
            written = getattr(self.store.registry, "_get_last_updated_metadata", None)  # one row of an SQL registry
            return written(self.project) if written else None
        try:
            stat = file.stat()
        except FileNotFoundError:
            return None
        return (stat.st_mtime_ns, stat.st_ino, stat.st_size) if stat.st_size else None  # of an empty file Feast would make a registry

    def _registry_file(self) -> Path | None:
        """The file that the registry is, of those that are one on this machine."""
        from feast.repo_config import load_repo_config

        registry = load_repo_config(self.folder, self._settings).registry
        kind, path = str(getattr(registry, "registry_type", "file")), str(registry.path)
        if kind == "sql":
            return Path(path.removeprefix("sqlite:///")) if path.startswith("sqlite:///") else None
        return self.folder / path if kind == "file" and "://" not in path else None
