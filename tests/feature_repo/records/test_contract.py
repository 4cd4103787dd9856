"""What the model gets of what was read: one rule, and the naive twin that says it cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from feature_repo.records.contract import Input, Null, Policy, known
from feature_repo.records.prediction import rows

_POLICIES = st.sampled_from([Null(), Null("default", 2.5), Null("default"), Null("reject")])
_CELL = st.tuples(st.none() | st.floats(allow_nan=False), st.sampled_from("fsnmr"))


def got(value: float | None, letter: str, policy: Null) -> float | None:
    given_to = None if letter == "s" else value
    return (policy.value or 0.0) if given_to is None and policy.action == "default" else given_to


@limited(max_examples=80)
@given(data=st.data())
def test_stale_is_null_and_then_the_policy_speaks(data: st.DataObject) -> None:
    policies = data.draw(st.lists(_POLICIES, min_size=1, max_size=4))
    width = len(policies)
    cells = data.draw(st.lists(st.lists(_CELL, min_size=width, max_size=width), max_size=4))
    values, letters = rows([[v for v, _ in row] for row in cells], ["".join(s for _, s in row) for row in cells], width)
    before = values.copy()
    policy = Policy([Input(f"i{n}", f"v:i{n}", "feature", "double", null) for n, null in enumerate(policies)])
    made = policy(values, letters)
    want: list[list[Any]] = [[got(v, s, p) for (v, s), p in zip(row, policies, strict=True)] for row in cells]
    np.testing.assert_array_equal(made, rows(want, [""] * len(cells), width)[0])
    np.testing.assert_array_equal(values, before)  # what was read stays as it was
    refused = [(i, n) for i, row in enumerate(want) for n, v in enumerate(row) if v is None and policies[n].action == "reject"]
    assert policy.refused(made) == refused
    if not any(s == "s" for row in cells for _, s in row):
        assert known(values, letters) is values


def test_an_entry_without_a_letter_per_value_says_nothing_of_any() -> None:
    assert rows([[1.0, None]], ["f"], 2)[1].tobytes() == b"rr"
