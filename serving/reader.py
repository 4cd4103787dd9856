"""Placeholder of the interface, being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.prediction import Mark

STATUSES = "fsnm"
"""fresh, stale, null, missing: `FeatureRows.statuses` holds indices into it."""


class OnlineStoreUnavailable(RuntimeError):
    """Redis did not answer within the deadline, or refused. Maps to 503."""


@dataclass
class FeatureRows:
    values: NDArray[np.float64]  # [rows, features]; NaN is null; stale values are here as they are stored
    statuses: NDArray[np.uint8]  # [rows, features]
    ages: NDArray[np.float64]  # [rows, features] seconds; NaN where missing
    marks: list[dict[str, Mark]]  # per row, by view
    extras: list[dict[str, Any]]  # per row: values of non-numeric features by `view:feature`


class OnlineReader:
    features: list[str]
    """`view:feature`, the columns of `FeatureRows.values` (non-numeric ones are NaN there and stand in `extras`)."""
    join_keys: dict[str, str]
    """join key → dtype (`string`, `int64`, `int32`)"""

    @classmethod
    def open(cls, store: Any, service: str, redis_url: str, timeout_s: float) -> OnlineReader:
        """Compile the read plan of a feature service (`store` is a feast.FeatureStore). No connection is made yet."""
        raise NotImplementedError

    async def read(self, instances: list[dict[str, Any]], now_us: int, timeout_s: float | None = None) -> FeatureRows:
        """One pipelined read for all instances. Raises OnlineStoreUnavailable within the deadline."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
