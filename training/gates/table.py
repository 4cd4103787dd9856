"""Every gate, in the order in which they look; one that is not here is not there."""

from __future__ import annotations

from training.gates.base import Gate
from training.gates.champion import Champion
from training.gates.export import Export
from training.gates.latency import Latency
from training.gates.log import Log
from training.gates.registered import Registered
from training.gates.size import Size
from training.gates.skew import Skew
from training.gates.slices import Slices

GATES: tuple[Gate, ...] = (Registered(), Export(), Latency(), Size(), Champion(), Slices(), Skew(), Log())
