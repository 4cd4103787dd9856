"""Moments of a table's column, as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

NEVER = -(2**62)


def micros(table: pa.Table, column: str) -> NDArray[np.int64]:
    """A timestamp column as microseconds since the epoch, int64 `[n]`; null is NEVER, below every moment."""
    import pyarrow as pa
    import pyarrow.compute as pc

    us = table[column].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(pc.fill_null(us, NEVER).to_numpy(), dtype=np.int64)
