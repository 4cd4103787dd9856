"""Edits of a use case's definitions."""

from __future__ import annotations

import shutil
from pathlib import Path


def rewrite(path: Path, text: str) -> None:
    """Python takes what it compiled for the present, where size and second of the file are the same: a person is not so quick, a test is."""
    path.write_text(text)
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
