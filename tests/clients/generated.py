"""A client generated from the server's OpenAPI document: `generated.py URL MODEL REQUEST(JSON) FOLDER`; prints what it saw as JSON."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

url, model, request, folder = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])
tool = str(Path(sys.executable).with_name("openapi-python-client"))
command = [
    tool,
    "generate",
    "--url",
    f"{url}/openapi.json",
    "--meta",
    "none",
    "--output-path",
    str(folder / "generated_client"),
    "--overwrite",
]
done = subprocess.run(command, capture_output=True, text=True, timeout=120)
if done.returncode:
    sys.exit(done.stdout + done.stderr)
sys.path.insert(0, str(folder))
package = importlib.import_module("generated_client")
calls = sorted(p.stem for p in (folder / "generated_client" / "api" / "models").glob("*.py"))
name = next(c for c in calls if c.endswith(f"{model}_predict"))
call = importlib.import_module(f"generated_client.api.models.{name}")
body_type = call._get_kwargs.__annotations__["body"]
module = importlib.import_module("generated_client.models")
body = getattr(module, body_type if isinstance(body_type, str) else body_type.__name__).from_dict(request)
answer = call.sync(client=package.Client(base_url=url), body=body)
print(json.dumps({"calls": calls, "score": [p.score for p in answer.predictions], "warnings": done.stdout}))
