from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from feature_repo.records.contract import Input, Null
from feature_repo.records.prediction import Prediction
from serving.inference.input_sources import WiringError
from serving.inference.predictor import Predictor
from serving.inference.scorer import Scorer
from serving.protocol.answer import Answer
from serving.protocol.problem import Invalid, Unavailable
from serving.telemetry.metrics import Metrics
from tests.serving.shop import INPUTS, INSTANCE, NOW_US, WEIGHTS, Rows, make_contract, on_demand, shelves, with_null, write_linear


class Shop:
    """A predictor over the shop, with what it logged."""

    def __init__(self, folder: Path, reader: Rows | None = None, **contract: Any) -> None:
        write_linear(folder / "m.onnx")
        self.reader = reader or shelves()
        self.metrics = Metrics()
        self.logged: list[Prediction] = []
        scorer = Scorer(folder / "m.onnx", len(INPUTS))
        self.predictor = Predictor(make_contract(**contract), self.reader, on_demand(), scorer, self.metrics.model, self.logged.append)  # type: ignore[arg-type]

    def ask(self, *instances: dict[str, Any], deadline_s: float = 0.5, **more: Any) -> Answer:
        question = self.predictor.schema.decode(msgspec.json.encode({"instances": instances, **more}))
        return asyncio.run(self.predictor.predict(question, NOW_US, NOW_US + 7, deadline_s, time.perf_counter()))


def product(name: str) -> dict[str, Any]:
    return {**INSTANCE, "product": name}


def test_every_input_stands_in_its_contract_column(tmp_path: Path) -> None:
    answer = Shop(tmp_path).ask(INSTANCE)
    assert answer.predictions[0].score == np.dot([3.0, 40.0, 2.5 / 2.0, 2.0, 2.5], WEIGHTS)
    assert (answer.model, answer.model_version) == ("sells_out", 1)


def test_the_order_of_columns_is_the_contracts_and_only_the_contracts(tmp_path: Path) -> None:
    answer = Shop(tmp_path, inputs=INPUTS[::-1]).ask(INSTANCE)
    assert answer.predictions[0].score == np.dot([2.5, 2.0, 2.5 / 2.0, 40.0, 3.0], WEIGHTS)


def test_predictions_come_in_the_order_of_the_instances(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    many = [product("tea"), product("salt"), product("none")] * 100
    answer = shop.ask(*many)
    assert [p.score for p in answer.predictions] == [p.score for one in many for p in Shop(tmp_path).ask(one).predictions]
    assert len({p.prediction_id for p in answer.predictions}) == 300
    assert [p.request["product"] for p in shop.logged] == [one["product"] for one in many]


def test_a_stale_value_is_shown_but_the_model_and_the_on_demand_view_get_null(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    (scored,) = shop.ask(product("salt"), features=True).predictions
    assert scored.score == np.dot([1.0, -1.0, -1.0, -1.0, 2.5], WEIGHTS)  # NaN counts as -1 in the shop's model
    assert msgspec.to_builtins(scored.statuses) == {
        "fresh": 1,
        "stale": 1,
        "null": 1,
        "missing": 0,
        "not_fresh": {"stock": "null", "mean_price": "stale"},
    }
    shown = msgspec.to_builtins(scored.features)
    assert shown["mean_price"] == {"value": 5.0, "status": "stale", "age_s": 9000.0}
    assert shown["stock"] == {"value": None, "status": "null", "age_s": 60.0}
    assert shown["price"] == {"value": 2.5, "status": "request", "age_s": None}
    assert shop.logged[0].values == [1.0, None, None, 5.0, 2.5]
    assert shop.logged[0].statuses == "fnrsr"


def test_an_unknown_entity_is_missing_never_present(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    (scored,) = shop.ask(product("none")).predictions
    assert scored.statuses.missing == 3
    assert shop.logged[0].statuses == "mmrmr"


def test_what_is_logged_is_what_was_asked_read_and_answered(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    (scored,) = shop.ask(INSTANCE, features=True).predictions
    (logged,) = shop.logged
    assert (logged.id, logged.score, logged.request) == (scored.prediction_id, scored.score, INSTANCE)
    assert (logged.at_us, logged.wall_us, logged.model, logged.version) == (NOW_US, NOW_US + 7, "sells_out", 1)
    assert logged.marks["shelf"].event_us == NOW_US - 61_000_000
    assert scored.views == {
        "sales": {"high_water_mark": {"known_us": NOW_US - 5_000_000, "ties": 1, "event_us": None}},
        "shelf": {"high_water_mark": {"known_us": NOW_US - 60_000_000, "ties": 2, "event_us": NOW_US - 61_000_000}},
    }


def test_features_are_not_sent_unless_asked_for(tmp_path: Path) -> None:
    answer = msgspec.json.decode(msgspec.json.encode(Shop(tmp_path).ask(INSTANCE)))
    assert set(answer["predictions"][0]) == {"prediction_id", "score", "statuses"}
    assert set(answer["timings_ms"]) == {"read", "score", "total"}


def test_a_default_takes_the_place_of_null_in_the_model_but_not_in_the_log(tmp_path: Path) -> None:
    shop = Shop(tmp_path, inputs=with_null("stock", Null("default", 5.0)))
    (scored,) = shop.ask(product("salt")).predictions
    assert scored.score == np.dot([1.0, 5.0, -1.0, -1.0, 2.5], WEIGHTS)
    assert shop.logged[0].values[1] is None


@pytest.mark.parametrize(("name", "status"), [("stock", "null"), ("mean_price", "stale"), ("price_ratio", "null")])
def test_a_rejected_null_names_row_input_and_status(tmp_path: Path, name: str, status: str) -> None:
    shop = Shop(tmp_path, inputs=with_null(name, Null("reject")))
    with pytest.raises(Invalid, match=f"row 1, input '{name}': is {status}") as caught:
        shop.ask(product("tea"), product("salt"))
    assert [(e.row, e.field) for e in caught.value.errors] == [(1, name)]
    assert not shop.logged


def test_a_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.reader.down = True
    with pytest.raises(Unavailable, match="The online store cannot be read: connection refused, so no features") as caught:
        shop.ask(INSTANCE)
    assert caught.value.headers["retry-after"] == "1"


def test_a_reader_that_hangs_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.reader.delay_s = 30
    started = time.perf_counter()
    with pytest.raises(Unavailable, match="within 100 ms"):
        shop.ask(INSTANCE, deadline_s=0.1)
    assert time.perf_counter() - started < 10, "the deadline of 0.1 s, not the delay of 30"
    assert shop.reader.timeouts == [0.1]


def test_a_deadline_already_past_reads_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(Unavailable, match="Nothing was left of the request's deadline"):
        shop.ask(INSTANCE, deadline_s=-0.1)
    assert shop.reader.timeouts == []


def test_contributions_are_refused_where_the_version_has_none(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="explain is not available"):
        Shop(tmp_path).ask(INSTANCE, explain=True)


def test_statuses_and_freshness_are_counted(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.ask(product("tea"), product("salt"), product("none"))
    text = shop.metrics.text().decode()
    assert 'headrace_feature_values_total{model="sells_out",status="stale",version="1"} 1.0' in text
    assert 'headrace_feature_values_total{model="sells_out",status="missing",version="1"} 3.0' in text
    assert 'headrace_freshness_seconds_count{model="sells_out",version="1",view="shelf"} 2.0' in text
    assert 'headrace_freshness_seconds_bucket{le="30.0",model="sells_out",version="1",view="shelf"} 0.0' in text
    assert 'headrace_freshness_seconds_sum{model="sells_out",version="1",view="sales"} 9005.0' in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inputs": [Input("x", "sales:nothing", "feature", "float64")]}, "sales:nothing"),
        ({"inputs": [Input("x", "pricing:nothing", "on_demand", "float64")]}, "pricing:nothing"),
        ({"inputs": [Input("x", "product", "request", "string")]}, "request field that is a number"),
        ({"request": []}, "'price' is not"),
        ({"request": [], "inputs": INPUTS[:1]}, "'product'"),
    ],
)
def test_a_contract_that_cannot_be_served_is_refused_by_name(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(WiringError, match=says):
        Shop(tmp_path, **change)
