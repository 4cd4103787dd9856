"""Triton's HTTP client against a server: `triton_http.py HOST:PORT MODEL INSTANCES(JSON)`; prints what it saw as JSON."""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = triton.InferenceServerClient(address)
about = client.get_model_metadata(model)
seen = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready(model),
    "nothing_ready": client.is_model_ready("nothing"),
    "server": client.get_server_metadata(),
    "metadata": about,
}
KINDS = {"BYTES": object, "INT64": np.int64, "INT32": np.int32, "FP64": np.float64, "BOOL": bool}


def ask(binary: bool, column: bool):
    inputs = []
    for tensor in about["inputs"]:
        values = np.array([row[tensor["name"]] for row in rows], dtype=KINDS[tensor["datatype"]])
        values = values.reshape(-1, 1) if column else values
        inputs.append(triton.InferInput(tensor["name"], list(values.shape), tensor["datatype"]))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("score", "prediction_id")]
    found = client.infer(model, inputs, outputs=outputs, request_id="mine")
    ids = [i.decode() if isinstance(i, bytes) else i for i in found.as_numpy("prediction_id").tolist()]
    return {"score": found.as_numpy("score").tolist(), "ids": ids, "id": found.get_response()["id"]}


seen |= {"json": ask(False, False), "binary": ask(True, False), "column": ask(True, True)}
try:
    client.infer(model, [triton.InferInput("nothing", [1], "FP64").set_data_from_numpy(np.zeros(1))])
except InferenceServerException as error:
    seen["refusal"] = [error.status(), error.message()]
print(json.dumps(seen))
