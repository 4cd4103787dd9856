"""BentoML with Feast's SDK and ONNX Runtime: `bentoml serve bento:Scores`, in an environment of its own."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime as ort
from feast import FeatureStore


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Scores:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.store = FeatureStore(repo_path=os.environ["BENCH_REPO"])
        self.service = self.store.get_feature_service("scalars")
        self.order = [f"{p.name}__{f.name}" for p in self.service.feature_view_projections for f in p.features]

    @bentoml.api
    def sdk(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        found = self.store.get_online_features(features=self.service, entity_rows=instances, full_feature_names=True).to_dict()
        matrix = np.array([found[name] for name in self.order], dtype=np.float64).T
        return {"scores": self.session.run(["score"], {"inputs": matrix})[0].ravel().tolist()}
