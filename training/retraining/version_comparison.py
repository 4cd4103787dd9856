"""Two versions on what was really asked: every logged request with a truth, scored by both from the inputs that were logged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from feature_repo.metrics.table import COMPARED
from feature_repo.spec.model import ModelSpec
from feature_repo.triggers.base import DAY_US
from streaming.offline.archive import Archive
from training.evaluation.comparison import Comparison, ComparisonError, compare
from training.evaluation.rescoring import scored
from training.evaluation.sequential import compare_as_it_comes, gains
from training.monitoring.live_quality import Labelled, labelled

ROWS = 50_000
"""The newest requests that are looked at, at most."""
FEWEST_DAYS = 5


class HeadToHead(msgspec.Struct, frozen=True):
    """
    Attributes:
        requests: both have been scored on; `blocks` what was drawn: days, or rows where there are too few days.
        answered: how many of them each version answered itself.
    """

    version: int
    against: int
    requests: int
    blocks: str
    answered: dict[int, int]
    metrics: list[Comparison]
    verdict: str


def head_to_head(archive: Archive, models: Path, spec: ModelSpec, version: int, against: int) -> HeadToHead:
    """Compare two versions on the archive's answered requests whose truth is known, the newest ROWS of them.

    Requests are those that either of the two answered: none, if neither did.

    Raises:
        ContractError: a version does not verify.
        NotComparable: one reads inputs that the other's log does not have.
        ComparisonError: there are no such requests, or of one class only.
    """
    rows = labelled(archive, spec)
    rows = rows.where(~np.isnan(rows.label) & (rows.role != "shadow") & np.isin(rows.version, (version, against)))
    rows = rows.take(np.arange(max(0, len(rows.label) - ROWS), len(rows.label)))
    if not len(rows.label):
        raise ComparisonError(f"no request that version {version} or {against} answered has a truth yet")
    mine, other = (_scores(rows, models, spec, v) for v in (version, against))
    day = rows.at_us // DAY_US
    enough = len(set(day.tolist())) >= FEWEST_DAYS
    metrics = [compare(rows.label, other, mine, name, groups=day if enough else None) for name in COMPARED]
    order = np.argsort(rows.known_us, kind="stable")
    always = compare_as_it_comes(gains(rows.label[order], other[order], mine[order]), day[order])
    verdict = {
        "better": f"version {version} is better",
        "worse": f"version {version} is worse",
        "undecided": "which one is better is not decided",
    }[always.verdict]
    text = f"{verdict}: Brier score better by {always.text}"
    answered = {v: int((rows.version == v).sum()) for v in (version, against)}
    return HeadToHead(version, against, len(rows.label), "days" if enough else "rows", answered, metrics, text)


def _scores(rows: Labelled, models: Path, spec: ModelSpec, version: int) -> np.ndarray:
    """What it answered where it did, and what it would have answered elsewhere."""
    return np.where(rows.version == version, rows.score, scored(models, spec.name, version).score(rows.table))
