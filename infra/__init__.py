"""Where it all runs: settings, local services, ports, processes. Every folder may import it; it imports none of them."""

import os as _os

# Nothing that is used here may report to its maker, and what is switched off is read once, at the first import. ONNX Runtime also keeps
# what it would report in a database below the home folder.
for _name, _value in {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FEAST_USAGE": "False",
}.items():
    _os.environ.setdefault(_name, _value)
