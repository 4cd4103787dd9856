"""A window of predictions and the verdict on it: pure, so that the same entries get the same verdict whoever reads them, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.records.prediction import Mark, Moment, Whole, rows
from feature_repo.records.verdict import FeatureVerdict, Kind, Span, Verdict
from serving.monitoring.hours import Matrix, Moments, core
from serving.monitoring.reference import Fitted, Reference
from serving.monitoring.triage.explanation import explain_drift
from serving.monitoring.triage.seen import Clues, Seen

FEWEST_TRUTHS = 100
"""Below these a window's base rate is not judged."""
NOTHING = Clues()
_LETTERS = {b"s": "stale", b"n": "null", b"m": "missing"}


class Row(msgspec.Struct, frozen=True):
    """What the watch reads of a logged `Prediction`."""

    id: str
    model: str
    version: Whole
    at_us: Moment
    values: list[float | None]
    score: float
    of: str | None = None
    statuses: str = ""
    marks: dict[str, Mark] = {}


Entry = tuple[str, Row]
"""Stream id and row."""


class Window:
    """The newest entries of one version, and those since its last verdict (`pending`, still unacknowledged)."""

    def __init__(self, reference: Reference, rows: int, before: Iterable[Entry]) -> None:
        self.reference = reference
        self.entries: deque[Entry] = deque(before, maxlen=rows)
        self.pending: list[str] = []
        self.judged = False
        """Whether a verdict has been reached before; until then the window has to fill up."""

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.pending.append(entry[0])

    def due(self, step: int) -> bool:
        return len(self.entries) == self.entries.maxlen and (len(self.pending) >= step or not self.judged)

    def matrix(self) -> Matrix:
        """float64 [m, F + 1]: inputs in the contract's order as the model got them, then the score; NaN is null."""
        made = self.reference.contract
        values, letters = rows([row.values for _, row in self.entries], [row.statuses for _, row in self.entries], len(made.inputs))
        return np.column_stack([made.model_inputs(values, letters), [row.score for _, row in self.entries]])

    def ids(self) -> list[str]:
        """Of the predictions that its truths belong to: a shadow's is that of the answer beside it."""
        return [row.of or row.id for _, row in self.entries]

    def statuses(self) -> NDArray[np.bytes_]:
        """One letter per value, S1 [m, F]; `r` (nothing known) where an entry has not one letter per input."""
        width = len(self.reference.contract.inputs)
        return rows([row.values for _, row in self.entries], [row.statuses for _, row in self.entries], width)[1].view("S1")


# wide: all that a verdict rests on
def judge(
    window: Window,
    kind: Kind,
    skipped: int = 0,
    unequal: tuple[int, int] = (0, 0),
    labels: Mapping[str, float] | None = None,
    clues: Clues = NOTHING,
    differing: Sequence[str] = (),
) -> Verdict:
    """The verdict on a window as it stands.

    Args:
        labels: the truths known so far, 0/1 by prediction id.
        unequal: what the equality check has found meanwhile: values compared, and of these not equal.
        clues: what is known beyond the window, for triage.
        differing: some of the values that are not equal, as text.
    """
    reference = window.reference
    identity, newest = window.entries[-1]
    utc = np.array([row.at_us for _, row in window.entries], dtype=np.int64)
    truth = np.array([(labels or {}).get(number, np.nan) for number in window.ids()])
    shown = [row.id for _, row in window.entries]
    seen = Seen(window.matrix(), utc, window.statuses(), unequal, shown, clues.calendar.local(utc), differing=differing)
    found = verdict_on(f"{newest.version}@{identity}", (newest.model, newest.version), seen, truth, reference, clues, kind)
    return msgspec.structs.replace(
        found, skipped=skipped, degraded=_degraded(seen.statuses, reference.views), oldest_s=_oldest(window.entries)
    )


# wide: all that a verdict rests on
def verdict_on(identity: str, version: tuple[str, int], seen: Seen, truth: Matrix, reference: Fitted, clues: Clues, kind: Kind) -> Verdict:
    """The verdict on rows, wherever they come from: the log, or a rehearsal.

    Args:
        version: the model's name, and the version's number.
        truth: of each row as far as it is known, float64 [m]; else NaN.
    """
    seen = replace(seen, truth=truth)
    matrix, moments = seen.matrix, seen.local
    *features, score = reference.drift.test(matrix, moments)
    expected = reference.expected(moments)
    answered = expected.look(matrix[:, -1], truth, moments) if expected is not None else None
    return Verdict(
        id=identity,
        model=version[0],
        version=version[1],
        at_us=int(seen.moments[-1]),
        window=Span(len(moments), int(seen.moments.min()), int(seen.moments.max()), core(seen.moments)),
        drift=score.drift or any(f.drift for f in features),
        features=features,
        score=score,
        outliers=reference.outliers.test(matrix[:, :-1], reference.drift.null(moments)),
        detector=kind,
        triage=explain_drift(seen, [*features, score], reference, clues, answered),
        calibrated=reference.drift.calibrated(moments),
        label=_label(reference, truth, moments),
        answers=expected.summary(matrix[:, -1], answered) if expected is not None else None,
    )


def _label(reference: Fitted, truth: Matrix, moments: Moments) -> FeatureVerdict | None:
    """Whether the base rate of the predictions whose truth is known has moved; None where too few are, or the reference does not say."""
    known = ~np.isnan(truth)
    if known.sum() < FEWEST_TRUTHS or reference.truths is None:
        return None
    return reference.truths.test(truth[known, None], moments[known])[0]


def _degraded(statuses: NDArray[np.bytes_], views: list[str]) -> dict[str, dict[str, float]]:
    """Shares of each view's values that are stale, null or missing; views of which none is are left out."""
    found: dict[str, dict[str, float]] = {}
    for view in dict.fromkeys(views):
        own = statuses[:, [v == view for v in views]]
        shares = {name: round(float((own == letter).mean()), 4) for letter, name in _LETTERS.items() if (own == letter).any()}
        if shares:
            found[view] = shares
    return found


def _oldest(entries: Iterable[Entry]) -> dict[str, float]:
    """By view, the age that 99 % of its values stay within, in seconds: from a value's high-water mark to its request's moment."""
    ages: dict[str, list[float]] = {}
    for _, row in entries:
        for view, mark in row.marks.items():
            if mark.known_us is not None:
                ages.setdefault(view, []).append((row.at_us - mark.known_us) / 1e6)
    return {view: round(float(np.quantile(found, 0.99)), 1) for view, found in ages.items()}
