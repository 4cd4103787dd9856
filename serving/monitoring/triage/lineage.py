"""Where in the lineage a window moved, and how much likelier that is under a fault there than under a change of the world.

Example: all five inputs of the view `weather` have moved, nothing else has, and they no longer go together. A broken feed looks like
that; so may a storm. Which of the two is likelier is measured, not ruled: the reference's own stretches are changed as the world
changes (`triage.changes`) and as a pipeline breaks (`triage.faults`), a thousand times, and the signs of the window are held against the
signs of both kinds (logistic regression). The result is a likelihood ratio.

The signs of a view say only where something is: how far it moved by each kind of drift, how far all others did, and how many of its
inputs and of the others'. How far is told in records of the reference (`null_distribution`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.dependence import Relations
from serving.monitoring.hours import Matrix, Moments, cells, matched, weights
from serving.monitoring.kinds.base import Shares, Window
from serving.monitoring.kinds.table import TABLE
from serving.monitoring.null_distribution import Null
from serving.monitoring.triage.changes import CHANGES
from serving.monitoring.triage.faults import FAULTS
from serving.monitoring.triage.pool import ROWS, Made, Pool
from serving.monitoring.triage.truth import Expected

EACH = 480
"""Made windows of either kind. Of a third as many the odds of one window differ by a factor of two from one draw to another."""
USUAL_ROWS = 4000
"""Rows of the reference that made windows are compared with."""
MOST = 3.0
"""Natural logarithm of the greatest odds that are believed: what was made here is not all that can happen."""
RELATIONAL = [k for k, kind in enumerate(TABLE) if kind.relational]
OWN = [k for k, kind in enumerate(TABLE) if not kind.relational]
Score = Callable[[Matrix], Matrix]


@dataclass(frozen=True)
class Odds:
    """
    Attributes:
        view: where the fault would be.
        log_odds: natural logarithm of how many times likelier the signs are under it than under a change.
        moved, of: how many of its inputs moved beyond every record, and how many it has.
        elsewhere, of_others: the same of all other views.
    """

    view: str
    log_odds: float
    moved: int
    of: int
    elsewhere: int
    of_others: int


@dataclass
class Lineage:
    """
    Args:
        pool: the reference.
        relations: of the reference, over inputs and score.
        null: of windows of the length in question, over inputs and score.
        length_us: that length.
        score: the version's model; None where it cannot be loaded: then truths do not count.
        expected: what truths are to be expected at a score; None where the reference has none.
    """

    pool: Pool
    relations: Relations
    null: Null
    length_us: int
    score: Score | None = None
    expected: Expected | None = None
    right: float = field(default=0.5, init=False)
    """The share of made windows that are told right by a fit on the others."""

    def __post_init__(self) -> None:
        floor = self.null.matters[:, None] / 2
        self._usual = np.maximum(self.null.effects.max(axis=0), floor)[:, :-1]
        whole = self.pool.whole
        self._theirs = whole.take(np.unique(np.linspace(0, len(whole) - 1, min(USUAL_ROWS, len(whole))).astype(np.int64)))
        self._shares = [Shares.of(column[~np.isnan(column)]) for column in whole.rows.T]
        self._columns = {place: np.array(columns) for place, columns in self.pool.places.items()}
        self._models: dict[bool, Any] = {}
        self._fit()

    # signs

    def ratios(self, made: Made, among: Made | None = None) -> Matrix:
        """The effects of a window as multiples of the reference's records, float64 [K, F].

        Args:
            among: which rows of the reference it is held against; default: all of its time.
        """
        rows, usual = made.rows, among or self._theirs
        theirs = usual.rows[matched(weights(usual.moments, made.moments))]
        statistics = np.zeros(rows.shape[1])
        for j in range(rows.shape[1]):
            own, other = rows[~np.isnan(rows[:, j]), j], theirs[~np.isnan(theirs[:, j]), j]
            if min(len(own), len(other)) >= 20:
                statistics[j] = _gap(own, other)
        padded = np.column_stack([rows, np.zeros(len(rows))])  # relations are over the score, too
        departures = self.relations.departures(padded, cells(made.moments)[0])[0][:, :-1]
        at = Window(rows, theirs, self._shares, self.pool.codes, statistics, departures)
        return np.asarray(np.stack([kind.of_window(at) for kind in TABLE]) / self._usual)

    def truth(self, made: Made, score: Matrix) -> float | None:
        """How far truths are from what the scores say, as a multiple of the reference's record; None: too few are known."""
        if self.expected is None:
            return None
        found = self.expected.look(score, made.labels, made.moments)
        return None if found is None else found.ratio

    def signs(self, ratios: Matrix, truth: float | None) -> dict[str, Matrix]:
        """By view, what its signs are, float64 [s]."""
        logs = np.log(np.clip(ratios, 0.05, 30))
        moved: NDArray[np.bool_] = np.any(ratios[OWN] > 1, axis=0)
        found = {}
        for view, own in self._columns.items():
            others = np.setdiff1d(np.arange(ratios.shape[1]), own)
            here = logs[:, own].max(axis=1)
            there = logs[:, others].max(axis=1) if len(others) else np.full(len(logs), np.log(0.05))
            most, most_there = float(here[OWN].max()), float(there[OWN].max())
            share = float(moved[own].mean())
            share_there = float(moved[others].mean()) if len(others) else 0.0
            alone = max(here.max(), 0) - max(there.max(), 0)
            bonds = float(here[RELATIONAL].max())
            more = [bonds, float(there[RELATIONAL].max()), most, most_there, alone, share, share_there, bonds - most]
            more.append(float(np.maximum(here[OWN], 0).sum()))
            if truth is not None:
                more += [float(np.log(np.clip(truth, 0.05, 30))), float(truth > 1) * max(alone, 0.0)]
            found[view] = np.concatenate([here, there[OWN], more])
        return found

    # what was made

    def _fit(self) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        samples: dict[bool, tuple[list[Matrix], list[bool], list[float]]] = {False: ([], [], []), True: ([], [], [])}
        rng = np.random.default_rng(0)
        for n in range(2 * EACH):
            fault = n % 2 == 0
            made, view = self._broken(rng, n // 2) if fault else (self._changed(rng, n // 2), "")
            ratios = self.ratios(made)
            if ratios[OWN].max() < 1 and ratios[RELATIONAL].max() < 1:
                continue  # nobody would ask
            score = self.score(made.rows) if self.score is not None else None
            for with_truth in (False, True):
                truth = self._made_truth(rng, made, score, fault) if with_truth and score is not None else None
                if with_truth and truth is None:
                    continue
                signs = self.signs(ratios, truth)
                asked = [view] if fault else [v for v, own in self._columns.items() if ratios[:, own].max() >= 1]
                for one in asked:
                    samples[with_truth][0].append(signs[one])
                    samples[with_truth][1].append(fault)
                    samples[with_truth][2].append(1 / len(asked))
        for with_truth, (rows, faults, weight) in samples.items():
            if len(rows) < 40 or not 0 < sum(faults) < len(faults):
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=500))
            x, y, w = np.array(rows), np.array(faults), np.array(weight)
            own = y.sum() / w[~y].sum()
            w = np.where(y, 1.0, w * own)  # as many of either kind: the odds are the likelihoods', without a prior
            said = cross_val_predict(model, x, y, cv=4, params={"logisticregression__sample_weight": w})
            self.right = float(np.average(said == y, weights=w))
            self._models[with_truth] = model.fit(x, y, logisticregression__sample_weight=w)

    def _broken(self, rng: np.random.Generator, n: int) -> tuple[Made, str]:
        """A stretch with a fault in one view, and the view."""
        made = self.pool.stretch(rng, self.length_us)
        if rng.random() < 0.3:
            made = CHANGES[int(rng.integers(1, 3))](self.pool, made, rng)  # faults come on busy days, too
        view = self.pool.names[n % len(self.pool.names)]
        at = self.pool.places[view]
        if rng.random() < 0.5:
            at = [int(rng.choice(at))]
        hurt = FAULTS[(n // len(self.pool.names)) % len(FAULTS)](made.rows[:, at], rng)
        rows = made.rows.copy()
        since = int(len(made) * rng.choice([0, 0, 0.4, 0.7]))
        rows[since:, at] = hurt[since:]
        return made.with_rows(rows), view

    def _changed(self, rng: np.random.Generator, n: int) -> Made:
        made = self.pool.stretch(rng, self.length_us)
        changed = CHANGES[n % len(CHANGES)](self.pool, made, rng)
        if rng.random() < 0.3:
            changed = CHANGES[int(rng.integers(0, len(CHANGES)))](self.pool, changed, rng)
        if len(changed) == len(made) and rng.random() < 0.4:
            since = int(len(made) * rng.choice([0.4, 0.7]))
            both = Made(
                np.concatenate([made.rows[:since], changed.rows[since:]]),
                np.concatenate([made.moments[:since], changed.moments[since:]]),
                np.concatenate([made.labels[:since], changed.labels[since:]]),
            )
            return both.take(np.arange(len(both)))
        return changed

    def _made_truth(self, rng: np.random.Generator, made: Made, score: Matrix, fault: bool) -> float | None:
        """Truths of a made window: where rows were never anybody's, they are drawn as the reference's truths go with scores; now and
        then the world answers otherwise, too."""
        if self.expected is None:
            return None
        labels = made.labels
        if not fault:
            unknown = np.isnan(labels)
            labels = np.where(unknown, self.expected.draw(rng, score), labels)
            if rng.random() < 0.15:
                labels = self.expected.draw(rng, score, rng.uniform(-1.5, 1.5))
        found = self.expected.look(score, labels, made.moments)
        return None if found is None else found.ratio

    # what it says

    def judge(self, rows: Matrix, moments: Moments, truth: float | None, calm: Sequence[int] = ()) -> list[Odds]:
        """Views that moved, the likeliest to be at fault first.

        Args:
            rows: inputs of the window, float64 [m, F].
            truth: as of `truth`, of the whole window.
            calm: inputs that only go on along their trend.
        """
        thinned = np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64))
        made = Made(rows[thinned], moments[thinned], np.full(len(thinned), np.nan))
        ratios = self.ratios(made)
        ratios[:, list(calm)] = np.minimum(ratios[:, list(calm)], 0.99)
        model = self._models.get(truth is not None) or self._models.get(False)
        if model is None:
            return []
        signs = self.signs(ratios, truth if self._models.get(truth is not None) else None)
        beyond = ratios.max(axis=0) >= 1
        found = []
        for view, own in self._columns.items():
            if not beyond[own].any():
                continue
            odds = float(np.clip(model.decision_function(signs[view][None])[0], -MOST, MOST))
            elsewhere = int(beyond.sum() - beyond[own].sum())
            found.append(Odds(view, odds, int(beyond[own].sum()), len(own), elsewhere, int(len(beyond) - len(own))))
        return sorted(found, key=lambda one: -one.log_odds)

    def usual_in(self, among: NDArray[np.bool_], rows: Matrix, moments: Moments, calm: Sequence[int] = ()) -> bool:
        """Whether a window is like these rows of the reference, as far as it is held against them column by column.

        Args:
            among: bool [n].
            rows: inputs of the window, float64 [m, F].
            calm: inputs that only go on along their trend.
        """
        places = np.flatnonzero(among)
        chosen = places[np.unique(np.linspace(0, len(places) - 1, min(USUAL_ROWS, len(places))).astype(int))]
        thinned = np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64))
        made = Made(rows[thinned], moments[thinned], np.full(len(thinned), np.nan))
        ratios = self.ratios(made, self.pool.whole.take(chosen))[OWN]
        return bool((np.delete(ratios, list(calm), axis=1) < 1).all())


def _gap(own: Matrix, other: Matrix) -> float:
    """Kolmogorov-Smirnov statistic of two columns without nulls. SciPy's own takes ten times as long, most of it beside the statistic."""
    own, other = np.sort(own), np.sort(other)
    at = np.concatenate([own, other])
    return float(np.abs(np.searchsorted(own, at, "right") / len(own) - np.searchsorted(other, at, "right") / len(other)).max())
