"""One window on its way to a cause: what moved in it, and what is known of that. Each thing is found out when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.verdict import Evidence, FeatureVerdict, Suspect
from serving.monitoring.detectors.base import DriftDetector
from serving.monitoring.hours import Matrix, Moments, core
from serving.monitoring.kinds.table import TABLE
from serving.monitoring.triage.description import describe
from serving.monitoring.triage.lineage import Lineage
from serving.monitoring.triage.recomputation import Compared, Recomputed
from serving.monitoring.triage.seen import Clues, Seen
from serving.monitoring.triage.truth import Answered, Expected
from streaming.profiles.lookup import Looked

RESCORED = 500
"""Rows of the window that are scored again, evenly spread."""
RANKED = 20
"""Inputs that are ranked by their effect on the scores: those that drifted the most."""
DIFFERENT = 0.01
"""Share of rows with another score, or of a view's values that are computed otherwise, from which there is skew."""
EXPLAINED = 0.5
"""Skew explains a drift if the recomputed values have lost so much of its gap to the reference."""
AGAIN, SPANNED = 100, 0.9
"""So many rows computed again, over so much of the window's time, stand for the window."""
RELATIONS = {kind.name for kind in TABLE if kind.cause == "relation"}


class Model(Protocol):
    def score(self, matrix: Matrix) -> Matrix:
        """Scores float64 [rows] of inputs float64 [rows, F]."""


class Known(Protocol):
    """What is known of the reference (`serving.monitoring.reference`)."""

    rows: Matrix
    views: list[str]
    drift: DriftDetector
    moments: Moments | None

    @property
    def scorer(self) -> Model | None: ...

    def lineage(self, moments: Moments, sources: Mapping[str, Sequence[str]]) -> Lineage | None: ...

    def expected(self, moments: Moments) -> Expected | None: ...


@dataclass
class Case:
    """One window on its way to a cause."""

    seen: Seen
    verdicts: Sequence[FeatureVerdict]
    reference: Known
    clues: Clues
    answered: Answered | None
    evidence: list[Evidence] = field(default_factory=list)

    @property
    def views(self) -> list[str]:
        return self.reference.views

    @property
    def span(self) -> tuple[int, int]:
        """The window's first and last moment, microseconds (UTC), but for strays: one row of 1970 would have all history read."""
        return core(self.seen.moments)

    @cached_property
    def every(self) -> list[int]:
        """All inputs that drifted, the surest first."""
        found = [j for j, verdict in enumerate(self.verdicts[:-1]) if verdict.drift]
        return sorted(found, key=lambda j: (self.verdicts[j].p_value, -self.verdicts[j].size))

    @cached_property
    def calm(self) -> list[int]:
        """Inputs that have a trend in the reference, and do no more than go on along it."""
        trend = self.reference.drift.trend
        return [] if trend is None else [j for j, one in enumerate(self.verdicts[:-1]) if trend.slopes[j] and not one.drift]

    @cached_property
    def different(self) -> list[Compared]:
        """Views that are served otherwise than they are computed again; the worst first."""
        return sorted((view for view in self.recomputed.views if view.share >= DIFFERENT), key=lambda view: -view.share)

    @cached_property
    def wrong(self) -> list[Compared]:
        """Of these the views that are wrong, and not only late: that is a fault also where nothing is odd."""
        return [view for view in self.different if view.wrong >= DIFFERENT * view.cells]

    @cached_property
    def guilty(self) -> list[Compared]:
        """Of these the views whose drift that explains."""
        return [view for view in self.different if self._explains(view.view)]

    @cached_property
    def enough(self) -> list[Compared]:
        """Of the different views those with so many other values that these can have made the drift: a gap between two distributions is no
        larger than the share of the values that differ."""
        found = []
        for view in self.different:
            own = [j for j, name in enumerate(self.views) if name == view.view]
            sizes = [self.verdicts[j].size for j in own if j in self.every and not set(self.verdicts[j].kinds) <= RELATIONS]
            if min(view.share * len(own), 1.0) >= EXPLAINED * max(sizes, default=0.0):  # all of them may be of one input
                found.append(view)
        return found

    @cached_property
    def drifted(self) -> list[int]:
        """The inputs whose drift has to be explained, the surest first: those that no guilty view explains, if there are any.

        The world may have moved while a view was served late. A model can follow the world: its training reads what is computed again.
        An input that only goes otherwise with others says nothing then: a guilty view is among these.
        """
        names = {view.view for view in self.guilty}
        if not names:
            return self.every
        return [j for j in self.every if self.views[j] not in names and not set(self.verdicts[j].kinds) <= RELATIONS] or self.every

    @cached_property
    def moved_views(self) -> list[str]:
        return list(dict.fromkeys(self.views[j] for j in self.drifted))

    @cached_property
    def effects(self) -> dict[int, float]:
        return _score_effects(self.seen, self.drifted[:RANKED], self.reference.rows, self.reference.scorer)

    @cached_property
    def suspects(self) -> list[Suspect]:
        ranked = sorted(self.drifted[:RANKED], key=lambda j: -self.effects.get(j, 0.0))
        return [Suspect(self.verdicts[j].name, self.views[j], self.effects.get(j), self.words(j)[0]) for j in ranked]

    def words(self, j: int) -> tuple[str, list[str]]:
        return describe(self.seen, j, self.verdicts[j], self.reference.rows)

    def worst(self, views: Sequence[str]) -> int | None:
        """The input of these views that drifted the most."""
        return next((j for j in self.drifted if self.views[j] in views), None)

    @cached_property
    def looked(self) -> Looked:
        return self.clues.look(*self.span) if self.clues.look is not None else Looked([], frozenset())

    @cached_property
    def recomputed(self) -> Recomputed:
        return self.clues.recompute() if self.clues.recompute is not None else Recomputed(0)

    @cached_property
    def mended(self) -> Case | None:
        """The window as it should have been served: the rows that were computed again, scored by the version's own model.

        None: all was served as it is computed again, no model can score it, or too little of the window was computed again. What is odd
        of it has another cause than the skew: a model can follow that, since its training reads what is computed again.
        """
        found, model = self.recomputed, self.reference.scorer
        if not self.different or found.values is None or found.places is None or model is None or not self._stands_for_all(found.places):
            return None
        places, clock = found.places, self.seen.local[found.places]
        matrix = np.column_stack([found.values, model.score(found.values)])
        ids = [self.seen.ids[i] for i in places.tolist() if i < len(self.seen.ids)]
        truth = self.seen.truth[places] if self.seen.truth is not None else None
        seen = Seen(matrix, self.seen.moments[places], self._statuses(found.values, places), (0, 0), ids, clock, truth)
        expected = self.reference.expected(clock) if truth is not None else None
        answered = expected.look(matrix[:, -1], truth, clock) if expected is not None and truth is not None else None
        if answered is None and expected is not None and self._stands(expected, matrix[:, -1], places):
            answered = self.answered
        equal = replace(found, views=[view for view in found.views if view.share < DIFFERENT], places=None, values=None)
        clues = replace(self.clues, recompute=lambda: equal, look=lambda *_: self.looked)
        return Case(seen, self._again(self.reference.drift.test(matrix, clock)), self.reference, clues, answered, self.evidence)

    def _stands(self, expected: Expected, score: Matrix, places: NDArray[np.int64]) -> bool:
        """Whether another truth is more than what wrong scores made of it; asked where too few truths of the sample are known.

        Args:
            score: of these rows, as it should have been, float64 [k].
        """
        if self.answered is None or not self.answered.changed:
            return False
        moved = float((expected.rate(score) - expected.rate(self.seen.matrix[places, -1])).mean())
        return abs(self.answered.by_concept - moved) >= EXPLAINED * abs(self.answered.by_concept)

    @property
    def only_in_part(self) -> bool:
        """Whether too little was computed again to judge the window by it, and nothing is odd but inputs that were served otherwise: what
        the truths say no value explains that was not computed.
        """
        if not self.every or (self.answered is not None and self.answered.changed):
            return False
        found, wrong = self.recomputed, {view.view for view in self.different}
        if not wrong or found.places is None or self._stands_for_all(found.places):
            return False
        return all(self.views[j] in wrong or set(self.verdicts[j].kinds) <= RELATIONS for j in self.every)

    def _again(self, verdicts: Sequence[FeatureVerdict]) -> list[FeatureVerdict]:
        """Verdicts on a sample. Of what was served right the whole window has said more, but for how it goes with what was not."""
        wrong = {view.view for view in self.different}
        found = list(verdicts)
        for j, whole in enumerate(self.verdicts[:-1]):
            if self.views[j] not in wrong and not (whole.drift and set(whole.kinds) <= RELATIONS):
                found[j] = whole
        return found

    def _stands_for_all(self, places: NDArray[np.int64]) -> bool:
        """Whether these rows are many, and from all of the window's time: others say what one hour of it was like."""
        if len(places) < AGAIN:
            return False
        begin, end = self.span
        return int(np.ptp(self.seen.moments[places])) >= SPANNED * (end - begin)

    def _statuses(self, values: Matrix, places: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Of these rows, had they been served as they were computed again: what was stale in a view that is served otherwise is not."""
        wrong = {view.view for view in self.different}
        columns = np.array([view in wrong for view in self.views])
        return np.where(columns, np.where(np.isnan(values), b"n", b"f"), self.seen.statuses[places]).astype("S1")

    def _explains(self, view: str) -> bool:
        """Whether what drifted of a view would not have, had it been served as it is computed again."""
        found = self.recomputed
        if found.values is None or found.places is None:
            return False
        for j in (j for j in self.every if self.views[j] == view):
            theirs, served, again = self.reference.rows[:, j], self.seen.matrix[found.places, j], found.values[:, j]
            if _distance(again, theirs) <= EXPLAINED * _distance(served, theirs):
                return True
        return False


def _distance(values: Matrix, theirs: Matrix) -> float:
    """The larger of the gap of the values and that of the nulls."""
    from scipy import stats

    own, other = values[~np.isnan(values)], theirs[~np.isnan(theirs)]
    gap = float(stats.ks_2samp(own, other, method="asymp").statistic) if min(len(own), len(other)) > 1 else 0.0
    return max(gap, abs(float(np.isnan(values).mean() - np.isnan(theirs).mean())), 1e-9)


# what it does to the scores


def sample(seen: Seen) -> Matrix:
    return seen.matrix[np.unique(np.linspace(0, len(seen.matrix) - 1, min(RESCORED, len(seen.matrix))).astype(int))]


def _score_effects(seen: Seen, inputs: Sequence[int], reference: Matrix, model: Model | None) -> dict[int, float]:
    """Mean absolute change of the scores with each input, alone, put back to the reference's distribution; nothing without a model."""
    if model is None:
        return {}
    rows = sample(seen)[:, :-1]
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
