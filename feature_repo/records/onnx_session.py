"""A model file in ONNX Runtime, set as serving has it: one thread, and one input and output by name.

Whoever scores a version - the server, the certificate, the loop - runs it through this one session.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import infra  # noqa: F401  # before ONNX Runtime: it says that nothing is reported

INPUT, OUTPUT = "inputs", "score"
"""Names in a version's `model.onnx`: float64 `[rows, inputs]` in, `[rows]` or `[rows, 1]` out."""


def session(model: Path | bytes) -> Any:
    """An `onnxruntime.InferenceSession` of a file or of its bytes.

    Raises:
        Exception: it is no model. ONNX Runtime raises a class of its own per failure, all below Exception.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # a thread that spins takes the core from the request beside it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"])
