"""What the truths say: whether the world still answers as the scores expect.

Example: of the orders with a score of 0.3, 30 % came back in the reference. Now it is 45 %. The same inputs have another truth: the
*concept* has changed. If more orders come back only because more have a score of 0.6, it is the *inputs* that changed, and the score
has followed them.

So the move of the base rate is told apart into two parts: what the scores expect (the part of the inputs), and the rest (the part of the
concept). How large the rest gets when nothing has happened is asked of the reference's own stretches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from feature_repo.records.verdict import Answers
from serving.monitoring.hours import DAY_US, Matrix, Moments

FEWEST = 100
"""Known truths below which nothing is said."""
BINS = 20
MATTERS = 0.08
"""The smallest mean difference between truths and what scores expect that counts, in deviations of a truth: .04 where half of them are
1, and .017 where one in twenty is.
"""
RAREST = 1e-3
"""A truth that is expected less often deviates as one that is expected so often."""
STRETCHES = 80
FITTED = 2.0
"""By so much are the records of rows that the model was fitted on too small: it follows their days more closely than days to come."""
SURE = 2.5
"""No record is taken for less than so many standard errors of the window's own truths: rows that a model was fitted on stay too close to
what it expects.
"""
NOMINAL = 0.02
"""The share of windows without a change that may be said to be changed."""


@dataclass(frozen=True)
class Answered:
    """What was found in a window's truths.

    Attributes:
        known: how many truths are known.
        mean, usual: of the truths, and of the reference's.
        by_inputs: the part of the move that the scores expect.
        by_concept: the rest.
        tilt: by how much more (or less) truths rise with the score than they did, in deviations of a truth.
        size: the larger of the part of the concept and the tilt, in deviations of a truth.
        ratio: the larger of both departures, as a multiple of the reference's record.
        p_value: the chance of a departure so large where nothing has changed.
        loss, expected_loss: mean squared error of the scores, and what it would be if nothing had changed for these scores.
    """

    known: int
    mean: float
    usual: float
    by_inputs: float
    by_concept: float
    tilt: float
    size: float
    ratio: float
    p_value: float
    loss: float
    expected_loss: float

    @property
    def changed(self) -> bool:
        return self.ratio >= 1 and self.p_value <= NOMINAL and self.size >= MATTERS


class Expected:
    """What truths to expect at a score, learnt from a reference.

    Args:
        score, truth: float64 [n] each; NaN where no truth is known.
        moments: int64 [n], ascending.
        length_us: of the windows to be judged.
        held_out: rows that the model was not fitted on, bool [n]: what is expected is learnt from these where they are enough.
    """

    def __init__(self, score: Matrix, truth: Matrix, moments: Moments, length_us: int, held_out: np.ndarray | None = None) -> None:
        known = ~np.isnan(truth) & ~np.isnan(score)
        self._score, self._truth, self._moments = score[known], truth[known], moments[known]
        learnt = np.ones(int(known.sum()), dtype=bool)
        if held_out is not None and (held_out & known).sum() >= 10 * FEWEST:
            learnt = held_out[known]
        self.binary = bool(np.isin(self._truth, (0.0, 1.0)).all())
        self._scale = 1.0 if self.binary else max(float(self._truth.std()), 1e-12)
        edges = np.unique(np.quantile(self._score[learnt], np.linspace(0, 1, BINS + 1)[1:-1])) if learnt.any() else np.zeros(0)
        bins = np.searchsorted(edges, self._score[learnt], "right")
        count = np.bincount(bins, minlength=len(edges) + 1)
        sums = np.bincount(bins, self._truth[learnt], minlength=len(edges) + 1)
        middle = np.bincount(bins, self._score[learnt], minlength=len(edges) + 1)
        filled = count > 0
        rate = sums[filled] / count[filled]
        self._at, self._rate = middle[filled] / count[filled], np.maximum.accumulate(rate) if self.binary else rate
        self.usual = float(self._truth.mean()) if len(self._truth) else float("nan")
        self._spread = max(float(self.rate(self._score).std()), 1e-6) if len(self._score) else 1.0
        self._null = self._departures_of_stretches(length_us)

    def rate(self, score: Matrix) -> Matrix:
        """The mean truth to expect at each score, float64 [m]."""
        return np.interp(score, self._at, self._rate) if len(self._at) else np.full(len(score), np.nan)

    def draw(self, rng: np.random.Generator, score: Matrix, by: float = 0.0) -> Matrix:
        """Truths as they would come, float64 [m]; `by`: the odds of all of them are changed by so much (natural logarithm)."""
        rate = np.clip(self.rate(score), 1e-6, 1 - 1e-6) if self.binary else self.rate(score)
        if self.binary:
            return (rng.random(len(score)) < 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + by)))).astype(np.float64)
        return np.asarray(rate + by * self._scale + rng.choice(self._truth - self.rate(self._score), len(score)))

    def _departures(self, score: Matrix, truth: Matrix) -> tuple[float, float]:
        """Mean difference of truths from what is expected, and how it goes with the score; in deviations of a truth at these scores."""
        rate = self.rate(score)
        scale = float(np.sqrt(max((rate * (1 - rate)).mean(), RAREST))) if self.binary else self._scale
        rest = (truth - rate) / scale
        z = (rate - rate.mean()) / self._spread
        return float(rest.mean()), float((rest * z).mean())

    def _departures_of_stretches(self, length_us: int) -> Matrix:
        """The same of the reference's own stretches, absolute, float64 [w, 2]."""
        found = []
        if len(self._moments) > 2 * FEWEST:
            first, last = int(self._moments[0]), int(self._moments[-1])
            length = min(max(length_us, DAY_US), (last - first) // 3 + 1)
            for start in np.linspace(first, last - length, STRETCHES).astype(np.int64):
                a, b = np.searchsorted(self._moments, [start, start + length])
                if b - a >= FEWEST / 2:
                    found.append(np.abs(self._departures(self._score[a:b], self._truth[a:b])))
            self._blocks = (last - first) / max(length, 1)
        return np.array(found).reshape(-1, 2)

    def summary(self, score: Matrix, answered: Answered | None) -> Answers | None:
        """What a verdict tells; also where no truth is known yet: what the scores let expect. None: the reference has too few truths."""
        if not len(self._truth):
            return None
        estimated, usual = self._loss_to_expect(score), self._loss_to_expect(self._score)
        if answered is None:
            return Answers(0, None, self.usual, None, None, None, False, None, None, estimated, usual)
        return Answers(
            answered.known,
            answered.mean,
            answered.usual,
            answered.by_inputs,
            answered.by_concept,
            answered.p_value,
            answered.changed,
            answered.loss,
            answered.expected_loss,
            estimated,
            usual,
        )

    def _loss_to_expect(self, score: Matrix) -> float:
        """Mean squared error of scores, if truths go with them as they did."""
        rate = self.rate(score)
        variance = rate * (1 - rate) if self.binary else np.full(len(rate), float(((self._truth - self.rate(self._score)) ** 2).mean()))
        return float(((rate - score) ** 2 + variance).mean())

    def look(self, score: Matrix, truth: Matrix, moments: Moments) -> Answered | None:
        """What a window's truths say; None where too few are known, or the reference has too few.

        Args:
            score, truth: float64 [m] each; NaN where no truth is known.
        """
        known = ~np.isnan(truth)
        if known.sum() < FEWEST or len(self._null) < 5:
            return None
        score, truth = score[known], truth[known]
        departures = self._departures(score, truth)
        usual = np.maximum(np.maximum(FITTED * self._null.max(axis=0), MATTERS / 2), SURE / np.sqrt(len(truth)))
        ratios = np.abs(departures) / usual
        largest = np.sort((self._null / usual).max(axis=1))
        ratio = float(ratios.max())
        p_value = float((1 + len(largest) - np.searchsorted(largest, ratio, "left")) / (1 + len(largest)))
        logs = np.log(np.maximum(largest, 1e-3))
        ahead = (np.log(max(ratio, 1e-9)) - logs.mean()) / (max(float(logs.std(ddof=1)), 0.15) * np.sqrt(1 + 1 / max(self._blocks, 1)))
        p_value = min(max(p_value, float(stats.t.sf(ahead, max(self._blocks - 1, 1)))), 1.0) if self._blocks < 40 else p_value
        rate = self.rate(score)
        return Answered(
            known=len(truth),
            mean=float(truth.mean()),
            usual=self.usual,
            by_inputs=float(rate.mean()) - self.usual,
            by_concept=float((truth - rate).mean()),
            tilt=departures[1],
            size=float(np.abs(departures).max()),
            ratio=ratio,
            p_value=p_value,
            loss=float(((truth - score) ** 2).mean()),
            expected_loss=self._loss_to_expect(score),
        )
