"""Tests that may be looked at after every row and stopped at any of them: for a canary, which should end as soon as it is clear.

An interval for a fixed number of rows is wrong for someone who looks daily and stops when it pleases: the false alarms add up. A confidence
*sequence* holds at all times at once, so stopping early costs nothing. `sequential` is one for paired differences per row,
`error_rate_worse` a test of two failure rates.

* Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (Annals of Statistics 2021):
  theorem 4 (empirical Bernstein, after Fan, Grama & Liu 2015) with the gamma-exponential mixture of proposition 9.
* Wasserman, Ramdas & Balakrishnan, "Universal inference" (PNAS 2020), section 7, for the failure rates.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betaln, gammainc, gammaln, logsumexp, xlogy

from training.comparison import ComparisonError, Floats, checked, log_loss

ALPHA = 0.05
FLOOR = 0.01
_TIGHT_AT = 2.5
"""Variation, in squared widths of the range, at which the boundary is tightest: some thousand rows of two models that are much alike."""
_PRIORS = ((0.5, 10.0), (0.5, 0.5))
"""Beta densities of a failure rate, half of the weight each: one expects it to be small, one does not."""


class Running(msgspec.Struct, frozen=True):
    """All that is kept of the rows so far: how many, the sum of their differences, and of squares around the mean of those before each."""

    rows: int = 0
    total: float = 0.0
    variation: float = 0.0

    def add(self, differences: ArrayLike) -> Running:
        """With more rows `[k]`, in the order in which they became known; in one call or many, the same."""
        new = np.asarray(differences, dtype=np.float64).reshape(-1)
        before = self.total + np.cumsum(new) - new
        known = self.rows + np.arange(len(new))
        centre = before / np.maximum(known, 1)
        return Running(self.rows + len(new), self.total + float(new.sum()), self.variation + float(((new - centre) ** 2).sum()))


class Verdict(msgspec.Struct, frozen=True):
    """`low` to `high` holds the mean difference at this and all other moments with probability 1 - alpha; positive is better."""

    verdict: Literal["better", "worse", "undecided"]
    mean: float
    low: float
    high: float
    rows: int
    alpha: float

    @property
    def text(self) -> str:
        return f"{self.verdict}: {self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}) over {self.rows:,} rows"


class Rates(msgspec.Struct, frozen=True):
    """Two failure rates. `e_value`: evidence that b's is higher, at least 20 for alpha 0.05; `p_value` is 1 / e_value, valid at any time."""

    rate_a: float
    rate_b: float
    e_value: float
    p_value: float
    worse: bool


def differences(
    label: ArrayLike, champion: ArrayLike, challenger: ArrayLike, metric: Literal["brier", "log_loss"] = "brier", floor: float = FLOOR
) -> tuple[Floats, float]:
    """Per row, how much less the challenger loses `[n]`, and the bound that no difference can exceed.

    Brier differences are within 1. A log loss has no bound, so scores are kept `floor` away from 0 and 1, which bounds it by
    log((1 - floor) / floor): 4.6 for 0.01. The wider the bound, the more rows a verdict takes.

    Raises:
        ComparisonError: the arrays do not fit (`comparison.checked`), or the floor is not in (0, 0.5).
    """
    y, a, b = checked(label, champion, challenger)
    if metric == "brier":
        return (a - y) ** 2 - (b - y) ** 2, 1.0
    if not 0 < floor < 0.5:
        raise ComparisonError(f"the floor of a log loss must lie between 0 and 0.5; {floor} does not")
    return log_loss(y, a, floor) - log_loss(y, b, floor), math.log((1 - floor) / floor)


def sequential(running: Running, bound: float, alpha: float = ALPHA) -> Verdict:
    """Whether the challenger is better, after the rows so far; may be asked after every row, and be believed at the first verdict.

    Rows need not be alike: what is held is the mean of their expected differences, each given those before.

    Args:
        running: sums of the differences (`Running.add`), challenger's gain per row.
        bound: no difference is larger, either way (`differences` gives it).
        alpha: probability that any verdict, ever, is wrong.

    Raises:
        ComparisonError: the bound or alpha makes no sense, or the sums exceed the bound.
    """
    if not (bound > 0 and 0 < alpha < 1):
        raise ComparisonError(f"the bound must be positive and alpha between 0 and 1, not {bound} and {alpha}")
    if abs(running.total) > bound * running.rows * (1 + 1e-9):
        raise ComparisonError(f"a sum of {running.total:g} over {running.rows} rows exceeds the bound of {bound:g} per row")
    if not running.rows:
        return Verdict("undecided", 0.0, -bound, bound, 0, alpha)
    mean, width = running.total / running.rows, _boundary(running.variation, 2 * bound, alpha / 2) / running.rows
    low, high = max(mean - width, -bound), min(mean + width, bound)
    verdict: Literal["better", "worse", "undecided"] = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return Verdict(verdict, mean, low, high, running.rows, alpha)


def _boundary(variation: float, scale: float, alpha: float) -> float:
    """What a sum with this variation stays below at all times with probability 1 - alpha; in the unit of the differences.

    The mixture is a supermartingale that starts at 1, so it ever reaches 1/alpha with probability alpha at most (Ville).

    Args:
        scale: width of the range of one difference.
    """
    v = variation / scale**2
    rho = _TIGHT_AT / (2 * math.log(1 / (2 * alpha)) + math.log(1 + 2 * math.log(1 / (2 * alpha))))
    lead = xlogy(rho, rho) - gammaln(rho) - math.log(gammainc(rho, rho))

    def beyond(s: float) -> float:
        x = s + v + rho
        return float(lead + gammaln(v + rho) + np.log(gammainc(v + rho, x)) - (v + rho) * np.log(x) + s + v + math.log(alpha))

    top = 1.0
    while beyond(top) < 0:
        top *= 2
    return float(scale * brentq(beyond, 0.0, top))


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
