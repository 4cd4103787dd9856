"""Tests that may be looked at after every row and stopped at any of them: for a canary, which should end as soon as it is clear.

An interval for a fixed number of rows is wrong for someone who looks daily and stops when it pleases: the false alarms add up. A confidence
*sequence* holds at all times at once, so stopping early costs nothing. `sequential` is one for paired differences, `error_rate_worse` a
test of two failure rates.

Rows of a day share its weather, its sale, its outage: what a version gains on one day, it may lose on the next. A thousand rows of one day are
therefore little more than one look at it, and a test that takes them one by one is sure of a difference that is only the day's. `sequential`
counts days: it is told how much the gain varies between them (as seen where the two versions were compared before), or sees it itself.

* Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (Annals of
  Statistics 2024), theorem 2.2, with time counted in days.
* Searle, Casella & McCulloch, "Variance Components" (1992), section 3.6, for the spread between days of unequal size.
* Wasserman, Ramdas & Balakrishnan, "Universal inference" (PNAS 2020), section 7, for the failure rates.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, logsumexp, xlogy

from training.evaluation.comparison import ComparisonError, Floats, checked

ALPHA = 0.05
FEWEST_ROWS, FEWEST_BLOCKS = 50, 5
"""Below these nothing is concluded from rows, and no spread is taken from blocks."""
_TIGHT_AT = 7
"""Blocks at which the sequence is tightest: a week."""
_PRIORS = ((0.5, 10.0), (0.5, 0.5))
"""Beta densities of a failure rate, half of the weight each: one expects it to be small, one does not."""


class Verdict(msgspec.Struct, frozen=True):
    """`low` to `high` holds the mean gain at this and all other moments with probability 1 - alpha; positive is better.

    `z` is the mean in standard errors, for who looks once.
    """

    verdict: Literal["better", "worse", "undecided"]
    mean: float
    low: float
    high: float
    z: float
    rows: int
    blocks: int

    @property
    def text(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f} at any time)"


class Rates(msgspec.Struct, frozen=True):
    """Two failure rates. `e_value`: evidence that b's is higher, at least 20 for alpha 0.05; `p_value` is 1 / e_value, valid at any time."""

    rate_a: float
    rate_b: float
    e_value: float
    p_value: float
    worse: bool


def gains(label: ArrayLike, champion: ArrayLike, challenger: ArrayLike) -> Floats:
    """Per row, how much lower the challenger's Brier score is `[n]`; within -1 and 1.

    Raises:
        ComparisonError: the arrays do not fit (`comparison.checked`).
    """
    y, a, b = checked(label, champion, challenger)
    return np.asarray((a - y) ** 2 - (b - y) ** 2)


def spread(gain: ArrayLike, block: ArrayLike) -> float | None:
    """Standard deviation between blocks of the mean gain that a block of endless rows would have; None with fewer than FEWEST_BLOCKS.

    Args:
        gain: `[n]`; `block`: the day of each `[n]`, any integers.
    """
    g = np.asarray(gain, dtype=np.float64).reshape(-1)
    means, counts, within = _blocks(g, np.asarray(block))
    if len(counts) < FEWEST_BLOCKS:
        return None
    among = float((counts * (means - g.mean()) ** 2).sum()) / (len(counts) - 1)
    size = (len(g) - float((counts**2).sum()) / len(g)) / (len(counts) - 1)
    return math.sqrt(max(0.0, (among - within) / size))


def _blocks(g: Floats, block: NDArray[np.int64]) -> tuple[Floats, Floats, float]:
    """Of each block its mean and its rows; and the variance of rows within blocks."""
    _, index, counts = np.unique(block, return_inverse=True, return_counts=True)
    means = np.bincount(index, g) / counts
    free = len(g) - len(counts)
    within = float(((g - means[index]) ** 2).sum()) / free if free else 0.0
    return means, counts.astype(np.float64), within


def compare_as_it_comes(gain: ArrayLike, block: ArrayLike, known_spread: float | None = None, alpha: float = ALPHA) -> Verdict:
    """Whether the challenger is better, after the rows so far; may be asked after every row, and be believed at the first verdict.

    Asymptotic: the verdicts' error is alpha where FEWEST_ROWS are enough for a normal mean, not for gains of which one row in a thousand
    outweighs the others. With neither a known spread nor FEWEST_BLOCKS blocks, rows are taken as independent.

    Args:
        gain: challenger's gain per row `[n]`, in the order in which it became known.
        block: the day of each row `[n]`: what its rows share.
        known_spread: between blocks, from elsewhere (`spread`); the larger of it and what is seen here counts.
        alpha: probability that any verdict, ever, is wrong.

    Raises:
        ComparisonError: alpha makes no sense.
    """
    if not 0 < alpha < 1:
        raise ComparisonError(f"alpha must lie between 0 and 1, not {alpha}")
    g, block = np.asarray(gain, dtype=np.float64).reshape(-1), np.asarray(block)
    if len(g) < FEWEST_ROWS:
        return Verdict("undecided", float(g.mean()) if len(g) else 0.0, -1.0, 1.0, 0.0, len(g), len(np.unique(block)))
    _, counts, within = _blocks(g, block)
    between = max(known_spread or 0.0, spread(g, block) or 0.0) ** 2
    alike = float((counts**2).sum())
    variance = (between * alike + within * len(g)) / len(g) ** 2
    time = len(g) ** 2 / alike  # in blocks, were they of one size
    tuned = time * (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / _TIGHT_AT
    width = math.sqrt(variance * 2 * (tuned + 1) / tuned * math.log(math.sqrt(tuned + 1) / alpha))
    mean = float(g.mean())
    low, high = max(mean - width, -1.0), min(mean + width, 1.0)
    verdict: Literal["better", "worse", "undecided"] = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return Verdict(verdict, mean, low, high, mean / math.sqrt(variance) if variance else 0.0, len(g), len(counts))


def error_rate_worse(failures_a: int, n_a: int, failures_b: int, n_b: int, alpha: float = ALPHA) -> Rates:
    """Whether b fails more often than a; exact for any counts, and may be asked after every request.

    The evidence is the likelihood of the counts under two rates of their own, averaged over a prior, against
    the best that rates with b <= a can do. For any such rates it is below a martingale that starts at 1, however requests were shared out.

    Args:
        failures_a, n_a: failed requests and all requests of the champion; failures_b, n_b: of the challenger.

    Raises:
        ComparisonError: more failures than requests, or a negative number.
    """
    for failures, n in ((failures_a, n_a), (failures_b, n_b)):
        if not 0 <= failures <= n:
            raise ComparisonError(f"{failures} failures of {n} requests cannot be")
    rates = [f / n if n else 0.0 for f, n in ((failures_a, n_a), (failures_b, n_b))]
    counts = ((failures_a, n_a), (failures_b, n_b))
    own = logsumexp([sum(betaln(f + p, n - f + q) - betaln(p, q) for f, n in counts) for p, q in _PRIORS]) - math.log(len(_PRIORS))
    if n_a and n_b and rates[1] > rates[0]:
        best = _likelihood(failures_a + failures_b, n_a + n_b)
    else:
        best = _likelihood(failures_a, n_a) + _likelihood(failures_b, n_b)
    e = math.exp(min(float(own) - best, 700.0))
    return Rates(rates[0], rates[1], e, min(1.0, 1 / e) if e > 0 else 1.0, e >= 1 / alpha)


def _likelihood(failures: int, n: int) -> float:
    """The log likelihood of the rate that fits best."""
    return float(xlogy(failures, failures / n) + xlogy(n - failures, 1 - failures / n)) if n else 0.0
