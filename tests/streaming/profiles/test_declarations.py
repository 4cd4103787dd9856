"""What breaks a declaration is found, by column and check; what was broken as often before, or by the check's author, is no proof of more."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandera.pandas as pandera
import pyarrow as pa
import pytest
from pandera.pandas import Check, Column, DataFrameSchema

from streaming.profiles.declarations import Declared, breaches, find_broken
from streaming.profiles.violation import Violation


def table(prices: list[float | None], pieces: list[int | None] | None = None) -> pa.Table:
    pieces = pieces or [1] * len(prices)
    return pa.table({"till": [f"till {n}" for n in range(len(prices))], "price": pa.array(prices, pa.float64()), "pieces": pieces})


def find(schema: DataFrameSchema, now: pa.Table, before: pa.Table | None = None) -> list[Violation]:
    at_us = np.arange(now.num_rows) * 60_000_000
    return find_broken("sales", [Declared(schema, now, at_us)], table([]) if before is None else before, ["till"], 0)


POSITIVE = DataFrameSchema({"price": Column(float, Check.ge(0), nullable=True)})


def test_rows_that_keep_it_say_nothing() -> None:
    assert find(POSITIVE, table([1.0, None, 0.0])) == []


def test_a_row_that_breaks_it_is_named() -> None:
    (one,) = find(POSITIVE, table([1.0, -2.0, None, 3.0]))
    assert (one.kind, one.column, one.proof, one.since_us, one.share) == ("expectation", "price", True, 60_000_000, 0.25)
    assert one.rows == ["1970-01-01T00:01:00Z, till till 1, price = -2.0"]
    assert "1 of 4 rows" in one.text


@pytest.mark.parametrize(("before", "share"), [([-1.0, 1.0], 0.0), ([1.0, 1.0, 1.0, -1.0], 0.25), ([1.0, 1.0], 0.5)])
def test_what_was_broken_before_is_taken_off(before: list[float | None], share: float) -> None:
    (one,) = find(POSITIVE, table([-1.0, 1.0]), table(before))
    assert one.proof
    assert one.share == share


def test_a_whole_number_may_be_null_where_that_is_declared() -> None:
    """Of a column with nulls pandas makes floats; the store's type is a whole number all the same."""
    schema = DataFrameSchema({"pieces": Column(int, Check.ge(1), nullable=True)})
    assert find(schema, table([1.0, 1.0], [3, None])) == []
    (one,) = find(schema, table([1.0, 1.0], [0, None]))
    assert one.column == "pieces"


def test_another_type_is_a_breach() -> None:
    assert find(DataFrameSchema({"price": Column(str)}), table([1.0]))


def test_a_column_that_is_not_there_is_a_breach_of_the_whole() -> None:
    (one,) = find(DataFrameSchema({"colour": Column(str)}), table([1.0, 2.0]))
    assert (one.column, one.rows, one.share) == ("colour", [], 1.0)


def test_a_check_that_cannot_be_run_is_its_authors_fault(caplog: pytest.LogCaptureFixture) -> None:
    def broken(values: Any) -> Any:
        raise RuntimeError("mine")

    schema = DataFrameSchema({"price": Column(float, [Check(broken), Check.ge(0)])})
    assert find(schema, table([1.0])) == []
    assert "cannot be run" in caplog.text
    (one,) = find(schema, table([-1.0]))
    assert one.column == "price"


def test_a_check_over_columns_names_each_row_once() -> None:
    schema = DataFrameSchema({"price": Column(float)}, checks=[Check(lambda f: f["price"] >= f["pieces"], name="price of a piece")])
    found = breaches(schema, table([1.0, 0.5, 0.5]))
    ((_, check),) = found
    assert check == "price of a piece"
    assert found["", check].places == [1, 2]


@pytest.mark.parametrize("what", ["whole", "column"])
def test_a_schema_that_drops_rows_is_held_against_them_all_the_same(what: str) -> None:
    schema = DataFrameSchema({"price": Column(float, Check.ge(0), drop_invalid_rows=what == "column")}, drop_invalid_rows=what == "whole")
    assert find(schema, table([1.0, -1.0]))


def test_what_is_unique_names_the_rows_that_are_not() -> None:
    now = pa.concat_tables([table([1.0, 2.0]), table([3.0])])
    (one, *_) = find(DataFrameSchema(unique=["till"]), now)
    assert "2 of 3 rows" in one.text


def test_a_schema_that_raises_costs_its_own_word(caplog: pytest.LogCaptureFixture) -> None:
    class Raises:
        columns: ClassVar[dict[str, Any]] = {}

        def validate(self, frame: Any, lazy: bool) -> Any:
            raise RuntimeError("mine")

    assert find(Raises(), table([1.0])) == []  # type: ignore[arg-type]
    assert "mine" in caplog.text
    assert pandera  # the face that use cases import
