"""From training set to contract: fit, evaluate, export, check, gate, register. The folder it leaves is all that serving sees."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import contract
from feature_repo.contract import Contract, Profile
from feature_repo.use_case import ModelSpec
from training import evaluate, gate
from training.fit import Fitted, Progress, fit, matrix
from training.tree_ensemble import export, parity

if TYPE_CHECKING:
    from infra.settings import Settings
    from training.training_set import TrainingSet

LEVELS = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]
REFERENCE_ROWS = 5_000
_LIGHTGBM = "lightgbm.txt"


def profile(values: Any) -> Profile:
    """Quantiles of the finite values, and the share of nulls; float64 `[n]`, NaN for null. Infinities are in neither."""
    finite = values[np.isfinite(values)]
    quantiles = np.quantile(finite, LEVELS).tolist() if len(finite) else []
    return Profile(LEVELS if quantiles else [], quantiles, float(np.isnan(values).sum() / max(len(values), 1)))


def _defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what is undefined (the AUC of a slice of one class): JSON has no NaN, and a contract with a null would not load."""
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _every_row(training_set: TrainingSet) -> NDArray[np.float64]:
    """The whole training set as a matrix `[n, inputs]`, rows without a label and outside every split too."""
    import pyarrow.parquet as pq

    return matrix(pq.read_table(training_set.path, columns=[i.name for i in training_set.inputs]), training_set.inputs)


def train_and_register(
    spec: ModelSpec,
    training_set: TrainingSet,
    settings: Settings,
    *,
    force: bool = False,
    progress: Progress | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Contract:
    """Train a new version and register it. Promotion is a step of its own (`contract.promote`).

    Args:
        force: register even if a gate fails; the contract records the failure.
        provenance: what asked for this training (`trigger`, `reason`, ...); kept in the contract.

    Returns:
        The contract as written to `<models>/<model>/<version>/`.

    Raises:
        FitError, ExportError: the model cannot be made.
        GateError: a gate failed; nothing is registered.
    """
    fitted = fit(spec, training_set, progress)
    model = fitted.booster.model_to_string(num_iteration=fitted.booster.best_iteration)
    scores = {name: fitted.score(part) for name, part in fitted.parts.items()}
    metrics = {name: evaluate.metrics(part.label, scores[name]) for name, part in fitted.parts.items()}
    valid = fitted.parts["valid"]
    sliced = {"valid"} | {g.on for g in spec.gates if g.slice} & fitted.parts.keys()
    slices = {
        name: {column: evaluate.by_slice(part.table, column, part.label, scores[name]) for column in spec.slices}
        for name, part in fitted.parts.items()
        if name in sliced
    }
    onnx = export(fitted.booster)
    same = parity(fitted.booster, onnx, _every_row(training_set))
    gates = gate.check(spec, metrics, slices, same)
    if not force:
        gate.require(spec, gates)
    reference = {i.name: profile(valid.matrix[:, n]) for n, i in enumerate(training_set.inputs)} | {"score": profile(scores["valid"])}
    root = settings.model_root / spec.name
    root.mkdir(parents=True, exist_ok=True)
    partial = root / f".new-{uuid.uuid4().hex}"
    partial.mkdir()
    run_id = ""
    try:
        (partial / contract.MODEL).write_bytes(onnx)
        (partial / _LIGHTGBM).write_text(model)
        _write_reference(partial / contract.REFERENCE, spec, training_set, fitted, scores["valid"])
        run_id = _start_run(spec, training_set, settings, metrics, force and not all(g["passed"] for g in gates))
        made = Contract(
            model=spec.name,
            version=0,
            project=training_set.project,
            feature_service=spec.feature_service,
            definitions=training_set.definitions,
            definition_hash=training_set.definition_hash,
            inputs=training_set.inputs,
            request=training_set.request,
            label=spec.spine.label,
            label_delay=spec.label_delay,
            deadline_ms=spec.deadline_ms,
            split={name: [str(span.start), str(span.end)] for name, span in _spans(spec).items()},
            training_set={
                "hash": training_set.hash,
                "rows": training_set.rows,
                "path": training_set.path.name,
                "identity": training_set.identity,
                "known_upto_us": training_set.known_upto_us,
            },
            parameters={**spec.parameters, "rounds": fitted.booster.best_iteration or fitted.booster.current_iteration()},
            metrics={name: _defined(m) for name, m in metrics.items()},
            slices={column: {value: _defined(m) for value, m in found.items()} for column, found in slices["valid"].items()},
            gates=gates,
            reference=reference,
            parity=same,
            run_id=run_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={p.name: contract.sha256(p) for p in sorted(partial.iterdir())},
            spec=spec.model_dump(mode="json"),
            provenance=dict(provenance or {}),
        )
        folder, made = _claim(partial, root, made)
        _finish_run(spec, settings, folder, made)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if run_id:
            _client(settings).set_terminated(run_id, "FAILED")
        raise
    return made


def _spans(spec: ModelSpec) -> dict[str, Any]:
    spans = {"train": spec.split.train, "valid": spec.split.valid, "test": spec.split.test}
    return {name: span for name, span in spans.items() if span}


def _claim(partial: Path, root: Path, made: Contract) -> tuple[Path, Contract]:
    """Move the folder to the next free version number; two trainings at once get two numbers."""
    import msgspec

    while True:
        version = 1 + max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0)
        made = msgspec.structs.replace(made, version=version)
        contract.write(partial, made)
        try:
            partial.rename(root / str(version))  # fails where another training has taken the number: a folder with files is never replaced
        except OSError:
            if not (root / str(version)).exists():
                raise
            continue
        return root / str(version), made


def _write_reference(path: Path, spec: ModelSpec, training_set: TrainingSet, fitted: Fitted, score: Any) -> None:
    """A sample of the validation split: inputs as the model saw them, the score, and the moment. Every k-th row, so always the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = fitted.parts["valid"]
    rows = np.unique(np.linspace(0, len(part.label) - 1, min(REFERENCE_ROWS, len(part.label))).astype(int))
    columns: dict[str, Any] = {spec.spine.timestamp: part.table[spec.spine.timestamp].take(pa.array(rows))}
    columns |= {i.name: part.matrix[rows, n] for n, i in enumerate(training_set.inputs)}
    columns["score"] = score[rows]
    pq.write_table(pa.table(columns), path, compression="zstd")


def _client(settings: Settings) -> Any:
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        settings.state.mkdir(parents=True, exist_ok=True)
        return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def _start_run(spec: ModelSpec, training_set: TrainingSet, settings: Settings, metrics: dict[str, dict[str, float]], forced: bool) -> str:
    client = _client(settings)
    experiment = client.get_experiment_by_name(spec.name)
    number = experiment.experiment_id if experiment else client.create_experiment(spec.name, (settings.state / "mlartifacts").as_uri())
    run = client.create_run(number)
    tags = {"training_set": training_set.hash, "definitions": training_set.definition_hash, "forced": str(forced).lower()}
    for key, value in tags.items():
        client.set_tag(run.info.run_id, key, value)
    for key, value in spec.parameters.items():
        client.log_param(run.info.run_id, key, value)
    for name, values in metrics.items():
        for metric, measured in values.items():
            if not np.isnan(measured):
                client.log_metric(run.info.run_id, f"{name}_{metric}", measured)
    return str(run.info.run_id)


def _finish_run(spec: ModelSpec, settings: Settings, folder: Path, made: Contract) -> None:
    """Hand the finished folder to MLflow: artifacts of the run, and a version in its model registry."""
    from mlflow.exceptions import MlflowException

    client = _client(settings)
    client.log_artifacts(made.run_id, str(folder), "contract")
    try:
        client.get_registered_model(spec.name)
    except MlflowException:
        client.create_registered_model(spec.name, description=spec.description)
    uri = f"{client.get_run(made.run_id).info.artifact_uri}/contract"
    client.create_model_version(
        spec.name, uri, made.run_id, tags={"version": str(made.version), "training_set": str(made.training_set["hash"])}
    )
    client.set_terminated(made.run_id)
