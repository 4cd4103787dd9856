"""A quantile of a window's values by a sketch, within 1 % of the value at its rank (`streaming.aggregation.sketches`); `median` is `p50`."""

from __future__ import annotations

from streaming.aggregation import sketches
from streaming.aggregation.functions.base import Function


class Quantile(Function):
    shown, examples = "p50 (any p0 to p100), median", ("p50", "p99.9", "median")
    sketch = "quantile"

    @classmethod
    def of(cls, name: str) -> Function | None:
        return None if sketches.quantile_of(name) is None else cls()
