"""From training set to contract: validate, tune, fit, evaluate, export, check, gate, register. The folder it leaves is all that serving sees."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.metrics.table import METRICS
from feature_repo.records import contract, release
from feature_repo.records.contract import Contract, ContractError, Finding, Parity, Profile
from feature_repo.spec.model import ModelSpec
from training.data import validation
from training.data.splits import Part, matrix, split
from training.evaluation import metrics
from training.export.tree_ensemble import export, parity
from training.modeling import calibration, tuning
from training.modeling.fit import Fitted, Progress, fit_model, model_text
from training.registration import bounds, tracking
from training.registration.card import Card
from training.registration.provenance import code
from training.registration.reference_sample import write_reference

if TYPE_CHECKING:
    from infra.settings import Settings
    from training.data.training_set import TrainingSet

LEVELS = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]
LIGHTGBM = "lightgbm.txt"
"""The booster in LightGBM's own text, beside the contract."""


def profile(values: Any) -> Profile:
    """Quantiles of the finite values, and the share of nulls; float64 `[n]`, NaN for null. Infinities are in neither."""
    finite = values[np.isfinite(values)]
    quantiles = np.quantile(finite, LEVELS).tolist() if len(finite) else []
    return Profile(LEVELS if quantiles else [], quantiles, float(np.isnan(values).sum() / max(len(values), 1)))


def _defined(found: Any) -> Any:
    """Without what is undefined (the AUC of a slice of one class): JSON has no NaN, and a contract with a null would not load."""
    if isinstance(found, Mapping):
        kept = {name: _defined(value) for name, value in found.items()}
        return {name: value for name, value in kept.items() if not (isinstance(value, float) and not math.isfinite(value))}
    return found


def _every_row(training_set: TrainingSet) -> NDArray[np.float64]:
    """The whole training set as a matrix `[n, inputs]`, rows without a label and outside every split too."""
    from training.data.training_set import read

    return matrix(read(training_set.path, [i.name for i in training_set.inputs]), training_set.inputs)


# wide: one keyword for each option of the command
def train_and_register(
    spec: ModelSpec,
    training_set: TrainingSet,
    settings: Settings,
    *,
    force: bool = False,
    tune: bool = False,
    progress: Progress | None = None,
    told: tuning.Told | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Contract:
    """Train a new version and register it. Promotion is a step of its own (`release.promote`).

    Args:
        force: register even if the data or a gate fails; the contract and the run record the failure.
        tune: look for parameters first (`ModelSpec.search`); what is found stands in the contract's `spec`.
        told: of the search.
        provenance: what asked for this training (`trigger`, `reason`, ...); kept in the contract.

    Returns:
        The contract as written to `<models>/<model>/<version>/`.

    Raises:
        DataError: the training set is not fit to be trained on.
        SplitError, CalibrationError, ExportError: the model cannot be made.
        GateError: a gate failed; nothing is registered.
    """
    parent, former, unknown = _former(settings.model_root, spec.name)
    parts, findings = _validated(spec, training_set, former, unknown, force)
    names = [i.name for i in training_set.inputs]
    record: dict[str, Any] = {}
    if tune:
        found = tuning.search(spec, parts, names, told)
        spec, record = spec.model_copy(update={"parameters": found.parameters}), found.record
    fitted = fit_model(spec, training_set, progress, parts)
    scores = {name: fitted.score(part) for name, part in parts.items()}
    measured = metrics.measure(spec, fitted, scores, names)
    onnx = export(fitted.booster)
    same = parity(fitted.booster, onnx, _every_row(training_set))
    checks = bounds.check_bounds(spec, measured.metrics, measured.slices, same, measured.fairness)
    if not force:
        bounds.require(spec, checks)
    root = settings.model_root / spec.name
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    partial = root / f".new-{uuid.uuid4().hex}"
    partial.mkdir()
    run_id = ""
    try:
        (partial / contract.MODEL).write_bytes(onnx)
        (partial / LIGHTGBM).write_text(model_text(fitted))
        write_reference(partial / contract.REFERENCE, spec, training_set, fitted, scores)
        run_id = tracking.start(settings, spec.name)
        outcome = Outcome(fitted, scores, measured, same, checks)
        made = describe(spec, training_set, outcome, settings)
        made = msgspec.structs.replace(
            made,
            run_id=run_id,
            files={p.name: contract.sha256(p) for p in sorted(partial.iterdir())},
            provenance=dict(provenance or {}),
            parent=parent,
            validation=findings,
            search=record,
        )
        card = Card(spec, measured, {name: metrics.curves(part.label, scores[name]) for name, part in parts.items() if name != "train"})
        folder, made = _claim(partial, root, made, card.write)
        tracking.finish(settings, folder, made)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if run_id:
            tracking.fail(settings, run_id)
        raise
    return made


@dataclass(frozen=True)
class Outcome:
    """What a fit has given, before anything is written.

    Attributes:
        scores: by split `[n]`.
        parity: of the export with the booster, on every row.
    """

    fitted: Fitted
    scores: Mapping[str, NDArray[np.float64]]
    measured: metrics.Measured
    parity: Parity
    checks: list[dict[str, Any]]


def describe(spec: ModelSpec, training_set: TrainingSet, outcome: Outcome, settings: Settings) -> Contract:
    """The contract of what was fitted, without what its registration adds: number, run, files, where it comes from."""
    reference = {i.name: profile(outcome.fitted.parts["valid"].matrix[:, n]) for n, i in enumerate(training_set.inputs)}
    return Contract(
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
            "late_labels": {name: outcome.fitted.parts[name].late for name in ("train", "valid")},
            **({"left_out": training_set.left_out, "left_out_rows": training_set.left_out_rows} if training_set.left_out else {}),
            **({"data_version": training_set.data.number, "tables": training_set.data.tables} if training_set.data else {}),
        },
        parameters={**spec.parameters, "rounds": outcome.fitted.booster.best_iteration or outcome.fitted.booster.current_iteration()},
        metrics=_defined(outcome.measured.metrics),
        slices=_defined(outcome.measured.slices["valid"]),
        gates=outcome.checks,
        reference=reference | {"score": profile(outcome.scores["valid"])},
        parity=outcome.parity,
        run_id="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files={},
        spec=spec.model_dump(mode="json"),
        training_profile=validation.profile(outcome.fitted.parts["train"].table, training_set.inputs),
        calibration=_calibration(spec, outcome.fitted, outcome.scores, outcome.measured),
        intervals=outcome.measured.intervals,
        fairness=_defined(outcome.measured.fairness),
        importance=outcome.measured.importance,
        code=code(settings.repo),
    )


def sweep(root: Path) -> None:
    """Remove what trainings that were killed more than a day ago have left half-made."""
    for left in root.glob(".new-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left)


def _former(root: Path, model: str) -> tuple[int, Contract | None, list[Finding]]:
    """The version that is live (0: none), and what to hold new data against: its contract, or the newest version's where none is live.

    Where that cannot be read, nothing is known of the new data: a finding that refuses it.
    """
    champion = release.champion(root, model) or 0
    folder = root / model
    newest = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0
    wanted = champion or newest
    try:
        return champion, release.verified(root, model, wanted) if wanted else None, []
    except ContractError as error:
        which = f"version {wanted}, which is live" if champion else f"version {wanted}, the newest"
        text = f"the new data cannot be held against what {which}, was trained on: {error}. Or promote another version"
        return champion, None, [Finding("former", "error", "", None, None, text)]


def _validated(
    spec: ModelSpec, training_set: TrainingSet, former: Contract | None, unknown: list[Finding], force: bool
) -> tuple[Mapping[str, Part], list[Finding]]:
    """The splits, and what the checks of the data found. Raises DataError."""
    from training.data.training_set import read

    findings = [*unknown, *validation.check_parts(spec, read(training_set.path), training_set.inputs)]
    validation.require(spec, findings, force)
    parts = split(spec, training_set)
    if former is not None:
        findings += validation.against_former(spec, parts, training_set.inputs, former)
        validation.require(spec, findings, force)
    return parts, findings


def _calibration(spec: ModelSpec, fitted: Fitted, scores: Mapping[str, NDArray[np.float64]], measured: metrics.Measured) -> dict[str, Any]:
    """How the scores were calibrated, and the calibration error on held-out rows with and without it."""
    after = measured.metrics[measured.held_out]["calibration_error"]
    found: dict[str, Any] = {"method": spec.calibration, "slope": fitted.slope, "intercept": fitted.intercept}
    found["positive_weight"] = spec.imbalance.positive_weight if spec.imbalance else 1.0
    found |= {"on": measured.held_out, "error_before": after, "error": after}
    if (fitted.slope, fitted.intercept) != (1.0, 0.0):
        raw = (calibration.log_odds(scores[measured.held_out]) - fitted.intercept) / fitted.slope
        label = fitted.parts[measured.held_out].label
        found["error_before"] = METRICS["calibration_error"].value(label, calibration.sigmoid(raw))
    return found


def _spans(spec: ModelSpec) -> dict[str, Any]:
    spans = {"train": spec.split.train, "valid": spec.split.valid, "test": spec.split.test}
    return {name: span for name, span in spans.items() if span}


def _claim(partial: Path, root: Path, made: Contract, complete: Callable[[Path, Contract], None] | None = None) -> tuple[Path, Contract]:
    """Move the folder to the next free version number; two trainings at once get two numbers.

    Args:
        complete: writes what depends on the number, after the contract.
    """
    while True:
        version = 1 + max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0)
        made = msgspec.structs.replace(made, version=version)
        contract.write(partial, made)
        if complete is not None:
            complete(partial, made)
        try:
            partial.rename(root / str(version))  # fails where another training has taken the number: a folder with files is never replaced
        except OSError:
            if not (root / str(version)).exists():
                raise
            continue
        return root / str(version), made
