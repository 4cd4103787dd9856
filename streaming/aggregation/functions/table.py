"""Every aggregation function; one that is not here is not there."""

from __future__ import annotations

from functools import lru_cache

from streaming.aggregation.functions.base import Function
from streaming.aggregation.functions.count import Count
from streaming.aggregation.functions.count_distinct import CountDistinct
from streaming.aggregation.functions.deviation import Std
from streaming.aggregation.functions.ewma import Ewma
from streaming.aggregation.functions.first import First
from streaming.aggregation.functions.last import Last
from streaming.aggregation.functions.maximum import Max
from streaming.aggregation.functions.mean import Mean
from streaming.aggregation.functions.minimum import Min
from streaming.aggregation.functions.quantile import Quantile
from streaming.aggregation.functions.total import Sum
from streaming.aggregation.functions.value_range import Range

FUNCTIONS: tuple[type[Function], ...] = (Count, Sum, Mean, Min, Max, Std, Last, First, Range, Ewma, CountDistinct, Quantile)
EXAMPLES = tuple(name for function in FUNCTIONS for name in function.examples)
"""Every function by at least one name: what conformance tests run over."""


@lru_cache(maxsize=1024)
def function_of(name: str) -> Function:
    """
    Raises:
        ValueError: there is none of this name; the message lists those that there are.
    """
    for function in FUNCTIONS:
        if (found := function.of(name)) is not None:
            return found
    raise ValueError(f"function {name!r} is not one of {', '.join(function.shown for function in FUNCTIONS)}")
