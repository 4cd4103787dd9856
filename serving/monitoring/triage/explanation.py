"""Why a window drifted, and so who has to act. Evidence is looked for by place, and what is proven comes before what is likely.

1. *Is what was scored what training would have scored?* The logged values are scored again with the version's own model; the equality
   check reads values again through stock Feast; a sample is computed again from the offline store. A difference is proof.
2. *What do the sources say?* A violated declaration, and a source that has fallen silent, are proof. What is merely unusual is a hint.
3. *Does it recur?* If nothing is odd without the holidays, or beside the same season of another year, it was the calendar.
4. *Where in the lineage is it, and what goes with it?* (`triage.lineage`): a likelihood ratio.
5. *What do the truths say?* (`triage.truth`): whether the same scores still have the same truth.

What is not proven is a suspicion. It is told with its odds, and it holds a training for some days at most: a needless training costs
minutes, and a loop that is held while the world has moved costs every prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.verdict import Evidence, FeatureVerdict, Reason, Triage
from serving.monitoring.triage.case import DIFFERENT, Case, Known, Model, sample
from serving.monitoring.triage.lineage import Odds
from serving.monitoring.triage.seen import Clues, Seen
from serving.monitoring.triage.truth import Answered

TOLERANCE = 1e-6
FAULT = float(np.log(2))
"""From these odds on (natural logarithm) a fault is suspected."""
HINT, USUAL, EQUAL = 2.5, -1.6, -0.7
"""What is added to a view's log odds if a source of it does something unusual, if all of them are as usual, and if besides the window
computed again is what was served: `headrace bench triage` has what it makes of worlds."""
STALE = 0.05
"""So much larger than the reference's share of nulls must the share of stale values be to be a hint."""
FEWEST = 200
ELSEWHERE = 0.8
"""What is odd at holidays only is at most so large in the other rows: of fewer rows nobody can say much else."""


def explain_drift(
    seen: Seen,
    verdicts: Sequence[FeatureVerdict],
    reference: Known,
    clues: Clues,
    answered: Answered | None = None,
) -> Triage | None:
    """Why a window drifted; None where neither drift, skew nor another truth is seen.

    Args:
        verdicts: of the F inputs and the score, in order.
        answered: what the truths say; None: too few are known.
    """
    case = Case(seen, verdicts, reference, clues, answered)
    skew = _rescored(seen, reference.scorer)
    moved = bool(case.every) or verdicts[-1].drift
    changed = answered is not None and answered.changed
    odd = moved or changed
    if not odd and not skew and not case.wrong:
        return None
    if skew:
        case.evidence.append(Evidence("recomputation", "", "training/serving skew", skew, proof=True, rows=list(seen.differing)))
        return _said(case, "training/serving skew", skew, case.moved_views, 1.0)
    skewed, case = _unequal(case)
    if not odd:
        return skewed
    return skewed or _violated(case) or _recurring(case) or _likeliest(case)


# proof


def _rescored(seen: Seen, model: Model | None) -> str:
    """What proves that what was scored is not what was logged, as a sentence; empty where nothing does."""
    compared, unequal = seen.unequal
    if compared and unequal / compared >= DIFFERENT:
        return f"stock Feast reads {unequal} of {compared} served values differently"
    if model is not None:
        rows = sample(seen)
        other = float((~np.isclose(model.score(rows[:, :-1]), rows[:, -1], rtol=0, atol=TOLERANCE)).mean())
        if other >= DIFFERENT:
            return f"the version's own model scores {other:.0%} of the logged values differently: what was scored is not what was logged"
    return ""


def _unequal(case: Case) -> tuple[Triage | None, Case]:
    """Skew, where served and recomputed are not the same and that explains all that is odd; and what is left to be explained."""
    odd = bool(case.every) or (case.answered is not None and case.answered.changed)
    if not odd and not case.wrong:
        return None, case
    found = case.recomputed
    for view in case.different:
        text = f"of {view.cells:,} values of {view.view} computed again {view.share:.0%} are not what was served: {view.cause}"
        case.evidence.append(Evidence("recomputation", view.view, "training/serving skew", text, proof=True, rows=view.rows))
    if found.predictions and not case.different:
        text = f"{found.predictions} predictions computed again from the offline store are what was served"
        case.evidence.append(Evidence("recomputation", "", "population change", text))
    mended = case.mended if odd else None
    if mended is not None and (mended.every or (mended.answered is not None and mended.answered.changed)):
        return None, mended
    if mended is not None and mended.answered is not None:  # truths are held against what should have been answered
        case.answered = mended.answered
    if not odd:
        explains = case.wrong
    elif mended is not None:  # as it should have been served, nothing is odd
        explains = case.guilty or case.enough
    elif case.only_in_part:  # nobody can say more than that all that is odd was served wrong
        explains = case.enough
    else:
        explains = case.guilty if case.drifted == case.every else []
    if not explains:
        return None, case
    worst = explains[0]
    detail = f"view {worst.view}: {worst.share:.0%} of its values are not what the offline store gives ({worst.cause}). Mend the stream or the store"
    return _said(case, "training/serving skew", detail, [view.view for view in explains], 1.0), case


def _violated(case: Case) -> Triage | None:
    """A source broke what was declared of it, or fell silent, and what is made of it drifted."""
    for one in case.looked.violations:
        below = [view for view in case.moved_views if one.source in case.clues.sources.get(view, ())]
        if not below:
            continue
        enough = one.share >= DIFFERENT  # one row of thousands is at fault, and explains no drift
        says: Reason = "pipeline fault" if (one.hint or one.proof) and enough else "population change"
        proof, since_us = one.proof and enough, one.since_us
        case.evidence.append(Evidence("source", one.source, says, one.text, proof=proof, rows=one.rows[:5], since_us=since_us))
    proven = [e for e in case.evidence if e.place == "source" and e.proof]
    if not proven:
        return None
    source = proven[0].of
    below = [view for view in case.moved_views if source in case.clues.sources.get(view, ())]
    return _said(case, "pipeline fault", f"source {source}: {proven[0].text}. Mend it; a new model would learn the fault", below, 1.0)


# what recurs


def _recurring(case: Case) -> Triage | None:
    """The window is odd at its holidays only, or is as other holidays, or the same season, were."""
    if not case.drifted or case.reference.moments is None:
        return None
    calendar, clock = case.clues.calendar, case.seen.local
    lineage = case.reference.lineage(clock, case.clues.sources)
    hit, names = calendar.holidays(clock)
    if hit.any():
        where = f"{hit.mean():.0%} of the predictions are at or around {', '.join(names[:3])}"
        if _odd_only_there(case, hit):
            return _calendar(case, f"{where}; without its rows the window is as usual", "It passes", 0.9)
        past, _ = calendar.holidays(case.reference.moments)
        if lineage is not None and past.sum() >= FEWEST and lineage.usual_in(past, case.seen.matrix[:, :-1], clock, case.calm):
            return _calendar(case, f"{where}; it is like the {int(past.sum()):,} rows of holidays in the reference", "It passes", 0.8)
    season = calendar.season(case.reference.moments, clock)
    if lineage is not None and season.sum() >= FEWEST and lineage.usual_in(season, case.seen.matrix[:, :-1], clock, case.calm):
        text = f"{int(season.sum()):,} rows of the reference are of the same season of another year, and the window is like them"
        return _calendar(case, text, "The season comes back", 0.8)
    return None


def _odd_only_there(case: Case, hit: NDArray[np.bool_]) -> bool:
    """Whether the rows at holidays drift, and the others do not, as many of these as of those: fewer rows are sooner taken for usual."""
    few = int(min(hit.sum(), (~hit).sum()))
    if few < FEWEST:
        return False

    def said(rows: NDArray[np.bool_]) -> list[FeatureVerdict]:
        places = np.flatnonzero(rows)
        places = places[np.unique(np.linspace(0, len(places) - 1, few).astype(int))]
        return [case.reference.drift.test(case.seen.matrix[places], case.seen.local[places])[j] for j in case.drifted]

    there, elsewhere = said(hit), said(~hit)
    if not any(one.drift for one in there) or any(one.drift for one in elsewhere):
        return False
    return all(_far(other) <= ELSEWHERE * _far(one) for one, other in zip(there, elsewhere, strict=True) if one.drift)


def _far(verdict: FeatureVerdict) -> float:
    """How far a column lies from what is usual, as a gap between probabilities."""
    return max(verdict.size, verdict.unseen)


def _perhaps(case: Case) -> Triage | None:
    """Nothing speaks for a fault or another truth, and nearly all of the window lies at holidays: nobody can say what they are like, as long
    as the reference has none that last so long. Where it has some, they have been asked (`_recurring`).
    """
    reference = case.reference.moments
    if not case.drifted or reference is None:
        return None
    calendar, clock = case.clues.calendar, case.seen.local
    hit, names = calendar.holidays(clock)
    past = calendar.holidays(reference)[0].sum() >= FEWEST
    if (~hit).sum() >= len(hit) / 5 or (past and calendar.days_off(reference) >= calendar.days_off(clock)):
        return None
    which = "holiday that lasts so long" if past else "holiday"
    text = f"{hit.mean():.0%} of the predictions are at or around {', '.join(names[:3])}, and the reference has no {which} to compare with"
    return _calendar(case, text, "It may pass", 0.6)


def _calendar(case: Case, text: str, then: str, sure: float) -> Triage:
    case.evidence.append(Evidence("calendar", "", "calendar", text))
    return _said(case, "calendar", f"{text}. {then}", case.moved_views, sure)


# what is likely


def _likeliest(case: Case) -> Triage:
    odds = _odds(case)
    best = odds[0] if odds else None
    answered = case.answered
    if answered is not None:
        case.evidence.append(_of_truth(answered))
    if best is not None and best.log_odds >= FAULT:
        views = [best.view] if best.view in case.views else [v for v in case.moved_views if best.view in case.clues.sources.get(v, ())]
        worst = case.worst(views)
        what = f"{case.verdicts[worst].name} {case.words(worst)[0]}" if worst is not None else "it moved"
        kind = "view" if best.view in case.views else "source"
        detail = (
            f"{kind} {best.view}: {what}; a fault there is {np.exp(best.log_odds):.0f} times likelier than a change. Look at its source"
        )
        return _said(case, "pipeline fault", detail, views or [best.view], _probability(best.log_odds))
    against = _probability(-best.log_odds) if best is not None else 0.5
    if answered is not None and answered.changed and (not case.drifted or abs(answered.by_concept) >= abs(answered.by_inputs)):
        detail = f"{_of_truth(answered).text}. A new model may help"
        return _said(case, "concept change", detail, case.moved_views, max(1 - answered.p_value, 0.5) if not case.drifted else against)
    perhaps = _perhaps(case)
    if perhaps is not None:
        return perhaps
    moved = ", ".join(s.name for s in case.suspects[:3]) or case.verdicts[-1].name
    if best is None and case.reference.moments is None:
        return _said(
            case, "unclear", f"{moved} moved; the reference has no moments to judge by. A new model may help", case.moved_views, 0.5
        )
    detail = f"{moved} moved, and what goes with them moved along: what is asked about has changed. A new model may help"
    return _said(case, "population change", detail, case.moved_views, against)


def _odds(case: Case) -> list[Odds]:
    """By place, the odds of a fault with what sources and recomputation add to them, the highest first."""
    lineage = case.reference.lineage(case.seen.local, case.clues.sources) if case.drifted else None
    if lineage is None:
        return []
    truth = case.answered.ratio if case.answered is not None else None
    odds = lineage.judge(case.seen.matrix[:, :-1], case.seen.local, truth, case.calm)
    hinted = {e.of for e in case.evidence if e.place == "source" and e.says == "pipeline fault"} | _standing(case)
    equal = {view.view for view in case.recomputed.views if view.share < DIFFERENT} if case.recomputed.predictions else set()
    guilty = {view.view for view in case.guilty} if case.drifted != case.every else set()
    found = []
    for one in odds:
        own = {one.view} if one.view in case.clues.sources or one.view in case.views else set()
        sources = set(case.clues.sources.get(one.view, ())) or ({one.view} - own)
        below = own or {view for view, of in case.clues.sources.items() if one.view in of}
        if below <= guilty:  # what is odd there is explained
            continue
        more = 0.0
        if (sources | own) & hinted:
            more = HINT
        elif sources and sources <= case.looked.profiled:
            more = USUAL
        if more < HINT and sources and below <= equal:
            more += EQUAL
        found.append(Odds(one.view, one.log_odds + more, one.moved, one.of, one.elsewhere, one.of_others))
    found.sort(key=lambda one: -one.log_odds)
    if found:
        best = found[0]
        worst = case.worst([best.view] if best.view in case.views else case.moved_views)
        says = "pipeline fault" if best.log_odds >= FAULT else "population change"
        text = (
            f"{best.moved} of {best.of} inputs of {best.view} moved, and {best.elsewhere} of {best.of_others} others; of windows made of"
            f" the reference {lineage.right:.0%} are told right by such signs"
        )
        rows = case.words(worst)[1] if worst is not None else []
        odds_of_that = float(np.exp(best.log_odds if says == "pipeline fault" else -best.log_odds))
        case.evidence.append(Evidence("lineage", best.view, says, text, odds=odds_of_that, rows=rows))  # type: ignore[arg-type]
    return found


def _standing(case: Case) -> set[str]:
    """Views that drifted and of which much is past its ttl: nothing newer has come. Evidence is noted."""
    found = set()
    for view in case.moved_views:
        own = [j for j in case.drifted if case.views[j] == view]
        j = max(own, key=lambda j: float((case.seen.statuses[:, j] == b"s").mean()))
        stale = case.seen.statuses[:, j] == b"s"
        if stale.mean() - case.verdicts[j].reference_null_rate >= STALE:
            text = f"{stale.mean():.0%} of the values of {view} are past their ttl: nothing newer has come"
            rows = [case.seen.ids[i] for i in np.flatnonzero(stale)[:3] if i < len(case.seen.ids)]
            case.evidence.append(Evidence("source", view, "pipeline fault", text, rows=rows))
            found.add(view)
    return found


def _of_truth(answered: Answered) -> Evidence:
    text = (
        f"of {answered.known:,} truths the mean is {answered.mean:.3f}, where {answered.usual:.3f} was usual; the scores explain"
        f" {answered.by_inputs:+.3f} of it, the rest is {answered.by_concept:+.3f} (p = {answered.p_value:.2g})"
    )
    return Evidence("truth", "", "concept change" if answered.changed else "population change", text)


def _probability(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def _said(case: Case, cause: str, detail: str, views: Sequence[str], sure: float) -> Triage:
    evidence = sorted(case.evidence, key=lambda e: (e.says != cause, not e.proof, -(e.odds or 0.0)))
    proof = any(e.proof and e.says == cause for e in evidence) and sure == 1.0
    retrain = cause in ("population change", "concept change", "unclear")
    return Triage(cause, detail, list(views), case.suspects, retrain, proof, evidence, round(sure, 3))  # type: ignore[arg-type]
