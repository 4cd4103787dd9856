"""MLflow's side of a training: a run with parameters, metrics, data and code, and a version in the model registry. All of it from the contract."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.records import contract
from feature_repo.records.contract import Contract

if TYPE_CHECKING:
    from infra.settings import Settings


def client(settings: Settings) -> Any:
    """MLflow's client, quiet, on the tracking store of the settings."""
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        settings.state.mkdir(parents=True, exist_ok=True)
        return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def start(settings: Settings, model: str) -> str:
    """Begin a run in the model's experiment; returns its id."""
    made = client(settings)
    experiment = made.get_experiment_by_name(model)
    number = experiment.experiment_id if experiment else made.create_experiment(model, (settings.state / "mlartifacts").as_uri())
    return str(made.create_run(number).info.run_id)


def fail(settings: Settings, run_id: str) -> None:
    client(settings).set_terminated(run_id, "FAILED")


def tags(made: Contract, contract_hash: str) -> dict[str, str]:
    """What a run says of where its model comes from."""
    findings = [f.severity for f in made.validation]
    found = {
        "version": str(made.version),
        "parent": str(made.parent or "none"),
        "training_set": str(made.training_set["hash"]),
        "definitions": made.definition_hash,
        "contract": contract_hash,
        "forced": str(forced(made)).lower(),
        "validation": f"{findings.count('error')} errors, {findings.count('warning')} warnings",
        "mlflow.source.git.commit": made.code.get("commit", ""),
    }
    found |= {f"code.{name}": value for name, value in made.code.items()}
    return found | {f"provenance.{name}": value for name, value in made.provenance.items()}


def forced(made: Contract) -> bool:
    """Whether it is registered in spite of a gate or of its data."""
    return not all(g["passed"] for g in made.gates) or any(f.severity == "error" for f in made.validation)


def finish(settings: Settings, folder: Path, made: Contract) -> None:
    """Tell the run everything that the finished folder holds, and register the version."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    to = client(settings)
    now = to.get_run(made.run_id).info.start_time
    measured = {f"{split}_{name}": value for split, metrics in made.metrics.items() for name, value in metrics.items()}
    for split, columns in made.fairness.items():
        measured |= {f"{split}_{column}_{name}": value for column, found in columns.items() for name, value in found.items()}
    parameters = {**made.parameters, **{f"search_{k}": v for k, v in made.search.items()}}
    parameters |= {f"calibration_{k}": v for k, v in made.calibration.items()}
    told = tags(made, contract.sha256(folder / contract.CONTRACT))
    to.log_batch(
        made.run_id,
        [Metric(name, value, now, 0) for name, value in measured.items()],
        [Param(name, str(value)[:6000]) for name, value in parameters.items()],
        [RunTag(name, value[:5000]) for name, value in told.items()],
    )
    data = Dataset(
        name=made.model,
        digest=str(made.training_set["hash"])[:36],
        source_type="local",
        source=json.dumps({"uri": (settings.state / "training_sets" / made.model / str(made.training_set["path"])).as_uri()}),
        schema=json.dumps({"mlflow_colspec": [{"name": i.name, "type": i.dtype} for i in made.inputs]}),
        profile=json.dumps({"num_rows": made.training_set["rows"]}),
    )
    to.log_inputs(made.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    to.log_artifacts(made.run_id, str(folder), "contract")
    try:
        to.get_registered_model(made.model)
    except MlflowException:
        to.create_registered_model(made.model, description=str(made.spec.get("description", "")))
    uri = f"{to.get_run(made.run_id).info.artifact_uri}/contract"
    to.create_model_version(
        made.model, uri, made.run_id, tags={name: told[name] for name in ("version", "parent", "training_set", "contract")}
    )
    to.set_terminated(made.run_id)
