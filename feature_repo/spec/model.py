"""A use case: one folder with plain Feast objects, `ingest.yaml` (raw files and the SQL that shapes them) and `models/*.yaml`.

The schemas below are everything Headrace reads from such a folder besides Feast's own objects.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from feature_repo.spec.retraining import Learning

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.infra.registry.base_registry import BaseRegistry


Schema = TypeVar("Schema", bound=BaseModel)


class UseCaseError(ValueError):
    """A use case folder says something that cannot be; the message names file and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RawFile(_Strict):
    """One raw input, made visible to the SQL under its name in `ingest.yaml`."""

    path: str = Field(description="relative to the use case folder, or to the package's folder when `package` is given")
    package: str | None = Field(default=None, description="a Python package that carries the file (found, never imported)")
    format: Literal["csv", "json", "parquet"] = "csv"
    options: dict[str, str] = Field(default_factory=dict, description="options of Spark's reader")


class Table(_Strict):
    """One table of the offline store: an SQL file over the raw inputs and the tables above it."""

    sql: str = Field(description="SQL file, relative to the use case folder")
    timestamp: str = Field(default="event_timestamp", description="column that partitions the table by day (UTC)")
    known: str | None = Field(
        default=None,
        description="column with the moment a row became known, for `headrace check`; default: created_timestamp, if there is one",
    )


class Ingest(_Strict):
    raw: dict[str, RawFile]
    tables: dict[str, Table]

    @field_validator("tables")
    @classmethod
    def _not_ours(cls, tables: dict[str, Table]) -> dict[str, Table]:
        clash = [name for name in tables if name.startswith(("predictions_", "labels_"))]
        if clash:
            raise ValueError(f"tables named predictions_… and labels_… are the archive's: {', '.join(clash)}")
        return tables


class Span(_Strict):
    """Days `[start, end)` in UTC."""

    start: date
    end: date

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.start >= self.end:
            raise ValueError(f"start {self.start} must be before end {self.end}")
        return self

    def bounds(self) -> tuple[datetime, datetime]:
        midnight = datetime.min.time()
        return datetime.combine(self.start, midnight, UTC), datetime.combine(self.end, midnight, UTC)


class Spine(_Strict):
    """The examples: one row per prediction that was or could have been asked for."""

    table: str = Field(description="table of the offline store")
    timestamp: str = Field(default="event_timestamp", description="moment of the prediction")
    id: list[str] = Field(description="columns that identify an example")
    label: str = Field(description="column with the truth: 0/1, null where there is none (never trained on)")
    label_timestamp: str = Field(description="moment the truth became known")


class Split(_Strict):
    train: Span
    valid: Span
    test: Span | None = None


class Gate(_Strict):
    """A bound a candidate must keep: `metric` on `on` within [`min`, `max`]."""

    metric: str
    on: Literal["train", "valid", "test"] = "valid"
    slice: str | None = Field(default=None, description="a slice column: the bound holds for each of its values")
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError(f"gate on {self.metric!r} needs min or max")
        return self


class NullPolicy(_Strict):
    """What a null input becomes: NaN for the model to handle, a default, or a refusal (422)."""

    action: Literal["nan", "default", "reject"] = "nan"
    value: float | None = None

    @model_validator(mode="after")
    def _value(self) -> NullPolicy:
        if (self.action == "default") != (self.value is not None):
            raise ValueError("null policy: `value` goes with action `default`, and only with it")
        return self


class Watch(_Strict):
    """The watch's sliding window, in predictions: it should cover what the reference covers (days, not hours)."""

    window: int = Field(default=5000, ge=50)
    step: int = Field(default=1000, ge=1, description="predictions from one verdict to the next")


Bounds = tuple[float, float | None]
"""A warning above the first, a refusal to train above the second; null: never a refusal."""


class Validation(_Strict):
    """Bounds of the checks before training, against the set that the live version was trained on (docs/training.md)."""

    nulls: Bounds = Field(default=(0.1, 0.5), description="rise of an input's null rate")
    outside: Bounds = Field(default=(0.001, 0.05), description="share of an input's values outside its former range, widened")
    widen: float = Field(default=2.0, ge=0, description="by how many times its width a range is widened at both ends")
    drift: Bounds = Field(default=(0.2, None), description="population stability index of an input; drift is what one retrains for")
    base_rate: Bounds = Field(default=(0.05, 0.25), description="change of the label's base rate, absolute")
    shrink: Bounds = Field(default=(0.5, 0.9), description="share of the former number of rows that is gone")


class Search(_Strict):
    """Parameters to look for with Optuna, when `headrace train --tune` asks. A space of integers is searched in integers; one that spans
    a factor of ten or more, by its logarithm."""

    trials: int = Field(default=20, ge=1)
    seconds: float | None = Field(default=None, gt=0, description="time budget: with one, what is found may depend on the machine")
    space: dict[str, tuple[int, int] | tuple[float, float]] = Field(
        default_factory=lambda: {
            "num_leaves": (15, 127),
            "learning_rate": (0.02, 0.2),
            "min_data_in_leaf": (20, 1000),
            "feature_fraction": (0.2, 1.0),
            "lambda_l2": (0.01, 100.0),
        },
        description="LightGBM parameter to [lowest, highest]",
    )

    @field_validator("space")
    @classmethod
    def _ordered(cls, space: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in space.items():
            if low >= high:
                raise ValueError(f"{name}: {low} must be below {high}")
        _refuse_ours(space)
        return space


class Imbalance(_Strict):
    """Positives count `positive_weight` times while fitting; the scores are put back to the true odds (docs/training.md)."""

    positive_weight: float = Field(gt=0)


_OURS = {"seed", "deterministic", "num_threads", "objective"}
_WEIGHTS = {"scale_pos_weight", "is_unbalance", "unbalance", "unbalanced_sets"}


def _refuse_ours(parameters: dict[str, Any]) -> None:
    if clash := _OURS & parameters.keys():
        raise ValueError(f"set by Headrace, not by the spec: {', '.join(sorted(clash))}")
    if clash := _WEIGHTS & parameters.keys():
        raise ValueError(f"{', '.join(sorted(clash))} would make the scores no probabilities: say `imbalance: {{positive_weight: ...}}`")


class ModelSpec(_Strict):
    """`models/<name>.yaml`: what a model predicts, from what, how it is fitted and what it must reach."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str = ""
    feature_service: str
    spine: Spine
    label_delay: str = Field(default="", description="for people: when the truth is usually known")
    split: Split
    parameters: dict[str, Any] = Field(default_factory=dict, description="LightGBM parameters")
    rounds: int = Field(default=500, ge=1)
    early_stopping: int = Field(default=30, ge=1)
    nulls: dict[str, NullPolicy] = Field(default_factory=dict, description="by input name; otherwise `nan`")
    gates: list[Gate] = Field(default_factory=list)
    slices: list[str] = Field(default_factory=list, description="spine columns to report metrics by")
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="score from which on a prediction counts as a yes, in tables of decisions"
    )
    calibration: Literal["none", "sigmoid"] = Field(default="none", description="fitted on valid, part of the exported model")
    imbalance: Imbalance | None = None
    search: Search = Search()
    validation: Validation = Validation()
    watch: Watch = Watch()
    learning: Learning = Field(default=Learning(), description="when it is trained again, and how a challenger is let out")
    deadline_ms: int = Field(default=1000, ge=1, description="default deadline of a request")

    @field_validator("parameters")
    @classmethod
    def _ours(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        _refuse_ours(parameters)
        return parameters


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of a boolean: `on` and `no` are words, `true` and `false` are not."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        raise UseCaseError(f"{path} does not exist") from None
    except OSError as error:
        raise UseCaseError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date of 30 February, or no UTF-8
        raise UseCaseError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise UseCaseError(f"{path} is nested too deep") from None


def _parse(schema: type[Schema], path: Path) -> Schema:
    try:
        return schema.model_validate(_read(path))
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UseCaseError(f"{path}: {lines}") from None


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
        said = _read(path)
        if not isinstance(said, dict) or not isinstance(said.get("project"), str):
            raise UseCaseError(f"{path} names no project: give `project: <a name>`")
        return said["project"]

    @cached_property
    def ingest(self) -> Ingest:
        return _parse(Ingest, self.folder / "ingest.yaml")

    @cached_property
    def models(self) -> dict[str, ModelSpec]:
        specs = []
        for path in sorted((self.folder / "models").glob("*.yaml")):
            try:
                specs.append(_parse(ModelSpec, path))
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
        changed.write_text(yaml.safe_dump(_read(own) | {"registry": registry}))
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
