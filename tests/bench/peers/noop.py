"""A no-op, and Feast's SDK with ONNX Runtime, through the very same Ray Serve ingress as ours, or through plain Ray Serve or uvicorn.

`noop.py haproxy|ray|uvicorn FEAST_REPO MODEL PORT`. Prints RESULT when it answers, ends when its input does.
"""

import os
import sys
from typing import Any


def build() -> Any:
    import numpy as np
    import onnxruntime as ort
    from fastapi import FastAPI, Request, Response
    from feast import FeatureStore

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    store = FeatureStore(repo_path=os.environ["BENCH_REPO"])
    service = store.get_feature_service("scalars")
    order = [f"{p.name}__{f.name}" for p in service.feature_view_projections for f in p.features]
    app = FastAPI()

    @app.post("/noop")
    async def noop(request: Request) -> Response:
        await request.body()
        return Response(b'{"score":0.5}', media_type="application/json")

    @app.post("/sdk")
    async def sdk(request: Request) -> dict[str, Any]:
        rows = (await request.json())["instances"]
        found = store.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()
        matrix = np.array([found[name] for name in order], dtype=np.float64).T
        return {"scores": session.run(["score"], {"inputs": matrix})[0].ravel().tolist()}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    return app


def main() -> None:
    how, os.environ["BENCH_REPO"], os.environ["BENCH_MODEL"], port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    if how == "uvicorn":
        import uvicorn

        uvicorn.run(build(), host="127.0.0.1", port=port, log_level="error", access_log=False)
        return
    if how == "haproxy":
        from infra.settings import load_settings
        from serving.deployment import app
        from tests.bench.peers import noop

        app.build = noop.build  # type: ignore[assignment]
        app.run(load_settings())
        return
    import time

    import ray
    from ray import serve

    from tests.bench.peers import noop

    # a short path: Ray's sockets lie below it
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False, logging_level="ERROR"
    )
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    deployment = serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})(serve.ingress(noop.build)())
    serve.run(deployment.bind(), logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"))
    try:
        while True:
            time.sleep(1)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
