"""What speaks for a fault of the pipeline, and against which view.

Looked for in every input that drifted, in the window and in its newest quarter (a fault comes at once, and the alarm comes before it
fills the window). From what is seen outright to what is inferred:

- stale: values past their ttl beyond the nulls that the reference has;
- missing, null: most values of an input are gone that the reference has;
- lost at random: fewer are gone, but no other input tells the rows that lack it from those that do not. With other customers, something
  would;
- stuck: nearly all values of an input are one;
- one value: a share of the values are one that the reference hardly has (a sentinel, a bound), or one that nulls have become;
- clock: an input that the hour of the week determines no longer follows it;
- unit or column: an input has moved, and its relatives have not moved with it (`serving.monitoring.dependence`): what the others say it should be is
  what it was before; or it went far and the others of its view stayed. A short move of an input that nothing explains gives no such
  evidence;
- rows: the inputs of a view no longer go with the others row by row, in slope and in correlation: joined by a wrong key, or frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from serving.monitoring.dependence import BOND, Relations
from serving.monitoring.hours import Matrix, Moments, cells
from serving.monitoring.kinds.base import Shares
from serving.monitoring.kinds.table import KINDS, MATTERS
from serving.monitoring.verdict import FeatureVerdict

NEWEST = 4
"""The part of the window, one in so many rows, in which a fault that has just begun is looked for."""
STALE = 0.05
"""Share of stale values beyond the reference's nulls that speaks for a fault."""
GONE = 0.5
"""Share of values gone that speaks for a fault; fewer nulls come with other customers, too."""
AT_RANDOM = 0.001
"""p-value down to which a Kolmogorov–Smirnov test may tell the rows that lack an input, over all other inputs together."""
LOST = 0.05
"""Share of values gone beyond the reference's from which it is asked whether they were lost at random."""
FEWEST_LOST = 200
"""Fewer rows than these cannot tell."""
STUCK = 0.9
REPEATED, VALUES = (float(MATTERS[KINDS.index(kind)]) for kind in ("repeated", "values"))
FOREIGN = 0.1
"""A value is foreign if the reference has it at most so many times as often."""
LONELY = 3
"""How many times as often as any other foreign value one must come to be a sentinel: numbers that grow bring several."""
LUMP = 1 / 3
"""Most of a sentinel's rows that one tenth of the window may hold: what lasts for an hour comes in one piece."""
LOOSE = 0.75
"""The part of their slope on their relatives, and of their correlation, that the inputs of a view must have lost on average (other
customers bend them, another key ends them)."""
MOVED = 0.5
"""Smallest move of an input, in standard deviations, at which its relatives are asked."""
APART = 0.75
"""Smallest part of a move that its relatives do not explain, in standard deviations, that speaks for a fault."""
ALONE = (0.65, 3.0)
"""The part of its move that its relatives do not explain, between which it moved alone."""
FAR = 3.0
"""By how many standard deviations, and how many times as far as all others of its view, an input that nothing explains moved alone."""
EXPLAINED = 0.3
"""Share of an input's variance that its relatives must explain to be asked."""


@dataclass(frozen=True)
class Seen:
    """A window.

    Attributes:
        matrix: inputs and the score, float64 [m, F + 1]; NaN is null.
        moments: int64 [m], microseconds since the epoch.
        statuses: one letter per value as in `Prediction`, S1 [m, F]; `r` where nothing is known.
        unequal: values that the equality check compared, and of these not equal.
    """

    matrix: Matrix
    moments: Moments
    statuses: NDArray[np.bytes_]
    unequal: tuple[int, int] = (0, 0)


def evidence(
    seen: Seen,
    verdicts: Sequence[FeatureVerdict],
    drifted: Sequence[int],
    views: Sequence[str],
    reference: Matrix,
    relations: Relations | None,
) -> dict[int, tuple[float, str]]:
    """What speaks for a fault.

    Args:
        verdicts: of the F inputs and the score, in order.
        drifted: the inputs to look at.
        views: the view of each input.
        reference: float64 [n, F + 1]; NaN is null.
        relations: of the reference; None where it has no moments.

    Returns:
        By input: how strongly (what is seen outright before what is inferred), and a clause that says it.
    """
    found: dict[int, tuple[float, str]] = {}
    for part in (slice(None), slice(-max(len(seen.moments) // NEWEST, 1), None)):
        rows, letters = seen.matrix[part], seen.statuses[part]
        moved = relations.departures(rows, cells(seen.moments[part])[0]) if relations is not None else None
        for j in drifted:
            own = [i for i, view in enumerate(views) if view == views[j]]
            sign = _gone(j, rows, letters[:, j], verdicts[j]) or _repeated(j, rows, verdicts[j], reference, own)
            if sign is None and moved is not None and relations is not None:
                departures, moves = moved
                if "clock" in verdicts[j].kinds:
                    sign = 10 + float(departures[2, j]), "no longer follows the hour of the week: a clock or a time zone is off"
                elif alone := _alone(j, departures, moves, relations, own):
                    sign = alone, f"moved by {moves[j]:+.1f} standard deviations, and what goes with it did not: another unit or column"
                elif "rows" in verdicts[j].kinds and (loose := _loose(departures[3], relations, own)):
                    sign = loose / 2, "no longer goes, row by row, with what it went with: joined by another key, or frozen"
            if sign is not None:
                found[j] = max(sign, found.get(j, sign))
    return found


def _gone(j: int, matrix: Matrix, statuses: NDArray[np.bytes_], verdict: FeatureVerdict) -> tuple[float, str] | None:
    """What the values speak of that are not there. `statuses`: one letter per row."""
    lost = np.isnan(matrix[:, j])
    stale, missing, null = (float(x.mean()) for x in (statuses == b"s", statuses == b"m", lost))
    if stale - verdict.reference_null_rate >= STALE:
        return 40 + stale, f"is stale in {stale:.0%} of the predictions"
    word = "missing" if missing >= null / 2 else "null"
    if null - verdict.reference_null_rate >= GONE:
        return 30 + null, f"is {word} in {null:.0%} of the predictions"
    others = [i for i in range(matrix.shape[1] - 1) if i != j]
    if (
        null - verdict.reference_null_rate >= LOST
        and lost.sum() >= FEWEST_LOST
        and _alike(matrix[lost][:, others], matrix[~lost][:, others])
    ):
        return 25 + null, f"is {word} in {null:.0%} of the predictions, and nothing tells which"
    return None


def _alike(some: Matrix, others: Matrix) -> bool:
    """Whether no column tells these rows from those, float64 [a, F] and [b, F]; NaN is null."""
    least = 1.0
    for one, other in zip(some.T, others.T, strict=True):
        known, known_other = one[~np.isnan(one)], other[~np.isnan(other)]
        if min(len(known), len(known_other)) > 1:
            least = min(least, float(stats.ks_2samp(known, known_other, method="asymp").pvalue))
    return least * some.shape[1] >= AT_RANDOM


def _repeated(j: int, matrix: Matrix, verdict: FeatureVerdict, reference: Matrix, own: Sequence[int]) -> tuple[float, str] | None:
    """What an input's values speak of that are the same. `own`: the inputs of its view."""
    values, theirs = matrix[:, j], reference[:, j]
    shares, usual = Shares.of(values[~np.isnan(values)]), Shares.of(theirs[~np.isnan(theirs)])
    commonest = float(shares.share.max(initial=0.0))
    if commonest >= STUCK and usual.share.max(initial=0.0) < STUCK - 0.25:
        return 20 + commonest, f"is stuck: {commonest:.0%} of its values are the same"
    gains = shares.gains(usual)
    if gains.max(initial=0.0) < REPEATED or not {"repeated", "range"} & set(verdict.kinds):
        return None
    most, null = int(np.argmax(gains)), float(np.isnan(values).mean())
    fewer = verdict.reference_null_rate - null
    if null <= verdict.reference_null_rate / 10 and abs(gains[most] - fewer) <= fewer / 4 and _same_but(shares.value[most], values, theirs):
        return 17 + fewer, f"is {shares.value[most]:g} in {shares.share[most]:.0%} of the predictions, and null in so many fewer"
    foreign = np.where(gains >= (1 - FOREIGN) * shares.share, gains, 0.0)
    most = int(np.argmax(foreign))
    value, share = shares.value[most], shares.share[most]
    here = values == value
    if foreign[most] < REPEATED or np.delete(foreign, most).max(initial=0.0) > share / LONELY:
        return None
    if max(part.sum() for part in np.array_split(here, 10)) > here.sum() * LUMP or _new_entity(matrix[here], reference, own, j):
        return None
    return 17 + share, f"is {value:g} in {share:.0%} of the predictions, which the reference hardly has: a sentinel, or a bound"


def _same_but(value: float, some: Matrix, others: Matrix) -> bool:
    """Whether the values of two columns, nulls and one value left out, are spread alike: nothing but that value was put in."""
    one, other = (column[~np.isnan(column) & (column != value)] for column in (some, others))
    return min(len(one), len(other)) > 1 and stats.ks_2samp(one, other, method="asymp").statistic < VALUES


def _new_entity(rows: Matrix, reference: Matrix, own: Sequence[int], but: int) -> bool:
    """Whether all else of the view is one foreign value too in these rows: they are of one entity, which may well be new."""
    others = [i for i in own if i != but]
    for i in others:
        known = rows[~np.isnan(rows[:, i]), i]
        shares = Shares.of(known)
        most = int(np.argmax(shares.share)) if len(known) else 0
        if (
            not len(known)
            or shares.share[most] < STUCK
            or (reference[:, i] == shares.value[most]).mean() > FOREIGN * len(known) / max(len(rows), 1)
        ):
            return False
    return bool(others)


def _loose(loosened: Matrix, relations: Relations, own: Sequence[int]) -> float:
    """The part of their slopes that a view's inputs have lost on average, if that is enough; otherwise 0.

    Args:
        loosened: float64 [F], as of `Relations.departures`.
    """
    bound = relations.bond.max(axis=0)[own] >= BOND
    # where customers are chosen by the very input, its slope goes; not that of a whole view
    lost = float(loosened[own][bound].mean()) if bound.sum() > 1 else 0.0
    return lost if lost >= LOOSE else 0.0


def _alone(j: int, departures: Matrix, moves: Matrix, relations: Relations, view: Sequence[int]) -> float:
    """By how many standard deviations an input left its relatives, if it moved alone, or its whole view did; otherwise 0."""
    whole = len(view) > 1 and float(np.mean([abs(moves[i]) >= MOVED for i in view])) > 0.5
    for kind in (1, 0) if whole else (1,):
        part = departures[kind, j] / moves[j] if abs(moves[j]) >= MOVED else 0.0
        if ALONE[0] <= part <= ALONE[1] and abs(departures[kind, j]) >= APART and relations.explained[kind, j] >= EXPLAINED:
            return float(min(abs(departures[kind, j]), 9.9))
    stayed = max((abs(float(moves[i])) for i in view if i != j), default=np.inf)
    return float(min(abs(moves[j]), 9.9)) if abs(moves[j]) >= max(FAR, FAR * stayed) else 0.0
