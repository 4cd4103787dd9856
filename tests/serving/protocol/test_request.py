from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.contract import RequestField
from infra.timestamps import microseconds
from serving.protocol.limits import MAX_INSTANCES
from serving.protocol.problem import Invalid, Malformed, TooLarge
from serving.protocol.request import RequestSchema, moment
from tests.serving.shop import INSTANCE, make_contract

SCHEMA = RequestSchema(make_contract())


def ask(*instances: Any, **more: Any) -> bytes:
    return msgspec.json.encode({"instances": list(instances), **more})


def refusal(body: bytes) -> list[tuple[int | None, str | None]]:
    with pytest.raises(Invalid) as caught:
        SCHEMA.decode(body)
    return [(e.row, e.field) for e in caught.value.errors]


def test_a_good_request_comes_back_as_it_was_sent() -> None:
    question = SCHEMA.decode(ask(INSTANCE, {**INSTANCE, "price": None, "asked_at": 1_700_000_000}, features=True, now=1.5))
    assert question.instances == [INSTANCE, {**INSTANCE, "price": None, "asked_at": 1_700_000_000}]
    assert question.moments == {"asked_at": [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)] * 2}
    assert (question.explain, question.features, question.now_us) == (False, True, 1_500_000)


def test_a_null_key_is_an_entity_that_the_caller_does_not_know() -> None:
    assert SCHEMA.decode(ask({**INSTANCE, "product": None, "store": None})).instances[0]["product"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("product", ""),
        ("product", 3),
        ("store", "7"),
        ("store", 7.0),
        ("store", True),
        ("store", 2**63),
        ("price", "2"),
        ("price", True),
        ("price", [1]),
        ("asked_at", "yesterday"),
        ("asked_at", True),
        ("asked_at", 1e18),
        ("asked_at", "2023-02-30"),
        ("colour", "red"),
    ],
)
def test_what_is_wrong_with_a_field_is_said_with_its_row(field: str, value: Any) -> None:
    assert refusal(ask(INSTANCE, {**INSTANCE, field: value})) == [(1, field)]


def test_every_fault_of_a_request_is_listed() -> None:
    missing = {k: v for k, v in INSTANCE.items() if k != "store"}
    assert refusal(ask(missing, {**INSTANCE, "price": "x"}, {**INSTANCE, "extra": 1}, 5, loud=True)) == [
        (None, "loud"),
        (0, "store"),
        (1, "price"),
        (2, "extra"),
        (3, None),
    ]


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_too_large_for_a_float_is_refused_with_its_place(number: str) -> None:
    body = ask(INSTANCE, {**INSTANCE, "price": 12345}).replace(b"12345", number.encode())
    assert refusal(body) == [(1, "price")]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"NaN", b'{"instances":[{"price":NaN}]}', b'{"instances":[{"price":Infinity}]}', b'{"a":"\xff"}']
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        SCHEMA.decode(body)


@pytest.mark.parametrize("body", [b"[]", b"3", b"{}", b'{"instances":{}}', b'{"instances":[]}', b'{"instances":null}'])
def test_json_that_is_no_request_is_invalid(body: bytes) -> None:
    assert len(refusal(body)) == 1


def test_a_value_outside_what_was_seen_in_training_is_taken() -> None:
    assert SCHEMA.decode(ask({**INSTANCE, "price": 1e6})).instances[0]["price"] == 1e6


def test_more_instances_than_the_limit_are_too_large() -> None:
    with pytest.raises(TooLarge):
        SCHEMA.decode(ask(*[INSTANCE] * (MAX_INSTANCES + 1)))


def test_the_example_decodes_even_where_the_contract_gives_none() -> None:
    fields = [RequestField(f"f{d}", "request", d) for d in ("string", "int64", "int32", "float64", "float32", "bool", "timestamp")]  # type: ignore[arg-type]
    schema = RequestSchema(make_contract(request=[*fields, RequestField("low", "request", "int32", minimum=2.5, maximum=9)]))
    assert schema.decode(msgspec.json.encode(schema.example())).instances[0]["low"] == 3
    assert SCHEMA.example() == {"instances": [INSTANCE]}


def test_field_names_need_not_be_python_names() -> None:
    schema = RequestSchema(make_contract(request=[RequestField("class", "entity", "string"), RequestField("a b", "request", "bool")]))
    assert schema.decode(b'{"instances":[{"class":"x","a b":true}]}').instances == [{"class": "x", "a b": True}]


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_a_moment_survives_its_own_notation(at: datetime) -> None:
    assert moment(at.isoformat()) == at
    assert moment(at.isoformat().replace("+00:00", "")) == at
    assert moment(at.isoformat().replace("+00:00", "Z")) == at
    assert microseconds(at) == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3))


@given(st.lists(st.dictionaries(st.sampled_from([*INSTANCE, "other"]), values), max_size=3))
def test_the_fast_check_and_the_naming_check_agree(instances: list[dict[str, Any]]) -> None:
    """Naive twin: a body is taken exactly when the row-by-row check finds no fault."""
    body = msgspec.json.encode({"instances": instances})
    faults = SCHEMA.faults(msgspec.json.decode(body))
    if instances and not faults:
        assert SCHEMA.decode(body).instances == instances
    else:
        with pytest.raises(Invalid) as caught:
            SCHEMA.decode(body)
        assert caught.value.errors == faults or not instances
