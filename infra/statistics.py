"""Statistics that more than one room needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def holm(p_values: Floats | Sequence[float]) -> Floats:
    """Holm's step-down adjustment: reject where adjusted p < alpha keeps the family-wise error rate at alpha.

    Args:
        p_values: float64 [k], 0..1.

    Returns:
        Adjusted p-values, float64 [k], in the order given. Source: Holm (1979), Scand. J. Statist. 6, 65–70.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    k = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(k, 0, -1))
    adjusted = np.empty(k)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
