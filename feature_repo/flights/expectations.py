"""What must hold of each table's rows, whatever the weather and the season. Who breaks it is at fault, and not the world.

`headrace sources` shows the rows that do. In 2013 there is one: a wind of 1,048 miles an hour on 12 February.
"""

from pandera.pandas import Check, Column, DataFrameSchema


def number(low: float, high: float) -> Column:
    """A number in a range, both ends included; null is allowed."""
    return Column(checks=Check.in_range(low, high), nullable=True)


FLAG = Column(checks=Check.isin([0, 1]))
CARRIER = Column(str, Check.str_matches(r"^[0-9A-Z]{2}$"))
FIELD = Column(str, Check.str_matches(r"^[A-Z]{3}$"))
FROM = {"flight_id": Column(str), "carrier": CARRIER, "origin": FIELD, "dest": FIELD}
TWO_HOURS, TWO_DAYS = 120.0, 2880.0  # minutes

EXPECTATIONS = {
    "departures": DataFrameSchema({**FROM, "dep_delay": number(-TWO_HOURS, TWO_DAYS), "dep_late": FLAG}),
    "arrivals": DataFrameSchema({**FROM, "arr_delay": number(-TWO_HOURS, TWO_DAYS), "arr_late": FLAG}),
    "weather": DataFrameSchema(
        {
            "origin": FIELD,  # a new airport is no fault
            "temp": number(-60, 130),  # degrees Fahrenheit
            "dewp": number(-80, 100),
            "humid": number(0, 100),
            "wind_dir": number(0, 360),
            "wind_speed": number(0, 253),  # miles an hour: the strongest gust ever measured
            "wind_gust": number(0, 253),
            "precip": number(0, 20),  # inches in an hour
            "pressure": number(850, 1090),  # millibars at sea level
            "visib": number(0, 100),
        }
    ),
    "planes": DataFrameSchema({"tailnum": Column(str, unique=True), "year": number(1903, 2100), "seats": number(1, 1000)}),
}
