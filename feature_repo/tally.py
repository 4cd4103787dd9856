"""What one replica has counted of each model version, as it writes it where all can read it; summed before anything rules by it.

Every start of a replica has an id and a field of its own in one Redis hash. Its numbers only grow, so a restart is a new field and never a
step back, and a replica that is gone leaves what it had counted.
"""

from __future__ import annotations

import msgspec


class Count(msgspec.Struct, frozen=True):
    """
    Attributes:
        answered: requests that were answered with predictions, and `instances` in them.
        failed: requests that ended in a fault of the server (5xx); what a client did wrong (4xx) is none.
        timed: cumulative requests by upper bound of the tally's `bounds`, then all: one more than there are bounds.
        scored, unscored: instances that the version followed as a shadow, and those that it failed on.
    """

    answered: int = 0
    instances: int = 0
    failed: int = 0
    timed: list[int] = []
    scored: int = 0
    unscored: int = 0


class Tally(msgspec.Struct, frozen=True):
    """
    Attributes:
        replica: its name, for people: host and process.
        started_us, at_us: the replica's start, and when this was written; the server's clock, microseconds since the epoch.
        bounds: of the latencies, milliseconds, ascending.
        models: by name and version.
    """

    replica: str
    started_us: int
    at_us: int
    bounds: list[float]
    models: dict[str, dict[int, Count]]


def tallies_key(project: str) -> str:
    """The Redis hash of tallies by id of the replica's start; each value is a `Tally` as JSON."""
    return f"headrace:{{{project}}}:tallies"
