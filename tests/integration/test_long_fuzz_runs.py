"""A long fuzz run draws as many inputs as it should, for tests with and without fixtures, and ends at the first that fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fuzz


@pytest.mark.parametrize("fixtures", [{}, {"where": "here"}])
@pytest.mark.parametrize("named", [False, True])
def test_a_long_run_draws_all_its_inputs(monkeypatch: pytest.MonkeyPatch, fixtures: dict[str, Any], named: bool) -> None:
    monkeypatch.setattr(fuzz, "INPUTS", 50)
    seen: list[tuple[Any, ...]] = []

    def plain(number: int, raw: bytes) -> None:
        seen.append((number, raw))

    def placed(where: str, number: int, raw: bytes) -> None:
        assert where == "here"
        seen.append((number, raw))

    strategies: Any = {"number": st.integers(), "raw": st.binary()}
    chosen: Any = given(**strategies) if named else given(*strategies.values())
    fuzz._long(chosen(placed if fixtures else plain))(**fixtures)
    assert len(seen) == 50
    assert len({raw for _, raw in seen}) > 5
    assert all(isinstance(number, int) for number, _ in seen)


def test_a_long_run_ends_at_the_first_input_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "INPUTS", 1000)

    def never_large(where: str, number: int) -> None:
        assert where
        assert number < 3

    with pytest.raises(AssertionError, match="< 3"):
        fuzz._long(given(st.integers(0, 3))(never_large))(where="here")
