"""A made-up shop for the serving tests: one model over stored, on-demand and request inputs, and a reader with rows in a dict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from feature_repo.records import contract as contracts
from feature_repo.records.contract import Contract, Input, Null, Parity, RequestField
from feature_repo.records.prediction import Mark
from serving.features.on_demand import OnDemand
from serving.features.reader import FeatureRows, OnlineStoreUnavailable
from serving.inference.explainer import BOOSTER
from serving.inference.predictor import Predictor
from serving.inference.scorer import Scorer
from serving.models.loading import Loader, explainer
from serving.telemetry.metrics import Metrics
from serving.telemetry.prediction_id import PredictionIds
from streaming.join.on_demand import transformation

NOW_US = 1_700_000_000_000_000
IDS = PredictionIds(bytes(range(32)), NOW_US // 1000 - 1_000)
"""What the shop's predictions are called, wherever `write_key` was."""
FEATURES = ["sales:count_1h", "sales:mean_price", "shelf:stock", "shelf:aisle"]
INPUTS = [
    Input("count_1h", "sales:count_1h", "feature", "float64"),
    Input("stock", "shelf:stock", "feature", "float64"),
    Input("price_ratio", "pricing:price_ratio", "on_demand", "float64"),
    Input("mean_price", "sales:mean_price", "feature", "float64"),
    Input("price", "price", "request", "float64"),
]
WEIGHTS = [1.0, 10.0, 100.0, 1000.0, 10000.0]
REQUEST = [
    RequestField("product", "entity", "string", example="tea"),
    RequestField("store", "entity", "int64", example=7),
    RequestField("price", "request", "float64", example=2.5, minimum=0, maximum=10),
    RequestField("asked_at", "request", "timestamp", example="2023-11-14T22:13:20Z"),
]
INSTANCE = {"product": "tea", "store": 7, "price": 2.5, "asked_at": "2023-11-14T22:13:20Z"}


def make_contract(version: int = 1, **changes: Any) -> Contract:
    base: dict[str, Any] = {
        "model": "sells_out",
        "version": version,
        "project": "shop",
        "feature_service": "sells_out",
        "definitions": {},
        "definition_hash": "abc",
        "inputs": INPUTS,
        "request": REQUEST,
        "label": "sold_out",
        "label_delay": "a day",
        "deadline_ms": 500,
        "split": {},
        "training_set": {"hash": "x", "rows": 1},
        "parameters": {},
        "metrics": {"valid": {"auc": 0.8}},
        "slices": {},
        "gates": [],
        "reference": {},
        "parity": Parity(1, 0.0),
        "run_id": "r",
        "created": "2023-11-14",
        "files": {},
    }
    return Contract(**base | changes)


def write_key(state: Path) -> None:
    """The key of `IDS`, as serving keeps it."""
    state.mkdir(exist_ok=True)
    (state / "prediction-ids.key").write_text(f"{bytes(range(32)).hex()} {IDS.since_ms}\n")


def with_null(name: str, null: Null) -> list[Input]:
    """The shop's inputs, one of them with another null policy."""
    return [Input(i.name, i.source, i.kind, i.dtype, null) if i.name == name else i for i in INPUTS]


def write_linear(path: Path, weights: list[float] = WEIGHTS, flat: bool = False, dtype: int = TensorProto.DOUBLE) -> None:
    """A model whose score is the weighted sum of its inputs, NaN counting as -1."""
    n = len(weights)
    scalar = [helper.make_tensor("minus", dtype, [], [-1.0]), helper.make_tensor("w", dtype, [n, 1], weights)]
    nodes = [
        helper.make_node("IsNaN", ["inputs"], ["holes"]),
        helper.make_node("Where", ["holes", "minus", "inputs"], ["filled"]),
        helper.make_node("MatMul", ["filled", "w"], ["column" if flat else "score"]),
    ]
    if flat:
        scalar.append(helper.make_tensor("axes", TensorProto.INT64, [1], [1]))
        nodes.append(helper.make_node("Squeeze", ["column", "axes"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("inputs", dtype, [None, n])],
        [helper.make_tensor_value_info("score", dtype, [None] if flat else [None, 1])],
        scalar,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def write_version(root: Path, version: int = 1, booster: bool = False, **changes: Any) -> Path:
    """A contract folder that verifies."""
    folder = root / "sells_out" / str(version)
    folder.mkdir(parents=True)
    write_linear(folder / contracts.MODEL, [w + version - 1 for w in WEIGHTS])
    if booster:
        import lightgbm

        data = np.random.default_rng(1).normal(size=(300, len(INPUTS)))
        label = (data[:, 3] > 0).astype(int)
        lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(data, label), 3).save_model(
            folder / BOOSTER
        )
    files = {p.name: contracts.sha256(p) for p in folder.iterdir()}
    contracts.write(folder, make_contract(version, files=files, **changes))
    return folder


def ratio(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The shop's on-demand function."""
    pairs = zip(inputs["price"], inputs["mean_price"], strict=True)
    return {"price_ratio": [price / mean if price is not None and mean is not None else None for price, mean in pairs]}


def field(name: str, dtype: str = "Float64") -> SimpleNamespace:
    return SimpleNamespace(name=name, dtype=dtype)


def view(udf: Callable[..., Any], mode: str = "python", singleton: bool = False, dtype: str = "Float64") -> SimpleNamespace:
    """What `streaming.join.on_demand.transformation` reads of a Feast on-demand view."""
    source = SimpleNamespace(name="sales", name_to_use=lambda: "sales", features=[field("mean_price")])
    return SimpleNamespace(
        name="pricing",
        mode=mode,
        singleton=singleton,
        feature_transformation=SimpleNamespace(udf=udf),
        source_feature_view_projections={"sales": source},
        source_request_sources={"asked": SimpleNamespace(schema=[field("price"), field("asked_at", "UnixTimestamp")])},
        features=[field("price_ratio", dtype)],
    )


def on_demand(udf: Callable[..., Any] = ratio, **kind: Any) -> OnDemand:
    return OnDemand([transformation(view(udf, **kind), "pricing", ["price_ratio"], [])], FEATURES)


class Rows:
    """A reader over a dict: product → [(value, status letter, age in seconds) per feature].

    Attributes:
        down: whether the store is away.
        delay_s: how long a read takes; it does not keep its own deadline then.
    """

    def __init__(self, **products: list[tuple[float | None, str, float | None]]) -> None:
        self.features = FEATURES
        self.views, self.view_of = ["sales", "shelf"], [0, 0, 1, 1]
        self.join_keys = {"product": "string", "store": "int64"}
        self.products = products
        self.down = False
        self.delay_s = 0.0
        self.closed = False
        self.timeouts: list[float | None] = []
        self.windows: list[Any] = []

    def lose(self, names: Any) -> None:
        return None

    async def read(self, instances: list[dict[str, Any]], now_us: int, timeout_s: float | None = None) -> FeatureRows:
        self.timeouts.append(timeout_s)
        await asyncio.sleep(self.delay_s if timeout_s is None else min(self.delay_s, timeout_s))
        if self.down:
            raise OnlineStoreUnavailable("the online store cannot be read: connection refused")
        if timeout_s is not None and self.delay_s > timeout_s:
            raise OnlineStoreUnavailable(f"the online store did not answer within {timeout_s * 1000:.0f} ms")
        missing: list[tuple[float | None, str, float | None]] = [(None, "m", None)] * len(FEATURES)
        rows = [self.products.get(i["product"], missing) for i in instances]
        number = lambda x: np.nan if x is None else x  # noqa: E731
        return FeatureRows(
            values=np.array([[number(v) for v, _, _ in row] for row in rows], dtype=np.float64),
            statuses=np.array([[ord(s) for _, s, _ in row] for row in rows], dtype=np.uint8),
            ages=np.array([[number(row[i][2]) for i in (0, 2)] for row in rows], dtype=np.float64),
            marks=[{"sales": Mark(now_us - 5_000_000, 1, None), "shelf": Mark(now_us - 60_000_000, 2, now_us - 61_000_000)} for _ in rows],
            extras=[{"shelf:aisle": "B"} for _ in rows],
        )

    async def close(self) -> None:
        self.closed = True


def shelves() -> Rows:
    return Rows(
        tea=[(3.0, "f", 5.0), (2.0, "f", 5.0), (40.0, "f", 60.0), (None, "f", 60.0)],
        salt=[(1.0, "f", 9000.0), (5.0, "s", 9000.0), (None, "n", 60.0), (None, "f", 60.0)],
    )


def loader(reader: Callable[[], Rows] = shelves) -> Loader:
    """Loads verified contract folders over made-up rows."""

    def load(settings: Any, model: str, version: int, metrics: Metrics, log: Any) -> Predictor:
        folder = settings.model_root / model / str(version)
        contract = contracts.load(folder)
        scorer = Scorer(folder / contracts.MODEL, len(contract.inputs))
        ids = PredictionIds.of(settings)
        return Predictor(contract, reader(), on_demand(), scorer, metrics.model, log.put, explainer(folder, contract), ids=ids)  # type: ignore[arg-type]

    return load
