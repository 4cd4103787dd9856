"""Every kind of drift, in the order of effects; one that is not here is not there."""

from __future__ import annotations

import numpy as np

from serving.monitoring.kinds.base import DriftKind
from serving.monitoring.kinds.clock import Clock
from serving.monitoring.kinds.columns import Columns
from serving.monitoring.kinds.nulls import Nulls
from serving.monitoring.kinds.pairing import Pairing
from serving.monitoring.kinds.repeated import Repeated
from serving.monitoring.kinds.value_range import Range
from serving.monitoring.kinds.values import Values
from serving.monitoring.kinds.views import Views

TABLE: tuple[DriftKind, ...] = (Values(), Nulls(), Range(), Repeated(), Views(), Columns(), Clock(), Pairing())
KINDS = tuple(kind.name for kind in TABLE)
MATTERS = np.array([kind.matters for kind in TABLE])
"""The smallest effect of each kind that counts as drift, float64 [K]."""
_SHARES = {"gradual": 0.6, "rare": 0.4}
FAMILIES = tuple((np.array([k for k, kind in enumerate(TABLE) if kind.family == family]), share) for family, share in _SHARES.items())
"""Kinds judged together, by their rows among the effects, and their share of the false alarms."""
