"""LightGBM to ONNX, exactly: one `TreeEnsemble` (ai.onnx.ml version 5) with double inputs, splits and weights.

Written from LightGBM's own model dump, because the usual converter narrows thresholds to float32 and is silently wrong on large values
and several options (onnxmltools #708, #728). What cannot be represented is refused.

LightGBM's decision at a numerical node is `value <= threshold`; NaN follows the default direction where the node has missing type NaN,
and is taken for 0.0 where it has none (LightGBM `Tree::NumericalDecision`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Parity
from feature_repo.records.onnx_session import INPUT, OUTPUT, session

if TYPE_CHECKING:
    import lightgbm

_LEQ, _SUM = 0, 1
_ZERO = float(np.float32(1e-35))  # LightGBM's kZeroThreshold


class ExportError(ValueError):
    """The model uses something that the ONNX ensemble cannot represent exactly; names it."""


@dataclass
class _Ensemble:
    """The operator's attributes, flat over all trees."""

    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    true_ids: list[int] = field(default_factory=list)
    false_ids: list[int] = field(default_factory=list)
    true_leafs: list[int] = field(default_factory=list)
    false_leafs: list[int] = field(default_factory=list)
    missing_true: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def _leaf(self, value: float) -> int:
        self.weights.append(value)
        return len(self.weights) - 1

    def _node(self, feature: int, split: float, missing_true: bool) -> int:
        for column, value in (
            (self.features, feature),
            (self.splits, split),
            (self.true_ids, -1),
            (self.false_ids, -1),
            (self.true_leafs, 0),
            (self.false_leafs, 0),
            (self.missing_true, int(missing_true)),
        ):
            column.append(value)  # type: ignore[arg-type]
        return len(self.features) - 1

    def add(self, tree: dict[str, Any]) -> None:
        """Append one tree of the dump, without recursion: a tree may be deeper than Python's stack."""
        root = tree["tree_structure"]
        if "split_feature" not in root:
            # a tree of one leaf: both ways of a node that nobody cares about lead to it
            node = self._node(0, 0.0, True)
            self.roots.append(node)
            self.true_ids[node] = self.false_ids[node] = self._leaf(float(root["leaf_value"]))
            self.true_leafs[node] = self.false_leafs[node] = 1
            return
        first = self._split(root)
        self.roots.append(first)
        todo = [(first, root)]
        while todo:
            node, spec = todo.pop()
            for child, ids, leafs in (
                (spec["left_child"], self.true_ids, self.true_leafs),
                (spec["right_child"], self.false_ids, self.false_leafs),
            ):
                if "split_feature" in child:
                    ids[node] = self._split(child)
                    todo.append((ids[node], child))
                else:
                    ids[node], leafs[node] = self._leaf(float(child["leaf_value"])), 1

    def _split(self, spec: dict[str, Any]) -> int:
        if spec["decision_type"] != "<=":
            raise ExportError(
                f"the model splits input {spec['split_feature']} by category ({spec['decision_type']}); "
                "give categories as numbers or indicator features"
            )
        if spec["missing_type"] not in ("None", "NaN"):
            raise ExportError(f"the model treats zero as missing (input {spec['split_feature']}); train with zero_as_missing=false")
        threshold = _as_decided(float(spec["threshold"]))
        missing_left = bool(spec["default_left"]) if spec["missing_type"] == "NaN" else threshold >= 0.0
        return self._node(int(spec["split_feature"]), threshold, missing_left)


def _as_decided(threshold: float) -> float:
    """The threshold that `value <= threshold` needs to decide as LightGBM does, from the one its dump prints.

    The dump prints an infinite threshold, which parts null from all else, as 1e300 (`Common::AvoidInf`). And prediction takes
    |value| <= 1e-35f for 0 before it decides (src/c_api.cpp), so all of these fall on the side of 0.
    """
    if threshold >= 1e300:
        return np.inf
    if -_ZERO <= threshold < 0:
        return float(np.nextafter(-_ZERO, -np.inf))
    return _ZERO if 0 <= threshold < _ZERO else threshold


def _check(booster: lightgbm.Booster, dump: dict[str, Any]) -> bool:
    """Whether scores go through the logistic function. Raises ExportError for what cannot be represented."""
    objective = str(dump.get("objective", ""))
    kind, *options = objective.split()
    if dump.get("num_tree_per_iteration", 1) != 1 or dump.get("num_class", 1) != 1:
        raise ExportError("a multiclass model cannot be exported: one score per row is served")
    if dump.get("average_output"):
        raise ExportError("a random forest (boosting=rf, averaged output) cannot be exported; use gbdt or dart")
    if "is_linear=1" in booster.model_to_string():  # the dump does not say
        raise ExportError("linear trees cannot be exported; train with linear_tree=false")
    if kind == "binary":
        sigmoid = next((float(o.split(":")[1]) for o in options if o.startswith("sigmoid:")), 1.0)
        if sigmoid != 1.0:
            raise ExportError(f"sigmoid={sigmoid} cannot be exported; train with sigmoid=1")
        return True
    if kind in ("regression", "regression_l1", "huber", "fair", "quantile", "mape") and "sqrt" not in options:
        return False
    raise ExportError(f"objective {objective!r} cannot be exported: only binary and plain regression objectives can")


def export(booster: lightgbm.Booster) -> bytes:
    """The model as serialized ONNX: input `inputs` double `[n, features]`, output `score` double `[n]`. Deterministic.

    Raises:
        ExportError: the model uses something the ensemble cannot represent.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    best = booster.best_iteration if booster.best_iteration > 0 else None
    dump = booster.dump_model(num_iteration=best)
    logistic = _check(booster, dump)
    trees = _Ensemble()
    for tree in dump["tree_info"]:
        trees.add(tree)
    raw, flat = "raw", "flat"
    nodes = [
        helper.make_node(
            "TreeEnsemble",
            [INPUT],
            [raw],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function=_SUM,
            post_transform=0,
            tree_roots=trees.roots,
            nodes_featureids=trees.features,
            nodes_splits=numpy_helper.from_array(np.array(trees.splits, dtype=np.float64)),
            nodes_modes=numpy_helper.from_array(np.full(len(trees.features), _LEQ, dtype=np.uint8)),
            nodes_truenodeids=trees.true_ids,
            nodes_falsenodeids=trees.false_ids,
            nodes_trueleafs=trees.true_leafs,
            nodes_falseleafs=trees.false_leafs,
            nodes_missing_value_tracks_true=trees.missing_true,
            leaf_targetids=[0] * len(trees.weights),
            leaf_weights=numpy_helper.from_array(np.array(trees.weights, dtype=np.float64)),
        ),
        helper.make_node("Reshape", [raw, "shape"], [flat if logistic else OUTPUT]),
    ]
    if logistic:
        nodes.append(helper.make_node("Sigmoid", [flat], [OUTPUT]))
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, [None, booster.num_feature()])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, [None])],
        initializer=[numpy_helper.from_array(np.array([-1], dtype=np.int64), "shape")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)], producer_name="headrace", ir_version=10
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def parity(booster: lightgbm.Booster, model: bytes, matrix: NDArray[np.float64], rows_at_once: int = 50_000) -> Parity:
    """Largest difference between ONNX Runtime and LightGBM over every row of `matrix`, float64 `[n, features]`.

    A score that is no finite number counts as the largest float: the contract's JSON has no infinity.
    """
    loaded = session(model)
    worst = 0.0
    for start in range(0, len(matrix), rows_at_once):
        part = np.ascontiguousarray(matrix[start : start + rows_at_once])
        (ours,) = loaded.run([OUTPUT], {INPUT: part})
        theirs = np.asarray(booster.predict(part, num_threads=2))
        difference = np.abs(np.asarray(ours) - theirs)
        worst = max(worst, float(difference.max()) if np.isfinite(difference).all() else float(np.finfo(np.float64).max))
    return Parity(len(matrix), worst)
