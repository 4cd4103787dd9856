"""When everything worked again after a fault, from what clients saw, how far behind the stream was, and whether the part is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.bench.storm.traffic.ledger import Outcome

QUIET_S = 2.0
"""So long every answer has to be right for serving to count as recovered."""
SLOW_ANSWER_S = 1.0
"""An answer that takes longer is none, as far as recovery goes."""
LAG_S = 2.0
"""A stream that is no further behind than this keeps up."""
_STEADY_S = 4.0
"""So long it has to: a stream that died a moment ago is not yet behind."""
_SILENCE_S = 1.0


def serving_s(outcomes: Iterable[Outcome], since: float, rate: float) -> float | None:
    """Seconds from `since` to the last bad answer; None: answers have not been right for `QUIET_S` yet.

    Args:
        outcomes: of honest predict requests, in time's order.
        rate: requests a second: where too few are answered, nothing is shown.
    """
    start, last, good = since, since, 0
    for one in outcomes:
        if one.at < since:
            continue
        if one.at - last > _SILENCE_S or one.verdict != "ok" or one.took_s > SLOW_ANSWER_S:  # nobody was answered: the same
            start, good = one.at, 0
        last = one.at
        good += one.verdict == "ok" and one.took_s <= SLOW_ANSWER_S
    return start - since if last - start >= QUIET_S and good >= rate * QUIET_S / 2 else None


def stream_s(lags: Sequence[tuple[float, float | None]], since: float, within_s: float = LAG_S) -> float | None:
    """Seconds from `since` until the stream kept up for good; None: it has not for long enough."""
    start, last = since, since
    for at, lag in lags:
        if at < since:
            continue
        if lag is None or lag > within_s:
            start = at
        last = at
    return start - since if last - start >= _STEADY_S else None
