"""The bounds that the version kept when it was registered."""

from __future__ import annotations

from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Registered(Gate):
    """One for each bound of the spec, by the bound's own metric."""

    name = "registered"

    def look(self, at: Challenge) -> list[Checked]:
        return [Checked(str(g["metric"]), bool(g["passed"]), f"at registration, on {g['on']}: {g['measured']}") for g in at.made.gates]
