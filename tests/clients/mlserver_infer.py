"""MLServer's own types and its `mlserver infer`: `mlserver_infer.py HOST:PORT MODEL REQUEST(JSON) FOLDER`; prints what it saw as JSON."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse

address, model, request, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
base = f"http://{address}/v2/models/{model}"
metadata = MetadataModelResponse.model_validate_json(urllib.request.urlopen(base).read())
body = InferenceRequest.model_validate_json(request).model_dump_json(exclude_none=True).encode()
call = urllib.request.Request(f"{base}/infer", body, {"Content-Type": "application/json"})
answer = InferenceResponse.model_validate_json(urllib.request.urlopen(call).read())
outputs = {o.name: o for o in answer.outputs}
(folder / "in.jsonl").write_text(request + "\n" + request + "\n")
command = [str(Path(sys.executable).with_name("mlserver")), "infer", "-u", address, "-m", model, "-i", str(folder / "in.jsonl")]
done = subprocess.run([*command, "-o", str(folder / "out.jsonl"), "-w", "1"], capture_output=True, text=True, timeout=180)
lines = (folder / "out.jsonl").read_text().splitlines() if (folder / "out.jsonl").exists() else [done.stderr]
print(
    json.dumps(
        {
            "inputs": [i.name for i in metadata.inputs],
            "score": NumpyCodec.decode_output(outputs["score"]).ravel().tolist(),
            "ids": StringCodec.decode_output(outputs["prediction_id"]),
            "batch": lines,
        }
    )
)
