"""Feast's own protocol: features are read by the key that was sent, and what is pushed can be read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.handlers.feast import key_of
from serving.protocol.problem import Invalid
from tests.fuzz import fuzzed
from tests.serving.hostile import bodies
from tests.serving.house import DOCKS, PUSHED, READ, REFUSED, SERVICE, House, check_refusal, forget_pushed


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=1)))
def test_a_key_is_the_entity_that_was_asked_for_or_it_is_refused(value: Any) -> None:
    for dtype, bits in (("int32", 31), ("int64", 63)):
        try:
            found = key_of(value, dtype, "station", 0)
        except Invalid:
            continue
        if value is None:
            assert found is None
            continue
        assert not isinstance(value, bool)
        assert (int(value) if isinstance(value, str) else value) == found
        assert -(2**bits) <= found < 2**bits


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(8.9, "int64"), (True, "int64"), ("8.9", "int64"), ("²", "int64"), (2**31, "int32"), (True, "string"), ([], "string")],
)
def test_a_key_of_another_kind_is_refused_by_its_row_and_name(value: Any, dtype: str) -> None:
    with pytest.raises(Invalid, match=r"row 4, entities\.station") as refused:
        key_of(value, dtype, "station", 4)
    assert (refused.value.errors[0].row, refused.value.errors[0].field) == (4, "entities.station")


def test_features_are_read_by_the_key_that_was_sent_and_limits_are_said(bikes_house: House) -> None:
    path, features = "/get-online-features", ["dock:charge"]
    good = bikes_house.post(path, {"entities": {"station": [7, "7", 7.0]}, "features": features})
    assert good.status_code == 200, good.text
    assert len({str(v) for v in good.json()["results"][1]["values"]}) == 1
    for bad in (8.9, True, "8.9", [7], 2**70):
        refused = bikes_house.post(path, {"entities": {"station": [7, bad]}, "features": features})
        assert refused.status_code == 422, (bad, refused.text)
    for body, status, said in (
        ({"entities": {"station": [7] * 1001}, "features": features}, 413, "at most 1000"),
        ({"entities": {"station": [7], "note": ["x" * 5000]}, "features": features}, 422, "at most 4096"),
        ({"entities": {"station": [7], "note": [1]}, "features": features * 2}, 422, "twice"),
        ({"entities": {str(i): [7] for i in range(2000)} | {"station": [7]}, "features": features}, 413, "at most 1000"),
    ):
        refused = bikes_house.post(path, body)
        assert (refused.status_code, said in refused.text) == (status, True), refused.text[:300]


@fuzzed
@given(bodies(READ, SERVICE))
def test_fuzz_any_read_of_features_is_answered_or_refused_and_counted(bikes_house: House, body: bytes) -> None:
    before = bikes_house.calls()
    check_refusal(bikes_house.call("POST", "/get-online-features", body), *REFUSED)
    assert bikes_house.calls() == before + 1


@fuzzed
@given(bodies(PUSHED, DOCKS), st.integers(0, 99))
def test_fuzz_any_push_is_taken_or_refused_and_counted(bikes_house: House, body: bytes, often: int) -> None:
    """What is taken can be read: nothing of it is rejected by the stream."""
    before = bikes_house.calls("push")
    response = bikes_house.call("POST", "/push", body)
    check_refusal(response, *REFUSED)
    assert bikes_house.calls("push") == before + 1
    if response.status_code == 200 and not often:
        forget_pushed(bikes_house)
