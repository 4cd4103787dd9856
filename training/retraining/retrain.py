"""Training again at a moment: the spec's splits moved up to it, a new version registered, and the gates it must pass to be let out.

`rolled` says what a retraining trains on, `challenge` what it is compared with: the champion, on the same held-out rows, which neither
was fitted on. What the gates found lies beside the loop's journal (`gates-<version>.json`), so that a step done twice is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from feature_repo.records import contract, release
from feature_repo.records.contract import Contract, ContractError
from feature_repo.spec.use_case import ModelSpec, Span, Split, UseCase
from infra import files
from infra.timestamps import microseconds, moment_at
from training.data.column_moments import micros
from training.evaluation.rescoring import NotComparable, Scored, scored
from training.retraining.triggers import DAY_US

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from infra.settings import Settings
    from training.evaluation.comparison import SliceComparison
    from training.export.certificate import Certificate

TRIGGER = "trigger"
"""Key of a contract's provenance: the id of what asked for the training."""


class Checked(msgspec.Struct, frozen=True):
    """One gate: what was looked at, whether it holds, and the numbers in words."""

    name: str
    passed: bool
    text: str


class Gates(msgspec.Struct, frozen=True):
    """What the gates found of a challenger. `forced` ones were passed over by a person."""

    version: int
    champion: int | None
    checks: list[Checked]
    forced: bool = False
    spread: float | None = None
    """Of the challenger's gain in Brier score between held-out days (`sequential.spread`): what a stage of few days cannot see itself."""

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(c.passed for c in self.checks)  # nothing looked at is nothing passed


def rolled(spec: ModelSpec, now_us: int) -> ModelSpec:
    """The spec with its splits moved up to the day of a moment: train, valid, test, each right before the next.

    The bounds a first model had to reach stay for `valid`; those on `test` were set for another test split.

    Raises:
        ValueError: nothing is left to train on.
    """
    asked = spec.learning.retraining
    end = moment_at(now_us).date()
    test = end - timedelta(days=asked.test_days)
    valid = test - timedelta(days=asked.valid_days)
    start = spec.split.train.start if asked.train_days is None else valid - timedelta(days=asked.train_days)
    start = max(start, spec.split.train.start)
    if start >= valid:
        raise ValueError(f"model {spec.name!r}: a training at {end} would train on nothing: it begins on {start}, validation on {valid}")
    split = Split(train=Span(start=start, end=valid), valid=Span(start=valid, end=test), test=Span(start=test, end=end))
    return spec.model_copy(update={"split": split, "gates": [g for g in spec.gates if g.on == "valid"]})


@contextmanager
def alone(settings: Settings, model: str) -> Iterator[None]:
    """One training of a model at a time in a checkout: the second waits, and then finds what the first made.

    A killed autopilot leaves its training behind; the next one must not make the same version twice.
    """
    with files.alone(settings.state / "autopilot" / model / "training.lock"):
        yield


def find(settings: Settings, model: str, trigger: str) -> int | None:
    """The version that a trigger has made already, if it has: a training that is asked for twice is one training."""
    root = settings.model_root / model
    for folder in sorted(root.glob("[0-9]*"), key=lambda p: -int(p.name) if p.name.isdigit() else 0):
        try:
            made = contract.load(folder)
        except contract.ContractError:
            continue
        if made.provenance.get(TRIGGER) == trigger:
            return made.version
    return None


def retrain(
    spark: Callable[[], SparkSession],
    case: UseCase,
    settings: Settings,
    spec: ModelSpec,
    now_us: int,
    provenance: dict[str, str],
    progress: Callable[[str], None] = lambda _: None,
) -> int:
    """Build the training set as it was known at a moment, fit and register. Returns the version; the one that is there, if it is.

    Raises:
        SplitError, GateError, ExportError, JoinError: no version was made.
    """
    from training.data.training_set import build
    from training.registration.register import train_and_register

    found = find(settings, spec.name, provenance[TRIGGER])
    if found is not None:
        return found
    moved = rolled(spec, now_us)
    progress("joining the training set")
    made = build(spark(), case, settings, moved, now_us)
    progress(f"fitting on {made.rows:,} examples")
    return train_and_register(moved, made, settings, provenance=provenance).version


def gates_path(settings: Settings, model: str, version: int) -> Path:
    return settings.state / "autopilot" / model / f"gates-{version}.json"


def read_gates(settings: Settings, model: str, version: int) -> Gates | None:
    """What the gates found of a version; None where they were not asked yet, or cannot be read: they are asked again then."""
    path = gates_path(settings, model, version)
    try:
        return files.read_json(path, Gates)
    except FileNotFoundError:
        return None
    except files.FileError as error:
        files.put_aside(path, error)
        return None


def write_gates(settings: Settings, model: str, gates: Gates) -> None:
    path = gates_path(settings, model, gates.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, msgspec.json.format(msgspec.json.encode(gates), indent=1))


def challenge(spark: Callable[[], SparkSession], case: UseCase, settings: Settings, spec: ModelSpec, version: int) -> Gates:
    """Every gate between a registered version and its first request: certificate, budgets, the champion, slices, skew, the log.

    What cannot be looked at does not pass. Only where nothing is live yet there is nothing to compare with, and the gates say that.

    Raises:
        ContractError: the version's folder does not verify.
    """
    made = release.verified(settings.model_root, spec.name, version)
    champion = release.champion(settings.model_root, spec.name)
    checks = [Checked(str(g["metric"]), bool(g["passed"]), f"at registration, on {g['on']}: {g['measured']}") for g in made.gates]
    challenger = scored(settings.model_root, spec.name, version)
    held_out = _held_out(settings, spec, made)
    checks += _export(settings, spec, made, held_out, challenger)
    varies = None
    if champion is None:
        checks.append(Checked("champion", True, "no version is live yet: there is none to compare with"))
        checks.append(Checked("skew", True, "no version is live yet: nothing was served"))
    elif champion == version:
        checks.append(Checked("champion", True, "this version is live itself"))
    else:
        try:
            found, varies = _against(spec, held_out, challenger, scored(settings.model_root, spec.name, champion))
            checks += found
        except (NotComparable, ContractError) as error:
            checks.append(Checked("champion", False, f"not known: {error}"))
        checks.append(_skew(spark, case, settings, spec, champion))
    checks.append(_on_the_log(settings, case, spec, challenger))
    return Gates(version, champion, checks, spread=varies)


def _held_out(settings: Settings, spec: ModelSpec, made: Contract) -> pa.Table:
    """The labelled rows of the version's own test split (or validation split, where it has none)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from training.data.training_set import read

    path = settings.state / "training_sets" / spec.name / str(made.training_set["path"])
    table = read(path)
    start, end = made.split.get("test", made.split["valid"])
    at = micros(table, spec.spine.timestamp)
    first, last = (microseconds(datetime.fromisoformat(day).replace(tzinfo=UTC)) for day in (start, end))
    return table.filter(pc.and_(pa.array((at >= first) & (at < last)), pc.is_valid(table[spec.spine.label])))


def _export(settings: Settings, spec: ModelSpec, made: Contract, held_out: pa.Table, challenger: Scored) -> list[Checked]:
    import lightgbm

    from training.export.certificate import certify

    folder, asked = settings.model_root / spec.name / str(made.version), spec.learning.challenge
    booster = lightgbm.Booster(model_file=str(folder / "lightgbm.txt"))
    found = certify(booster, (folder / contract.MODEL).read_bytes(), challenger.matrix(held_out), spec.threshold)
    p99, megabytes = found.latency_us["p99"], found.bytes / 1e6
    return [
        Checked("export", found.passed, _account(found)),
        Checked("latency", p99 <= asked.p99_us, f"one row in {p99:.0f} µs (p99), at most {asked.p99_us:g}"),
        Checked("size", megabytes <= asked.megabytes, f"{megabytes:.2f} MB, at most {asked.megabytes:g}"),
    ]


def _account(found: Certificate) -> str:
    if not found.passed:
        from training.export.certificate import CertificateError

        try:
            found.require()
        except CertificateError as error:
            return str(error)
    probes = sum(p.rows for p in found.probes.values())
    return (
        f"within {found.max_abs_difference:.1g} of LightGBM on {found.rows:,} held-out rows and {probes - found.rows:,} probes "
        f"of {found.splits_probed:,} splits, {found.flips} decisions flip"
    )


def _against(spec: ModelSpec, held_out: pa.Table, challenger: Scored, champion: Scored) -> tuple[list[Checked], float | None]:
    """Challenger and champion on the same rows, and the spread of the gain between days.

    Days are drawn whole, since the rows of a day share their circumstances.
    """
    from training.evaluation.comparison import ComparisonError, compare, slices
    from training.evaluation.sequential import gains, spread

    asked = spec.learning.challenge
    label = held_out[spec.spine.label].to_numpy().astype(np.float64)
    ours, theirs = challenger.score(held_out), champion.score(held_out)
    day = micros(held_out, spec.spine.timestamp) // DAY_US
    try:
        whole = compare(label, theirs, ours, asked.metric, groups=day)
    except ComparisonError as error:
        return [Checked("champion", False, f"cannot be compared on {len(label):,} held-out rows: {error}")], None
    passed = whole.low >= -asked.margin
    text = (
        f"{asked.metric} {whole.challenger:.4f}, version {champion.contract.version} {whole.champion:.4f} on the same {whole.rows:,} rows; "
        f"better by {whole.difference:+.4f} ({whole.low:+.4f} to {whole.high:+.4f}), margin {asked.margin:g}"
    )
    checks = [Checked("champion", passed, text)]
    absent = [c for c in spec.slices if c not in held_out.column_names]
    if absent:
        checks.append(Checked("slices", False, f"not known: the held-out rows have no column {', '.join(absent)}"))
    columns = {c: np.array([str(v) for v in held_out[c].to_pylist()]) for c in spec.slices if c in held_out.column_names}
    if columns:
        checks.append(_slices(slices(label, theirs, ours, columns, asked.slice_margin, metric=asked.metric, groups=day), columns, spec))
    return checks, spread(gains(label, theirs, ours), day)


def _slices(parts: Sequence[SliceComparison], columns: Collection[str], spec: ModelSpec) -> Checked:
    """No slice is surely worse; one that cannot be compared is not known to be no worse, and a column of which none can be looked at neither."""
    from training.evaluation.comparison import SMALLEST

    asked = spec.learning.challenge
    named = [f"{s.column} {s.value}: {s.difference:+.4f}" for s in parts if s.measured is not None and not s.passed]
    named += [f"{s.column} {s.value} is not known: {s.unknown} (`challenge.metric` is {asked.metric})" for s in parts if s.measured is None]
    unseen = sorted(set(columns) - {s.column for s in parts})
    named += [f"{c} is not known: none of its values has {SMALLEST} held-out rows (`retraining.test_days`)" for c in unseen]
    text = f"none of {len(parts)} is surely worse by more than {asked.slice_margin:g}"
    return Checked("slices", not named, "; ".join(named[:5]) or text)


def _skew(spark: Callable[[], SparkSession], case: UseCase, settings: Settings, spec: ModelSpec, champion: int) -> Checked:
    """The champion's newest logged vectors, recomputed: a challenger trained on other numbers than those served would prove nothing."""
    from streaming.offline.archive import of
    from training.monitoring.skew import SkewError, prove
    from training.monitoring.skew_causes import over_budget

    asked = spec.learning.challenge.skew_rows
    if not asked:
        return Checked("skew", True, "left out by the spec (`challenge.skew_rows` is 0)")
    archive = of(settings, case.project)
    rows = archive.predictions(spec.name)
    keep = [v == champion and r != "shadow" for v, r in zip(rows["model_version"].to_pylist(), rows["role"].to_pylist(), strict=True)]
    rows = rows.filter(np.array(keep, dtype=bool)) if rows.num_rows else rows
    if not rows.num_rows:
        text = (
            f"not known: no prediction of version {champion}, which is live, is archived. Let it answer requests first (`headrace archive`)"
        )
        return Checked("skew", False, f"{text}, or leave the check out (`challenge.skew_rows: 0`)")
    try:
        log = archive.restore(spec.name, rows.slice(max(0, rows.num_rows - asked)))
        made = release.verified(settings.model_root, spec.name, champion)
        found = prove(spark, case, settings, made, log, spec.learning.challenge.stale_after_s)
    except (ContractError, SkewError) as error:
        return Checked("skew", False, f"not known: {error}")
    if not found.cells:
        stored = [i.name for i in made.inputs if i.kind != "request"]
        text = f"not known: no value of {', '.join(stored[:3])} could be recomputed" if stored else "the live version reads no feature"
        return Checked("skew", not stored, text)
    over = over_budget(found.causes, found.cells, {str(c): share for c, share in spec.learning.challenge.skew_budget.items()})
    counted = ", ".join(f"{cause} {n:,}" for cause, n in found.causes.items()) or "no difference"
    text = f"{found.cells:,} cells of {found.predictions:,} predictions: {counted}"
    if over:
        text += f"; over budget: {'; '.join(f'{cause}: {said}' for cause, said in over.items())}"
    return Checked("skew", not over, text)


def _on_the_log(settings: Settings, case: UseCase, spec: ModelSpec, challenger: Scored) -> Checked:
    """The first shadow: yesterday's requests, as they were answered, scored by the challenger. Nobody waits for it.

    Where there are none that it can be asked, the live shadow asks it, before it answers anyone.
    """
    from streaming.offline.archive import of

    rows = of(settings, case.project).predictions(spec.name)
    rows = rows.filter(np.array([r != "shadow" for r in rows["role"].to_pylist()], dtype=bool)) if rows.num_rows else rows
    if not rows.num_rows:
        return Checked("log", True, "no answered request is archived: the live shadow will show it")
    at = micros(rows, "event_timestamp")
    rows = rows.filter(at >= at.max() - DAY_US)
    try:
        mine = challenger.score(rows)
    except NotComparable as error:
        return Checked("log", True, f"{error}: the live shadow will show it")
    theirs = rows["score"].to_numpy()
    broken = int((~((mine >= 0) & (mine <= 1))).sum())
    moved = np.abs(mine - theirs).mean()
    text = f"{len(mine):,} requests of the last day: scores move by {moved:.4f} on average, {broken} are no probabilities"
    return Checked("log", broken == 0, text)


def summary(gates: Gates) -> dict[str, Any]:
    return {c.name: f"{'passed' if c.passed else 'failed'}: {c.text}" for c in gates.checks}
