"""What one replica has counted of each model version. Every replica writes its own tally to Redis; who decides by them adds them up.

Every start of a replica has an id, and under it a field of its own in one Redis hash. Within a field, numbers only grow. So a restart is a
new field, and never a step back; and what a dead replica had counted stays.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from feature_repo.records.prediction import Moment

Many = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Count(msgspec.Struct, frozen=True):
    """
    Attributes:
        answered: requests that were answered with predictions, and `instances` in them.
        failed: requests that ended in a fault of the server (5xx); what a client did wrong (4xx) is none.
        timed: cumulative requests by upper bound of the tally's `bounds`, then all: one more than there are bounds.
        scored, unscored: instances that the version followed as a shadow, and those that it failed on.
    """

    answered: Many = 0
    instances: Many = 0
    failed: Many = 0
    timed: list[Many] = []
    scored: Many = 0
    unscored: Many = 0


class Tally(msgspec.Struct, frozen=True):
    """
    Attributes:
        replica: its name, for people: host and process.
        started_us, at_us: the replica's start, and when this was written; the server's clock, microseconds since the epoch.
        bounds: of the latencies, milliseconds, ascending.
        models: by name and version.
    """

    replica: str
    started_us: Moment
    at_us: Moment
    bounds: list[float]
    models: dict[str, dict[int, Count]]
