"""How many different values a window holds, by a sketch: exact up to 1,024, then within about 3 % (`streaming.aggregation.sketches`)."""

from __future__ import annotations

from streaming.aggregation.functions.base import Named


class CountDistinct(Named):
    shown, examples = "count_distinct", ("count_distinct",)
    sketch, hashes = "distinct", True
