"""What must hold of the flights' tables, whatever the weather. Whoever breaks it is at fault, and that is proof.

Each holds of every row of 2013. The wind's speed has none: one row of that year has 1,048 miles per hour, as it was published.
"""

import pandera.pandas as pa


def _within(least: float, greatest: float) -> pa.Column:
    return pa.Column(None, pa.Check.in_range(least, greatest), nullable=True)


EXPECTATIONS = {
    "weather": pa.DataFrameSchema(
        {"temp": _within(-60, 140), "dewp": _within(-80, 100), "humid": _within(0, 100), "pressure": _within(850, 1100)}
    ),
    "departures": pa.DataFrameSchema({"dep_delay": _within(-180, 2880)}),
    "arrivals": pa.DataFrameSchema({"arr_delay": _within(-180, 2880)}),
}
