from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from serving.features.on_demand import OnDemand, OnDemandError
from serving.features.reader import FeatureRows
from streaming.join.on_demand import transformation
from tests.serving.shop import FEATURES, on_demand, view

REQUEST = {"price": [4.0, 6.0], "asked_at": [None, None]}


def stored(*means: float | None, letters: str = "") -> FeatureRows:
    """What was read: a mean price per row."""
    values = np.full((len(means), len(FEATURES)), np.nan)
    values[:, FEATURES.index("sales:mean_price")] = [np.nan if m is None else m for m in means]
    statuses = np.array([[ord(letter)] * len(FEATURES) for letter in letters or "f" * len(means)], dtype=np.uint8)
    return FeatureRows(values, statuses, np.zeros((len(means), 2)), [{} for _ in means], [{} for _ in means])


STORED = stored(2.0, None)


def test_sources_fields_and_features_are_what_the_view_declares() -> None:
    compiled = on_demand()
    assert (compiled.sources, compiled.fields, compiled.features) == (["sales:mean_price"], ["asked_at", "price"], ["pricing:price_ratio"])


def test_all_rows_run_at_once_and_null_is_nan() -> None:
    calls: list[dict[str, Any]] = []

    def udf(inputs: dict[str, Any]) -> dict[str, Any]:
        calls.append(inputs)
        return {"price_ratio": [p / m if m else None for p, m in zip(inputs["price"], inputs["sales__mean_price"], strict=True)]}

    assert on_demand(udf).run(REQUEST, STORED)["pricing:price_ratio"] == [2.0, None]
    assert len(calls) == 1
    assert calls[0]["mean_price"] == [2.0, None]


def test_a_singleton_sees_one_row_at_a_time() -> None:
    compiled = on_demand(lambda row: {"price_ratio": row["price"] + 1}, singleton=True)
    assert compiled.run(REQUEST, STORED)["pricing:price_ratio"] == [5.0, 7.0]


def test_a_declared_single_precision_is_kept() -> None:
    computed = on_demand(lambda i: {"price_ratio": [0.1, 0.2]}, dtype="Float32").run(REQUEST, STORED)
    assert computed["pricing:price_ratio"] == [float(np.float32(0.1)), float(np.float32(0.2))]


def test_a_function_that_raises_is_blamed_with_its_row() -> None:
    compiled = on_demand(lambda i: {"price_ratio": [p / m for p, m in zip(i["price"], i["mean_price"], strict=True)]})
    with pytest.raises(OnDemandError, match="'pricing' failed on this row: TypeError") as caught:
        compiled.run(REQUEST, STORED)
    assert caught.value.row == 1


@pytest.mark.parametrize("raised", [SystemExit("bye"), GeneratorExit(), RecursionError(), StopIteration()])
def test_whatever_a_function_raises_is_an_answer_about_the_row(raised: BaseException) -> None:
    def udf(_: Any) -> Any:
        raise raised

    with pytest.raises(OnDemandError, match=f"'pricing' failed on this row: {type(raised).__name__}") as caught:
        on_demand(udf).run(REQUEST, STORED)
    assert caught.value.row == 0


@pytest.mark.parametrize("singleton", [False, True])
@pytest.mark.parametrize("given", [None, 3, 1.5, True, "x" * 1_000_000, [1.0, 2.0], {1.0}, object()])
def test_an_answer_that_is_no_dict_is_named_and_not_repeated_at_length(given: Any, singleton: bool) -> None:
    with pytest.raises(OnDemandError, match="'pricing'") as caught:
        on_demand(lambda _: given, singleton=singleton).run(REQUEST, STORED)
    assert len(str(caught.value)) < 300


class Odd:
    def __index__(self) -> int:
        raise RuntimeError

    __float__ = __eq__ = __index__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "Int32", "Bool", "UnixTimestamp"])
@pytest.mark.parametrize("value", [np.array([1, 2]), Odd(), int, 1j, Decimal("sNaN"), np.void(b"ab"), {}, "x" * 9999])
def test_a_value_that_nobody_can_read_is_named_with_its_row(dtype: str, value: Any) -> None:
    with pytest.raises(OnDemandError, match="'price_ratio'") as caught:
        on_demand(lambda _: {"price_ratio": [None, value]}, dtype=dtype).run(REQUEST, STORED)
    assert caught.value.row == 1
    assert len(str(caught.value)) < 300


def test_a_function_that_writes_into_its_inputs_writes_into_no_other_s() -> None:
    def greedy(inputs: dict[str, Any]) -> dict[str, Any]:
        for values in inputs.values():
            values[:] = [None] * len(values)
        return {"price_ratio": [1.0, 2.0]}

    seen: list[dict[str, Any]] = []

    def modest(inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(inputs)
        return {"price_ratio": [1.0, 2.0]}

    both = [transformation(view(udf), "pricing", ["price_ratio"], []) for udf in (greedy, modest)]
    OnDemand(both, FEATURES).run(REQUEST, STORED)
    assert (seen[0]["price"], seen[0]["mean_price"]) == ([4.0, 6.0], [2.0, None])
    assert REQUEST["price"] == [4.0, 6.0]


def test_the_row_is_blamed_by_what_the_function_was_given() -> None:
    def udf(inputs: dict[str, Any]) -> dict[str, Any]:
        while inputs["price"]:
            1 / (inputs["price"].pop() - 6.0)
        return {"price_ratio": [1.0, 2.0]}

    with pytest.raises(OnDemandError, match="ZeroDivisionError") as caught:
        on_demand(udf).run(REQUEST, STORED)
    assert caught.value.row == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "did not return it"),
        ({"price_ratio": [1.0]}, "1 values for 2 rows"),
        ({"price_ratio": ["a", 1]}, "not a number"),
        ({"price_ratio": {7.0, 1.0}}, "not one value per row"),
        ({"price_ratio": {0: 5.0, 1: 6.0}}, "not one value per row"),
        ({"price_ratio": frozenset({1.0, 2.0})}, "not one value per row"),
    ],
)
def test_an_answer_of_the_wrong_shape_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(OnDemandError, match=says):
        on_demand(lambda _: given).run(REQUEST, STORED)


def test_pandas_mode_is_refused_when_compiled() -> None:
    with pytest.raises(OnDemandError, match="mode='python'"):
        on_demand(mode="pandas")


class _Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("raised", [ValueError("x" * 20_000_000), ValueError("\ud800"), _Silent(), asyncio.CancelledError()])
def test_what_a_function_says_is_cut_short_and_can_be_sent(raised: BaseException) -> None:
    def udf(_: dict[str, Any]) -> Any:
        raise raised

    with pytest.raises(OnDemandError, match=type(raised).__name__) as caught:
        on_demand(udf).run(REQUEST, STORED)
    assert len(str(caught.value).encode()) < 1000


def test_an_answer_whose_length_nobody_knows_is_named() -> None:
    class Odd:
        def __len__(self) -> int:
            raise RuntimeError("no")

    with pytest.raises(OnDemandError, match="no length"):
        on_demand(lambda _: {"price_ratio": Odd()}).run(REQUEST, STORED)
