"""Why a served value is not the one that everything known then would give: one name per cell.

| cause | the cell |
|---|---|
| late data | right for the events it was made of; one that was known for less than `stale_after_s` had not reached the store |
| stale materialization | likewise, but the event had been known for longer: the stream or the backfill is behind |
| missing row | the store had no row of the entity, though one was known |
| ttl | served as stale, so null, where the definitions give a value |
| definition version | the feature's definition is not the one that the version was trained on |
| on-demand | a function gave another value: it saw other inputs than the join gives it, or does not answer the same twice |
| cast | the right value, rounded to float32 or to a whole number |
| moved on | the store held something newer than the request's moment: what was newest then is overwritten |
| wrong | none of these |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LATE, STALE, MISSING, TTL, DEFINITION, ON_DEMAND, CAST, MOVED_ON, WRONG = CAUSES = (
    "late data",
    "stale materialization",
    "missing row",
    "ttl",
    "definition version",
    "on-demand",
    "cast",
    "moved on",
    "wrong",
)
STALE_AFTER_S = 4 * 3600.0
BUDGET: Mapping[str, float] = {
    LATE: 1.0,
    STALE: 0.05,
    MISSING: 0.05,
    TTL: 0.0,
    DEFINITION: 0.0,
    ON_DEMAND: 0.0,
    CAST: 0.0,
    MOVED_ON: 0.05,
    WRONG: 0.0,
}
"""Share of the cells that may have each cause, where the spec says nothing else."""


def differ(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Where two columns are not the same number; null is the same as null."""
    return np.asarray(~((a == b) | (np.isnan(a) & np.isnan(b))))


# wide: arrays of one shape, a cell each
def name_causes(
    served: Floats,
    letters: NDArray[Any],
    same_events: Floats,
    now: Floats,
    lag_s: Floats,
    redefined: bool,
    stale_after_s: float = STALE_AFTER_S,
    computed: bool = False,
    moved_on: NDArray[np.bool_] | None = None,
) -> NDArray[np.object_]:
    """The cause of each cell of one feature, `[n]`; an empty text where there is no difference.

    Args:
        served: what the model got.
        letters: the statuses it was served with.
        same_events: recomputed from the events that it was made of; `now`: from all that were known.
        lag_s: how long the first event that had not been applied was known; NaN where there is none.
        computed: whether an on-demand view gives it.
        redefined: whether the feature's definition has changed since the version was trained.
        moved_on: where the store held an event that is later than the request; None: nowhere.
    """
    wrong = differ(served, same_events)
    behind = ~wrong & differ(same_events, now)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.zeros(len(served), dtype=bool)
        for coarser in (same_events.astype(np.float32).astype(np.float64), np.rint(same_events), np.trunc(same_events)):
            rounded |= served == coarser
        old = lag_s > stale_after_s
    found = np.full(len(served), "", dtype=object)
    # later lines win over earlier ones: the more particular cause
    found[behind] = LATE
    found[behind & old] = STALE
    found[behind & (letters == "m")] = MISSING
    found[wrong] = WRONG
    found[wrong & rounded] = CAST
    found[wrong & (letters == "s")] = TTL
    if computed:
        found[wrong] = ON_DEMAND
    if redefined:
        found[wrong] = DEFINITION
    if moved_on is not None:
        found[wrong & moved_on] = MOVED_ON
    return found


def over_budget(counted: Mapping[str, int], cells: int, budget: Mapping[str, float]) -> dict[str, str]:
    """Causes that more cells have than allowed, each with the numbers in words."""
    found = {}
    for cause in CAUSES:
        allowed, n = {**BUDGET, **budget}[cause], counted.get(cause, 0)
        if n > allowed * cells:
            found[cause] = f"{n:,} of {cells:,} cells ({n / cells:.2%}), allowed {allowed:.2%}"
    return found
