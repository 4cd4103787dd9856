"""Columns of an offline table as a view declares them, on Spark. A value that the type cannot hold is named, and never becomes another
value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming.schema.types import FIRST_US, LAST_US

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_FEASTS = {"int": "Int32", "bigint": "Int64"}
_NUMBERS = ("double", "float")
_HOLDS: dict[str, tuple[str, ...]] = {
    "boolean": ("tinyint", "smallint", "int", "bigint", *_NUMBERS),
    "tinyint": ("smallint", "int", "bigint", *_NUMBERS),
    "smallint": ("int", "bigint", *_NUMBERS),
    "int": ("bigint", *_NUMBERS),
    "bigint": _NUMBERS,
    "float": ("double",),
    "double": ("float",),
    "date": ("timestamp",),
    "timestamp_ntz": ("timestamp",),
}
"""What holds every value of a type, rounded where it must be: nothing has to be read to know that."""


def sorted_out(table: DataFrame, name: str, sql_type: str) -> tuple[Column, Column]:
    """A column as a type of Spark's, null where the type cannot hold the value, and what is then said of it (null where it can)."""
    from pyspark.sql import functions as F

    column, here = F.col(f"`{name}`"), table.schema[name].dataType.simpleString()
    if here in (sql_type, "void") or sql_type == "string" or sql_type in _HOLDS.get(here, ()):
        held = column.cast(sql_type)
        return held.alias(name), _beyond(held, name, sql_type)
    held = column.try_cast(sql_type)
    bad = column.isNotNull() & held.isNull()
    if sql_type.startswith("array<") and here.startswith("array<"):  # one of the elements may have become null
        nulls = [F.size(F.filter(c, lambda element: element.isNull())) for c in (column, held)]
        bad = bad | (nulls[0] != nulls[1])
    shown = F.substring(column.cast("string"), 1, 100)
    kind = _FEASTS.get(sql_type, sql_type)
    said = F.concat(F.lit(f"column {name!r} has "), F.coalesce(shown, F.lit("a value")), F.lit(f", which {kind} cannot hold"))
    return held.alias(name), F.coalesce(F.when(bad, said), _beyond(held, name, sql_type))


def no_moment(name: str) -> str:
    """What is said of a moment before the year 1 or after the year 9999."""
    return f"column {name!r} has a moment that no calendar has"


def _beyond(held: Column, name: str, sql_type: str) -> Column:
    from pyspark.sql import functions as F

    def beyond(at: Column) -> Column:
        return ~F.unix_micros(at).between(FIRST_US, LAST_US)

    if sql_type == "timestamp":
        return F.when(beyond(held), F.lit(no_moment(name)))
    if sql_type == "array<timestamp>":
        return F.when(F.exists(held, beyond), F.lit(no_moment(name)))
    return F.lit(None).cast("string")
