"""A function sees the declared types, whoever asks it: training, stock Feast, HTTP, gRPC, batch scores, and every proof about them."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from feature_repo.records import contract as contracts
from feature_repo.records import release
from feature_repo.records.contract import Contract, RequestField
from feature_repo.records.prediction import Prediction
from feature_repo.records.redis_keys import prediction_log_key
from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import definitions_of
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from serving.batch.rerun import run_again
from serving.handlers.data_plane import DataPlane
from serving.http.app import Front, build_app
from streaming.backfill.run import backfill
from streaming.online.store import connect
from streaming.schema.feature_view import views
from streaming.skew.proof import prove, read_log
from tests.meters.generate import METERS, NOW, generate, requests
from tests.serving.shop import make_contract, write_linear
from training.data.training_set import model_inputs

NOW_US = round(NOW.timestamp() * 1e6)
TYPES = {"meter": "int64", "count": "int64", "step": "int32", "yes": "bool", "word": "string", "share": "float64", "near": "float32", "when": "timestamp"}  # fmt: skip


@dataclass
class Meters:
    """The use case, applied, backfilled and served in this process."""

    settings: Settings
    case: UseCase
    contract: Contract
    spark: Any
    examples: pa.Table

    def ask(self, path: str, body: Any) -> Any:
        async def go() -> Any:
            plane = DataPlane(self.settings, lambda: NOW_US)
            app = build_app(plane)
            transport = httpx.ASGITransport(Front(app, plane))
            async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                answer = await client.post(path, content=msgspec.json.encode(body), headers={"X-Request-Timeout-Ms": "30000"})
                assert answer.status_code == 200, answer.text
                return answer.json()

        return asyncio.run(go())

    def trained(self, features: Any, spine: pa.Table | None = None) -> pa.Table:
        """What training gets."""
        asked = self.examples if spine is None else spine
        return self.case.store.get_historical_features(entity_df=asked, features=features, full_feature_names=True).to_arrow()


@pytest.fixture(scope="module")
def meters(state: Settings, redis_url: str, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meters]:
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("meters")
    own = Settings(repo=folder / "repo", state=folder / "state", redis_url=redis_url)
    generate(own.repo, own.offline_root)
    before = dict(os.environ)
    own.export()
    try:
        case = UseCase(own.repo)
        apply_definitions(case)
        store = case.store
        failed = [
            d.error for d in backfill(spark, list(views(store).values()), own.offline_root, redis_url, NOW_US, rewind=True) if d.error
        ]
        assert not failed
        spec = case.model("bursts")
        inputs, hashes = model_inputs(store, spec), definitions_of(store, spec.feature_service)
        model = own.model_root / "bursts" / "1"
        model.mkdir(parents=True)
        write_linear(model / contracts.MODEL, [1e-6] * len(inputs))
        fields = [RequestField(n, "entity" if n == "meter" else "request", t) for n, t in TYPES.items()]  # type: ignore[arg-type]
        files = {contracts.MODEL: contracts.sha256(model / contracts.MODEL)}
        made = make_contract(
            model="bursts", project="meters", feature_service=spec.feature_service, inputs=inputs, request=fields, definitions=hashes, files=files, label="burst"
        )  # fmt: skip
        contracts.write(model, made)
        release.promote(own.model_root, "bursts", 1)
        examples = pq.read_table(own.offline_root / "examples")
        yield Meters(own, case, made, spark, examples)
    finally:
        os.environ.clear()
        os.environ.update(before)


def same(a: Any, b: Any) -> bool:
    return bool(a == b or (a is None and b != b) or (b is None and a != a) or (a != a and b != b)) and (
        a is None or b is None or math.copysign(1, a) == math.copysign(1, b)
    )


def test_training_stock_feast_and_predict_compute_the_same(meters: Meters) -> None:
    service = meters.case.store.get_feature_service("meter_check")
    asked = requests()[: len(METERS)]
    trained = meters.trained(service).slice(0, len(METERS)).to_pylist()
    # one row at a time, by short names: of several, stock Feast gives a singleton function the first only; with full names it leaves
    # out what a function in Python mode gives
    read = meters.case.store.get_online_features
    stock = [read(features=service, entity_rows=[row]).to_dict() for row in _typed(asked)]
    served = meters.ask("/v1/models/bursts/predict", {"instances": asked, "features": True})["predictions"]
    for i, row in enumerate(trained):
        for one in meters.contract.inputs:
            want = row[one.name]
            if one.kind == "on_demand" and one.source != "seen:windowed":  # windows lie for Feast as of their newest event
                theirs = stock[i][one.source.partition(":")[2]][0]
                assert same(theirs, want), (one.name, i, theirs, want)
            got = served[i]["features"][one.name]["value"]
            assert same(got, None if want is None else float(want)), (one.name, i, got, want)


def test_the_feature_server_shows_the_exact_values_of_training(meters: Meters) -> None:
    service = meters.case.store.get_feature_service("meter_check")
    asked = requests()[: len(METERS)]
    body = {"feature_service": "meter_check", "entities": {name: [r[name] for r in asked] for name in TYPES}, "full_feature_names": True}
    answer = meters.ask("/get-online-features", body)
    shown = dict(zip(answer["metadata"]["feature_names"], (r["values"] for r in answer["results"]), strict=True))
    trained = meters.trained(service).slice(0, len(METERS))
    for one in meters.contract.inputs:
        for got, want in zip(shown[one.name], trained[one.name].to_pylist(), strict=True):
            assert got == want or (got is None and want != want), (one.name, got, want)


def test_an_example_of_each_style_of_function_and_naming_is_right(meters: Meters) -> None:
    features = ["kinds:seven", "kinds:odd", "kinds:is_on", "kinds:digits", "kinds:beyond", "kinds:half", "alone:next_count"]
    row = meters.trained(features).slice(0, 3).to_pylist()
    assert [r["kinds__is_on"] for r in row] == [1, 0, 0]
    assert [r["kinds__digits"] for r in row] == [1, 3, 16]
    assert [r["kinds__seven"] for r in row] == [1, 0, 0]
    assert [r["kinds__beyond"] for r in row] == [6, 101, 2**53]
    assert row[0]["kinds__half"] == float(np.float32(0.05))
    assert [r["alone__next_count"] for r in row] == [8, 2**53 + 2, None]


def test_a_name_that_no_service_gives_is_refused_and_not_absent(meters: Meters) -> None:
    from feast.errors import FeatureViewNotFoundException

    with pytest.raises(FeatureViewNotFoundException, match="kind"):
        meters.trained(["kind:odd"])


def logged(meters: Meters) -> list[Prediction]:
    """Every question, asked over HTTP, as it was logged."""
    client = connect(meters.settings.redis())
    client.delete(prediction_log_key("meters"))
    meters.ask("/v1/models/bursts/predict", {"instances": requests()})
    deadline = time.monotonic() + 60
    while len(log := read_log(client, "meters", "bursts")) < len(requests()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(log) == len(requests())
    return log


def test_the_skew_proof_covers_every_input_and_has_a_cause_for_functions(meters: Meters) -> None:
    log = logged(meters)

    def proof(some: list[Prediction]) -> Any:
        return prove(lambda: meters.spark, meters.case, meters.settings, meters.contract, some)

    right = proof(log)
    assert right.causes == {}, right.examples
    assert right.cells == len(log) * len(meters.contract.inputs)
    place = meters.contract.names.index("sorts__is_on")
    forged = list(log[0].values)
    forged[place] = 1.0 - (forged[place] or 0.0)
    wrong = proof([msgspec.structs.replace(log[0], values=forged)])
    assert wrong.causes == {"on-demand": 1}
    assert wrong.examples[0].feature == "sorts:is_on"


def test_a_replayed_prediction_goes_the_way_of_training(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.features.on_demand import OnDemand

    log = logged(meters)
    monkeypatch.setattr(OnDemand, "run", None)  # the way of serving is closed
    for prediction in log[:4]:
        again = run_again(meters.case, meters.settings, prediction)
        assert again.same, again.summary()
        assert len(again.cells) == len(meters.contract.inputs)
    place = meters.contract.names.index("alone__next_count")
    forged = list(log[0].values)
    forged[place] = 1e3
    (cell,) = [c for c in run_again(meters.case, meters.settings, msgspec.structs.replace(log[0], values=forged)).cells if not c.same]
    assert cell.name == "alone__next_count"


def test_the_equality_check_covers_functions_of_what_has_not_moved(meters: Meters) -> None:
    from serving.monitoring.feast_parity import Equality

    log = logged(meters)
    check = Equality(connect(meters.settings.redis()), meters.settings, "meters", "bursts", 1.0)
    first = log[0]  # of a meter that was read within the ttl
    compared, unequal = check.check(first)
    assert unequal == []
    place = meters.contract.names.index("sorts__digits")
    forged = list(first.values)
    forged[place] = (forged[place] or 0.0) + 2  # `len("7.0")`
    again, (wrong,) = check.check(msgspec.structs.replace(first, values=forged))
    assert again == compared
    assert (wrong.feature, wrong.feast) == ("sorts:digits", 1)


def test_the_leakage_check_asks_for_every_feature_of_functions(meters: Meters) -> None:
    from training.data.leakage import find_leaks

    checked = find_leaks(meters.case, meters.settings, moments=1, examples=20)
    assert not checked.leaks
    assert {"sorts__beyond", "alone__next_count", "seen__stored"} <= checked.features


def test_batch_scores_see_the_same_types(meters: Meters, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from serving.batch.score import score_table

    pq.write_table(meters.examples.slice(0, len(METERS)), tmp_path / "rows.parquet")
    score_table(meters.spark, meters.case, meters.settings, "bursts", 1, tmp_path / "rows.parquet", tmp_path / "scores", None)
    scored = {r["id"]: r for r in pq.read_table(tmp_path / "scores").to_pylist()}
    answered = meters.ask("/v1/models/bursts/predict", {"instances": requests()[: len(METERS)]})["predictions"]
    for i, prediction in enumerate(answered):
        assert scored[i]["error"] is None
        assert scored[i]["score"] == prediction["score"]


def _typed(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as Feast's own client takes them: moments parsed, and single precision where it is declared, which Feast does not see to."""
    from datetime import datetime

    def single(value: float | None) -> float | None:
        return None if value is None else float(np.float32(value))

    return [{**r, "near": single(r["near"]), "when": None if r["when"] is None else datetime.fromisoformat(r["when"])} for r in asked]
