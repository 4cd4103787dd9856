"""The export certificate: an ONNX file is accepted only where it scores what LightGBM scores, on rows that were held out and on every probe.

What is probed, and why held-out rows are not enough, is in `training/export/probes.py`. The real rows that probes start from are those whose score is
nearest to 0.5, where a probability shows a changed leaf best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from feature_repo.records import onnx_session
from feature_repo.records.onnx_session import INPUT, OUTPUT
from training.export.probes import CHUNK, Batch, Floats, at_inputs, at_splits, count, splits

if TYPE_CHECKING:
    import lightgbm

TOLERANCE = 1e-9
SPLITS = 20_000
"""Of a model with more splits, this many are probed, evenly over the trees; the certificate states both numbers."""
BASES, ANCHORS, SINGLES = 12, 64, 1_000
_MOST = float(np.finfo(np.float64).max)


class CertificateError(ValueError):
    """The export is not accepted: it cannot be run as serving would, or scores something else than LightGBM. Names the probes."""


class Probe(msgspec.Struct, frozen=True):
    """What one kind of probe found. `feature`, `value` and both scores are of the worst row, as text: JSON has no NaN."""

    rows: int
    max_abs_difference: float
    flips: int
    nan_mismatches: int
    feature: str
    value: str
    lightgbm: str
    onnx: str

    @property
    def passed(self) -> bool:
        return self.max_abs_difference <= TOLERANCE and not self.flips and not self.nan_mismatches


class Certificate(msgspec.Struct, frozen=True):
    """How an export was compared with its model, and what came of it."""

    rows: int
    """Rows held out that were compared."""
    splits: int
    splits_probed: int
    probes: dict[str, Probe]
    """By kind: `hold_out`, `thresholds`, `float32`, `nulls`, `zeros`, `extremes`, `numbers`, `single_row`, and `categories` where there are."""
    max_abs_difference: float
    """Over every kind; a score that is NaN on one side only counts as the largest float."""
    threshold: float
    flips: int
    """Rows that are `score >= threshold` of one and not of the other."""
    latency_us: dict[str, float]
    """`p50` and `p99` of one row in one thread, microseconds, as ONNX Runtime takes it from Python."""
    bytes: int
    seconds: float
    """What certifying took."""

    @property
    def passed(self) -> bool:
        return bool(self.probes) and all(p.passed for p in self.probes.values())

    @property
    def failed(self) -> dict[str, Probe]:
        """The kinds that failed, the largest difference first."""
        return dict(sorted(((k, p) for k, p in self.probes.items() if not p.passed), key=lambda kp: -kp[1].max_abs_difference))

    def require(self) -> None:
        """Raise CertificateError, naming each kind of probe that failed with its worst input and value, unless the export passed."""
        if self.passed:
            return
        said = []
        for kind, p in self.failed.items():
            flips = f", {p.flips} decisions flip at {self.threshold:g}" if p.flips else ""
            said.append(
                f"{kind} ({p.rows} probes): {p.max_abs_difference:.3g} off at {p.feature} = {p.value}, "
                f"where LightGBM says {p.lightgbm} and ONNX {p.onnx}{flips}"
            )
        raise CertificateError(f"the ONNX export does not score what LightGBM scores (tolerance {TOLERANCE:g}): " + "; ".join(said))


class _Tally:
    """Adds up one kind."""

    def __init__(self) -> None:
        self.rows = self.flips = self.nans = 0
        self.worst, self.where = -1.0, ("", "", "", "")

    def add(self, batch: Batch, theirs: Floats, ours: Floats, threshold: float, names: list[str]) -> None:
        with np.errstate(invalid="ignore"):
            difference = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
        difference = np.where(np.isnan(ours) & np.isnan(theirs), 0.0, np.nan_to_num(difference, nan=_MOST, posinf=_MOST))
        self.rows += len(ours)
        self.flips += int(((ours >= threshold) != (theirs >= threshold)).sum())
        self.nans += int((np.isnan(ours) != np.isnan(theirs)).sum())
        i = int(difference.argmax())
        if difference[i] > self.worst:
            self.worst = float(difference[i])
            if batch.features is None:
                place = ("row", str(batch.first + i))
            else:
                f = int(batch.features[i])
                place = ("every input" if f < 0 else f"input {names[f]!r}", repr(float(batch.matrix[i, max(f, 0)])))
            self.where = (*place, repr(float(theirs[i])), repr(float(ours[i])))

    def probe(self) -> Probe:
        return Probe(self.rows, max(self.worst, 0.0), self.flips, self.nans, *self.where)


def _session(onnx: bytes, inputs: int) -> Callable[[Floats], Floats]:
    """What scores a matrix as serving does: one thread, the input and output of the contract."""
    try:
        session = onnx_session.session(onnx)
    except Exception as error:  # ONNX Runtime raises a class of its own per failure, all below Exception
        raise CertificateError(f"ONNX Runtime cannot load the export: {error}") from None
    takes = {i.name: (i.type, i.shape[-1] if i.shape else None) for i in session.get_inputs()}
    if list(takes) != [INPUT] or takes[INPUT][0] != "tensor(double)" or takes[INPUT][1] not in (inputs, None):
        raise CertificateError(f"the export takes {takes}; serving gives it {INPUT!r}, tensor(double) of {inputs} columns")
    if OUTPUT not in {o.name for o in session.get_outputs()}:
        raise CertificateError(f"the export has no output {OUTPUT!r}, which serving reads")

    def score(matrix: Floats) -> Floats:
        try:
            found = np.asarray(session.run([OUTPUT], {INPUT: matrix})[0], dtype=np.float64).reshape(-1)
        except Exception as error:
            raise CertificateError(f"the export fails on {len(matrix)} rows: {error}") from None
        if len(found) != len(matrix):
            raise CertificateError(f"the export gives {len(found)} scores for {len(matrix)} rows; serving expects one each")
        return found

    return score


def certify(
    booster: lightgbm.Booster,
    onnx: bytes,
    rows: Floats,
    threshold: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Compare an export with its model; `Certificate.require` refuses what did not pass. Takes about 25 microseconds per row and probe.

    Args:
        rows: float64 `[n, inputs]` in the model's order, NaN for null; held out, so as callers send them.
        threshold: what callers decide by (`score >= threshold`), in the unit of the score. Put it between scores, not on one:
            a sum may differ in its last bit, and would then flip.
        progress: told the rows and probes compared, and of how many.

    Raises:
        CertificateError: there are no rows or of another width, or the export cannot be run as serving would.
    """
    began = time.perf_counter()
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    inputs = booster.num_feature()
    if rows.ndim != 2 or rows.shape[1] != inputs or not len(rows):
        raise CertificateError(f"a certificate needs rows that were held out, [n, {inputs}]; these are {list(rows.shape)}")
    score = _session(onnx, inputs)
    every = splits(booster)
    probed = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, SPLITS).astype(int))] if len(every) > SPLITS else every
    bases = rows[np.unique(np.linspace(0, len(rows) - 1, BASES).astype(int))]
    names = booster.feature_name()
    tallies: dict[str, _Tally] = {}
    done, total = 0, len(rows) + count(probed, len(bases), inputs)

    with ThreadPoolExecutor(1) as pool:

        def compare(batch: Batch) -> Floats:
            nonlocal done
            pending = pool.submit(booster.predict, batch.matrix, num_threads=1)  # both let go of Python, so both cores work
            ours = score(batch.matrix)
            theirs = np.asarray(pending.result(), dtype=np.float64)
            tallies.setdefault(batch.kind, _Tally()).add(batch, theirs, ours, threshold, names)
            done += len(ours)
            if progress is not None:
                progress(done, total)
            return theirs

        known = np.concatenate([compare(Batch("hold_out", rows[i : i + CHUNK], None, i)) for i in range(0, len(rows), CHUNK)])
        nearest = np.argsort(np.abs(known - 0.5), kind="stable")[:ANCHORS]
        for batch in at_splits(probed, rows[nearest]):
            compare(batch)
        for batch in at_inputs(bases):
            compare(batch)
    singles = rows[np.linspace(0, len(rows) - 1, SINGLES).astype(int)]
    ours, latency = _one_by_one(score, singles)
    # ONNX Runtime takes another way for one row than for many
    theirs = np.asarray(booster.predict(singles, num_threads=1), dtype=np.float64)
    tallies.setdefault("single_row", _Tally()).add(Batch("single_row", singles, None), theirs, ours, threshold, names)
    probes = {kind: tally.probe() for kind, tally in tallies.items()}
    return Certificate(
        rows=len(rows),
        splits=len(every),
        splits_probed=len(probed),
        probes=probes,
        max_abs_difference=max(p.max_abs_difference for p in probes.values()),
        threshold=threshold,
        flips=sum(p.flips for p in probes.values()),
        latency_us=latency,
        bytes=len(onnx),
        seconds=round(time.perf_counter() - began, 3),
    )


def _one_by_one(score: Callable[[Floats], Floats], rows: Floats) -> tuple[Floats, dict[str, float]]:
    """Scores `[n]` of rows given singly, and percentiles of how long one took, in microseconds."""
    scores, took = np.empty(len(rows)), np.empty(len(rows))
    for _ in range(50):
        score(rows[:1])
    for i in range(len(rows)):
        start = time.perf_counter_ns()
        scores[i] = score(rows[i : i + 1])[0]
        took[i] = (time.perf_counter_ns() - start) / 1e3
    return scores, {f"p{p}": round(float(np.percentile(took, p)), 1) for p in (50, 99)}
