"""What speaks for a fault of the pipeline, and against which view.

An input that drifted may have drifted because the world changed, or because something is broken. Here is looked for signs that
something is broken. Example: `temp` and `dewp` usually rise together. Now `temp` is 30 degrees lower and `dewp` is as always: that is
no winter, that is another unit.

Each input that drifted is looked at twice: in the whole window, and in its newest quarter. A fault comes at once, and the alarm
may come before the fault fills the window.

The signs, from those that are seen outright to those that are inferred. The first one found counts:

1. stale: more values are past their ttl than the reference has nulls;
2. missing, null: most values of an input are gone, though the reference has them;
3. lost at random: fewer are gone, but the rows that lack the value look like all others. If other customers were the reason,
   those rows would look different;
4. stuck: nearly all values of an input are the same;
5. one value: some of the values are one that the reference hardly has (a sentinel such as -999, or a bound at which values are
   cut), or one that now stands where nulls were;
6. clock: an input that followed the hour of the week no longer does;
7. unit or column: an input has moved, and what goes with it (`serving.monitoring.dependence`) has not. Or it went far, and the other
   inputs of its view stayed. Of an input that nothing explains, a short move tells nothing;
8. rows: row by row, the inputs of a view no longer go with the others, by slope and by correlation: they are joined by another key, or
   frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from feature_repo.records.verdict import FeatureVerdict
from serving.monitoring.dependence import BOND, Relations
from serving.monitoring.hours import Matrix, Moments, cells
from serving.monitoring.kinds.base import Shares
from serving.monitoring.kinds.table import KINDS, MATTERS

NEWEST = 4
"""The newest part of the window is one of so many: a fault that has just begun is looked for there."""
STALE = 0.05
"""So much larger than the reference's share of nulls must the share of stale values be to speak for a fault."""
GONE = 0.5
"""So much larger than in the reference must the share of nulls be to speak for a fault by itself. Fewer come with other customers, too."""
AT_RANDOM = 0.001
"""The rows that lack an input look like all others if no Kolmogorov-Smirnov test of another input tells them apart with a p-value below
this, multiplied by the number of inputs.
"""
LOST = 0.05
"""From so many more nulls than in the reference, it is asked whether values were lost at random."""
FEWEST_LOST = 200
"""That is not asked if fewer rows than these lack the input: so few look like anything."""
STUCK = 0.9
REPEATED, VALUES = (float(MATTERS[KINDS.index(kind)]) for kind in ("repeated", "values"))
FOREIGN = 0.1
"""A value is foreign if its share in the reference is at most this part of its share in the window."""
LONELY = 3
"""A sentinel must come so many times as often as any other foreign value. Numbers that grow bring several foreign values, each about as often."""
LUMP = 1 / 3
"""No tenth of the window may hold more than this part of a sentinel's rows. A value that lasts for an hour and then goes lies in one piece; a
sentinel comes all the time.
"""
LOOSE = 0.75
"""The inputs of a view must have lost so much of how they go with the others, on average, for the view to be at fault. Other customers
bend these relations; another key ends them.
"""
MOVED = 0.5
"""An input that has moved by fewer standard deviations is not asked whether it moved alone."""
APART = 0.75
"""At least so many standard deviations of its move must be left unexplained by the other inputs, to speak for a fault."""
ALONE = (0.65, 3.0)
"""It moved alone if the unexplained part, divided by its whole move, lies between these. (1: the others stayed where they were.)"""
FAR = 3.0
"""Whatever the others explain, an input moved alone if it went so many standard deviations, and so many times as far as any other of its
view."""
EXPLAINED = 0.3
"""The other inputs must explain so much of an input's variance in the reference, or what they say of its move is not asked."""


@dataclass(frozen=True)
class Seen:
    """The window of predictions that is looked at.

    Attributes:
        matrix: inputs and the score, float64 [m, F + 1]; NaN is null.
        moments: int64 [m], microseconds since the epoch.
        statuses: one letter per value as in `Prediction`, S1 [m, F]; `r` where nothing is known.
        unequal: how many values the equality check has compared, and how many of these were not equal.
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
    """Look for signs of a fault in each input that drifted.

    Args:
        verdicts: of the F inputs and the score, in order.
        drifted: the inputs to look at, by their places.
        views: the view of each input.
        reference: float64 [n, F + 1]; NaN is null.
        relations: how the reference's inputs go with each other; None where the reference has no moments.

    Returns:
        By place of the input: how strong the sign is (what is seen outright is stronger than what is inferred), and a clause that reads on
        from the input's name ("is stale in 40% of the predictions"). Inputs without a sign are left out.
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
    """Signs 1 to 3: values that are not there.

    Args:
        statuses: one letter per row, of this input.
    """
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
    """Whether two groups of rows look alike in every column.

    Args:
        some, others: float64 [a, F] and [b, F]; NaN is null.
    """
    least = 1.0
    for one, other in zip(some.T, others.T, strict=True):
        known, known_other = one[~np.isnan(one)], other[~np.isnan(other)]
        if min(len(known), len(known_other)) > 1:
            least = min(least, float(stats.ks_2samp(known, known_other, method="asymp").pvalue))
    return least * some.shape[1] >= AT_RANDOM


def _repeated(j: int, matrix: Matrix, verdict: FeatureVerdict, reference: Matrix, own: Sequence[int]) -> tuple[float, str] | None:
    """Signs 4 and 5: values that are the same.

    Args:
        own: the inputs of its view, this one among them.
    """
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
    """Whether two columns are spread alike if nulls and one value are left out. Then that value was put in, and nothing else has changed."""
    one, other = (column[~np.isnan(column) & (column != value)] for column in (some, others))
    return min(len(one), len(other)) > 1 and stats.ks_2samp(one, other, method="asymp").statistic < VALUES


def _new_entity(rows: Matrix, reference: Matrix, own: Sequence[int], but: int) -> bool:
    """Whether these rows are of one entity that is new.

    Example: a foreign number of seats in many rows. If the other inputs of the view (year, engines) have one foreign value each in the same
    rows, a new plane has come. That is no fault.
    """
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
    """Sign 8: how much a view's inputs have lost, on average, of how they go with the others. 0 where that is not enough to speak for a fault.

    Args:
        loosened: by input, how far it no longer goes with the others, float64 [F]; the last row of `Relations.departures`.
    """
    bound = relations.bond.max(axis=0)[own] >= BOND
    # where customers are chosen by the very input, its slope goes; not that of a whole view
    lost = float(loosened[own][bound].mean()) if bound.sum() > 1 else 0.0
    return lost if lost >= LOOSE else 0.0


def _alone(j: int, departures: Matrix, moves: Matrix, relations: Relations, view: Sequence[int]) -> float:
    """Sign 7: by how many standard deviations an input moved although what goes with it did not. 0 where it did not move alone.

    If most of the view's inputs have moved, the other views are asked as well as all other inputs: the whole view may be at fault, and then
    its own inputs say nothing.
    """
    whole = len(view) > 1 and float(np.mean([abs(moves[i]) >= MOVED for i in view])) > 0.5
    for kind in (1, 0) if whole else (1,):
        part = departures[kind, j] / moves[j] if abs(moves[j]) >= MOVED else 0.0
        if ALONE[0] <= part <= ALONE[1] and abs(departures[kind, j]) >= APART and relations.explained[kind, j] >= EXPLAINED:
            return float(min(abs(departures[kind, j]), 9.9))
    stayed = max((abs(float(moves[i])) for i in view if i != j), default=np.inf)
    return float(min(abs(moves[j]), 9.9)) if abs(moves[j]) >= max(FAR, FAR * stayed) else 0.0
