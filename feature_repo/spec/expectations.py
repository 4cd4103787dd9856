"""What a use case declares of its sources: `expectations.py` in its folder, with Pandera schemas by table.

Example:

    import pandera.pandas as pa

    EXPECTATIONS = {"weather": pa.DataFrameSchema({"temp": pa.Column(float, pa.Check.in_range(-60, 140), nullable=True)})}

Whoever breaks a declaration is at fault, and that is proof. Declare what must hold, not what mostly does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from feature_repo.spec.yaml_file import UseCaseError
from infra.cause import cause_of

FILE = "expectations.py"


def expectations_of(folder: Path) -> dict[str, Any]:
    """Schemas by table; none where the folder declares none.

    Raises:
        UseCaseError: the file cannot be run, or has no `EXPECTATIONS` of Pandera schemas.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(f"expectations_of_{folder.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's code raises
        raise UseCaseError(f"{path} cannot be run: {cause_of(error)}") from error
    found = getattr(module, "EXPECTATIONS", None)
    if not isinstance(found, dict) or not all(isinstance(k, str) and callable(getattr(v, "validate", None)) for k, v in found.items()):
        raise UseCaseError(f"{path} must have EXPECTATIONS, a dict of Pandera schemas by table")
    return found
