"""Triton's gRPC client against a server: `triton_grpc.py HOST:PORT MODEL INSTANCES(JSON)`; prints what it saw as JSON."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, model, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = triton.InferenceServerClient(address)
about = client.get_model_metadata(model)
KINDS = {"BYTES": object, "INT64": np.int64, "INT32": np.int32, "FP64": np.float64, "BOOL": bool}
inputs = []
for tensor in about.inputs:
    values = np.array([row[tensor.name] for row in rows], dtype=KINDS[tensor.datatype])
    inputs.append(triton.InferInput(tensor.name, list(values.shape), tensor.datatype))
    inputs[-1].set_data_from_numpy(values)
found = client.infer(model, inputs, request_id="mine")
seen = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready(model),
    "nothing_ready": client.is_model_ready("nothing"),
    "server": client.get_server_metadata().name,
    "inputs": {t.name: t.datatype for t in about.inputs},
    "score": found.as_numpy("score").tolist(),
    "ids": [i.decode() for i in found.as_numpy("prediction_id").tolist()],
    "id": found.get_response().id,
}
for name, asked in (("refusal", inputs[:1]), ("unknown", inputs)):
    try:
        client.infer(model if name == "refusal" else "nothing", asked)
    except InferenceServerException as error:
        seen[name] = [str(error.status()), error.message()]
print(json.dumps(seen))
