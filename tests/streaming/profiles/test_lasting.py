"""A unit that lasts is told from however many days somebody looks at: what is before the change is what it is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streaming.profiles.facts import DAY_US
from streaming.profiles.lasting import begins_us
from streaming.profiles.lookup import Usual, violations
from streaming.profiles.violation import Violation
from tests.streaming.profiles.test_lookup import END_US, START_US, sales, view, write


def found(root: Path, days: float) -> list[Violation]:
    from_us = END_US - round(days * DAY_US)
    return violations([view("sales")], root, from_us, END_US, Usual(START_US, from_us, begins=begins_us(days, END_US))).violations


@pytest.mark.parametrize("days", [1, 2, 6, 7, 12, 30])
@pytest.mark.parametrize("age", [2, 6.5, 10, 20])
def test_another_unit_that_lasts_is_told_from_any_days(tmp_path: Path, days: float, age: float) -> None:
    rows = sales(1)
    changed_us = END_US - round(age * DAY_US)
    rows["count"] = np.where(rows["at"] >= changed_us, rows["count"] * 1000, rows["count"])
    write(tmp_path, "sales", rows)
    (one,) = found(tmp_path, days)
    assert (one.source, one.kind, one.column) == ("sales", "unit", "pieces")
    assert abs(one.since_us - changed_us) <= DAY_US
    assert float(one.rows[0].rpartition(" = ")[2]) * 50 < float(one.rows[-1].rpartition(" = ")[2]), "rows of before and of after"


@pytest.mark.parametrize("days", [1, 6])
def test_a_table_that_is_as_usual_is_so_from_any_days_and_needs_a_past(tmp_path: Path, days: float) -> None:
    write(tmp_path, "sales", sales(1))
    assert found(tmp_path, days) == []


def test_days_are_begun_earlier_only() -> None:
    assert [(END_US - us) // DAY_US for us in begins_us(1, END_US)] == [7, 14, 28]
    assert [(END_US - us) // DAY_US for us in begins_us(7, END_US)] == [14, 28]
    assert begins_us(30, END_US) == ()
