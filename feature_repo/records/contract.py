"""The model contract: a folder with `model.onnx`, `contract.json` and `reference.parquet`. The only thing training hands to serving.

File hashes are SHA-256, hex.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.records.prediction import STALE, Whole
from infra import files

CONTRACT = "contract.json"
MODEL = "model.onnx"
REFERENCE = "reference.parquet"
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


class ContractError(ValueError):
    """A contract cannot be trusted: a file is missing or altered, or definitions have moved on. The message says which."""


class Null(msgspec.Struct, frozen=True):
    action: Literal["nan", "default", "reject"] = "nan"
    value: float | None = None


class Input(msgspec.Struct, frozen=True):
    """One column of the model's matrix; its place is its place in `Contract.inputs`.

    `source` is `view:feature`, for an on-demand view as well; `kind` says which of the three it is.
    """

    name: str
    source: str
    kind: Literal["feature", "on_demand", "request"]
    dtype: str
    null: Null = Null()


class Policy:
    """What the model gets of what was read. First, stale values become null, as in the point-in-time join. Then each input's null policy applies.

    This rule stands only here: serving, the watch, rescoring and training all call it.

    Args:
        inputs: of a contract, or of the one that is to be.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.defaults = [(i, float(w.null.value or 0.0)) for i, w in enumerate(inputs) if w.null.action == "default"]
        self.reject = np.array([i for i, w in enumerate(inputs) if w.null.action == "reject"], dtype=np.intp)

    def __call__(self, values: NDArray[np.float64], statuses: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        """
        Args:
            values: float64 [rows, inputs], NaN for null; stays as it is.
            statuses: a letter per value (`feature_repo.records.prediction`), uint8 [rows, inputs]; None where none is stale.

        Returns:
            float64 [rows, inputs]; NaN where a null stays one, and where the policy is to refuse (`refused`).
        """
        given = known(values, statuses)
        if self.defaults and given is values:
            given = values.copy()
        for place, value in self.defaults:
            column = given[:, place]
            column[np.isnan(column)] = value
        return given

    def refused(self, given: NDArray[np.float64]) -> list[tuple[int, int]]:
        """Row and input of every null that a `reject` policy refuses."""
        if not self.reject.size:
            return []
        return [(row, int(self.reject[i])) for row, i in np.argwhere(np.isnan(given[:, self.reject])).tolist()]


def known(values: NDArray[np.float64], statuses: NDArray[np.uint8] | None) -> NDArray[np.float64]:
    """The values with null in the place of what was stale, before any policy. If nothing was stale, this is the same array. Shapes as for
    `Policy`.
    """
    if statuses is None or STALE not in statuses.tobytes():
        return values
    return np.where(statuses == STALE[0], np.nan, values)


class RequestField(msgspec.Struct, frozen=True):
    """What a caller sends per instance: an entity's join key or a request-time field."""

    name: str
    kind: Literal["entity", "request"]
    dtype: Literal["string", "int64", "int32", "float64", "float32", "bool", "timestamp"]
    example: str | int | float | bool | None = None
    minimum: float | None = None
    maximum: float | None = None


class Profile(msgspec.Struct, frozen=True):
    """Reference distribution of one input (or of the score): quantiles at `levels`, null rate."""

    levels: list[float]
    quantiles: list[float]
    null_rate: float


class Parity(msgspec.Struct, frozen=True):
    rows: int
    max_abs_difference: float


class Histogram(msgspec.Struct, frozen=True):
    """Distribution of one input over the training split, so that the next training set can be held against it.

    `shares` `[k + 1]` are the shares of the values in (-inf, edges[0]], (edges[0], edges[1]], ..., (edges[k - 1], inf); nulls are apart, and
    infinities in the outermost.
    """

    edges: list[float]
    shares: list[float]
    null_rate: float
    minimum: float | None = None
    maximum: float | None = None


class Finding(msgspec.Struct, frozen=True):
    """What a check of the training set found: an error refuses the training, a warning does not."""

    check: str
    severity: Literal["error", "warning"]
    column: str
    measured: float | None
    bound: float | None
    text: str


class Contract(msgspec.Struct, frozen=True):
    model: str
    version: Whole
    project: str
    feature_service: str
    definitions: dict[str, str]
    """Hash of each feature's definition, by `view:feature` (`feature_repo.registry.definitions`)."""
    definition_hash: str
    inputs: list[Input]
    request: list[RequestField]
    label: str
    label_delay: str
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    split: dict[str, list[str]]
    """`train|valid|test` → [start, end) as ISO dates."""
    training_set: dict[str, Any]
    """`hash`, `rows`, `path`."""
    parameters: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    """`train|valid|test` → metric → value."""
    slices: dict[str, dict[str, dict[str, float]]]
    """Slice column → value → metric (on valid)."""
    gates: list[dict[str, Any]]
    """Each gate as checked: metric, on, slice, bounds, measured, passed."""
    reference: dict[str, Profile]
    parity: Parity
    run_id: str
    created: str
    files: dict[str, str]
    """SHA-256 of every other file in the folder."""
    spec: dict[str, Any] = {}
    """The `ModelSpec` it was trained from, as JSON; empty in versions older than this field, which cannot be reproduced."""
    provenance: dict[str, str] = {}
    """What asked for the training (`trigger`, `reason`, ...), as the caller told it."""
    parent: Whole = 0
    """The version that was live when this one was trained; 0: none."""
    training_profile: dict[str, Histogram] = {}
    """Each input over the training split, as it was before the null policy."""
    validation: list[Finding] = []
    """What the checks of the training set found."""
    search: dict[str, Any] = {}
    """Of a tuned version: `trials`, `pruned`, `seconds`, `ended_by`, `baseline` and `best` (log loss on valid), `parameters`."""
    calibration: dict[str, Any] = {}
    """`method`, `positive_weight`, and of the log odds the `slope` and `intercept` that are part of the exported model; `error` before and after."""
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    """`train|valid|test` → metric → bounds of its 95% confidence interval."""
    fairness: dict[str, dict[str, dict[str, float]]] = {}
    """`valid|test` → slice column → disparity between its values."""
    importance: dict[str, float] = {}
    """Input → mean absolute SHAP value on held-out rows, in log odds; largest first."""
    code: dict[str, str] = {}
    """Commit of the code, versions of the packages that fit and export, and the machine's architecture."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: two inputs, or two request fields, have the same name, or a name is none that JSON has as it is.
        """
        if strange := [f.name for f in self.request if _ESCAPED.search(f.name)]:
            raise ValueError(f"no request field can be called {strange[0]!r}")
        for what, names in (("inputs", self.names), ("request fields", [f.name for f in self.request])):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} are called {next(n for n in names if names.count(n) > 1)!r}")

    @property
    def names(self) -> list[str]:
        return [i.name for i in self.inputs]

    def model_inputs(self, values: NDArray[np.float64], statuses: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        """What the model gets of what was read, or logged: see `Policy`."""
        return Policy(self.inputs)(values, statuses)


def sha256(path: Path) -> str:
    return hashlib.sha256(files.read(path)).hexdigest()


def write(folder: Path, contract: Contract) -> None:
    """Write `contract.json` last and atomically: a folder without one is not a contract."""
    files.replace(folder / CONTRACT, msgspec.json.format(msgspec.json.encode(contract), indent=1))


def load(folder: Path, expected: str | None = None) -> Contract:
    """Read a contract and verify every file it names, before anything is loaded from them.

    Args:
        expected: SHA-256 of `contract.json` itself, where a release has noted it. The contract has the hashes of all other files; without
            this one, somebody could exchange a file and the contract together, unseen.

    Raises:
        ContractError: no contract, unreadable, or a file is missing, extra or altered.
    """
    path = folder / CONTRACT
    if not path.is_file():
        raise ContractError(f"{folder} holds no {CONTRACT}: train and register the model first")
    try:
        if expected is not None and sha256(path) != expected:
            raise ContractError(
                f"{path} is not the contract that was released (its SHA-256 differs): put the old folder back, or train a new version"
            )
        contract = files.read_json(path, Contract)
        _verify(folder, contract)
    except files.FileError as error:
        raise ContractError(f"{error}: it is no contract; put the old folder back, or train a new version") from None
    except OSError as error:
        raise ContractError(f"{folder} cannot be read: {error}") from None
    return contract


def _verify(folder: Path, contract: Contract) -> None:
    for name, expected in contract.files.items():
        if not (folder / name).is_file():
            raise ContractError(f"{folder}: {name} is named in the contract but missing")
        if sha256(folder / name) != expected:
            raise ContractError(f"{folder}: {name} is not the file that was registered (its SHA-256 differs); register the model again")
    if MODEL not in contract.files:
        raise ContractError(f"{folder}: the contract names no {MODEL}")


def check_definitions(contract: Contract, applied: dict[str, str]) -> None:
    """Refuse a contract whose features are no longer what is applied.

    Args:
        applied: hash by `view:feature`, from `feature_repo.registry.definitions.definitions_of`.

    Raises:
        ContractError: names each feature that changed or is gone.
    """
    changed = sorted(f for f, h in contract.definitions.items() if f in applied and applied[f] != h)
    gone = sorted(f for f in contract.definitions if f not in applied)
    if changed or gone:
        parts = [f"changed: {', '.join(changed)}"] * bool(changed) + [f"no longer applied: {', '.join(gone)}"] * bool(gone)
        raise ContractError(
            f"model {contract.model} version {contract.version} was trained on other feature definitions ({'; '.join(parts)}). "
            "Train a new version, or apply the old definitions again"
        )
