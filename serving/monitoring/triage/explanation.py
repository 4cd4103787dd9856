"""Why a window drifted: a fault of the pipeline, serving that differs from training, or a population that has really changed.

Only the last is a reason to retrain: a model learnt from a fault is wrong when the fault is mended. What is asked, in this order:

1. *Is what was scored what training would have scored?* The logged values are scored again with the version's own model, and the
   equality check (`serving.monitoring.feast_parity`) reads values again through stock Feast. Where either differs, there is training/serving skew.
2. *Is there evidence of a fault, and against which view?* (`serving.monitoring.triage.shape`)
3. *What does it do to the scores?* Each input that drifted is put back to the reference's distribution (its quantiles, so that ranks
   within the window stay) and the window is scored again; inputs are ranked by the mean absolute change.

Without evidence the population has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from feature_repo.records.verdict import FeatureVerdict, Suspect, Triage
from serving.monitoring.dependence import Relations
from serving.monitoring.hours import Matrix
from serving.monitoring.triage.shape import Seen, evidence

RESCORED = 500
"""Rows of the window that are scored again, evenly spread."""
RANKED = 20
"""Inputs that are ranked by their effect on the scores: those that drifted the most."""
TOLERANCE = 1e-6
DIFFERENT = 0.01
"""Share of rows with another score, or of values that stock Feast reads differently, from which there is skew."""


class Model(Protocol):
    def score(self, matrix: Matrix) -> Matrix:
        """Scores float64 [rows] of inputs float64 [rows, F]."""


def explain_drift(
    seen: Seen,
    verdicts: Sequence[FeatureVerdict],
    views: Sequence[str],
    reference: Matrix,
    relations: Relations | None,
    model: Model | None,
) -> Triage | None:
    """Why a window drifted; None where neither drift nor skew is seen.

    Args:
        verdicts: of the F inputs and the score, in order.
        views: the view of each input.
        reference: float64 [n, F + 1]; NaN is null.
        relations: of the reference, over inputs and score; None where it has no moments.
        model: the version's own; None where it cannot be loaded.
    """
    drifted = [j for j, verdict in enumerate(verdicts[:-1]) if verdict.drift]
    skew = _skew(seen, model)
    if not drifted and not verdicts[-1].drift and not skew:
        return None
    worst = sorted(drifted, key=lambda j: (verdicts[j].p_value, -verdicts[j].size))[:RANKED]
    effects = _score_effects(seen, worst, reference, model)
    found = evidence(seen, verdicts, drifted, views, reference, relations)
    ranked = sorted(worst, key=lambda j: -effects.get(j, 0.0))
    suspects = [Suspect(verdicts[j].name, views[j], effects.get(j), found[j][1] if j in found else "") for j in ranked]
    if skew:
        return Triage("training/serving skew", skew, _views(ranked, views), suspects, False)
    if found:
        strength: dict[str, float] = {}
        for j, (strong, _) in found.items():
            strength[views[j]] = max(strength.get(views[j], 0.0), strong)
        guilty = sorted(strength, key=lambda view: -strength[view])
        worst_of = max((j for j in found if views[j] == guilty[0]), key=lambda j: found[j][0])
        detail = f"view {guilty[0]}: {verdicts[worst_of].name} {found[worst_of][1]}. Mend its source; a new model would learn the fault"
        return Triage("pipeline fault", detail, guilty, suspects, False)
    moved = ", ".join(verdicts[j].name for j in ranked[:3]) or verdicts[-1].name
    detail = f"{moved} moved, and what goes with them moved along: what is asked about has changed. A new model may help"
    return Triage("population change", detail, _views(ranked, views), suspects, True)


def _views(inputs: Sequence[int], views: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(views[j] for j in inputs))


def _sample(seen: Seen) -> Matrix:
    return seen.matrix[np.unique(np.linspace(0, len(seen.matrix) - 1, min(RESCORED, len(seen.matrix))).astype(int))]


def _skew(seen: Seen, model: Model | None) -> str:
    """What proves training/serving skew, as a sentence; empty where nothing does."""
    compared, unequal = seen.unequal
    if compared and unequal / compared >= DIFFERENT:
        return f"stock Feast reads {unequal} of {compared} served values differently; run `headrace skew`, which names them"
    if model is not None:
        rows = _sample(seen)
        other = float((~np.isclose(model.score(rows[:, :-1]), rows[:, -1], rtol=0, atol=TOLERANCE)).mean())
        if other >= DIFFERENT:
            return f"the version's own model scores {other:.0%} of the logged values differently: what was scored is not what was logged"
    return ""


def _score_effects(seen: Seen, inputs: Sequence[int], reference: Matrix, model: Model | None) -> dict[int, float]:
    """Mean absolute change of the scores with each input, alone, put back to the reference's distribution; nothing without a model."""
    if model is None:
        return {}
    rows = _sample(seen)[:, :-1]
    before, found = model.score(rows), {}
    for j in inputs:
        own = np.sort(seen.matrix[~np.isnan(seen.matrix[:, j]), j])
        usual = np.sort(reference[~np.isnan(reference[:, j]), j])
        if not len(usual):
            continue
        back, known = rows.copy(), ~np.isnan(rows[:, j])
        if len(own):
            rank = (np.searchsorted(own, rows[known, j], "left") + np.searchsorted(own, rows[known, j], "right")) / 2 / len(own)
            back[known, j] = usual[np.clip((rank * len(usual)).astype(int), 0, len(usual) - 1)]
        if len(known) and (~known).mean() > np.isnan(reference[:, j]).mean():
            back[~known, j] = usual[len(usual) // 2]
        found[j] = float(np.abs(model.score(back) - before).mean())
    return found
