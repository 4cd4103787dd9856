"""Columns of an offline table as a view declares them, on Spark: a value that the type cannot hold is named, and never made another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_FEASTS = {"int": "Int32", "bigint": "Int64"}


def cast(table: DataFrame, name: str, sql_type: str, where: str) -> Column:
    """A column of the table as a type of Spark's, under its name.

    Spark raises when a row is read whose whole number the type cannot hold; the message names the view, the column and the value.
    """
    from pyspark.sql import functions as F

    column = F.col(f"`{name}`")
    if sql_type not in _FEASTS or table.schema[name].dataType.simpleString() == sql_type:
        return column.cast(sql_type).alias(name)
    held = column.try_cast(sql_type)
    said = F.concat(F.lit(f"{where}: column {name!r} has "), column.cast("string"), F.lit(f", which {_FEASTS[sql_type]} cannot hold"))
    return F.when(column.isNotNull() & held.isNull(), F.raise_error(said)).otherwise(held).cast(sql_type).alias(name)
