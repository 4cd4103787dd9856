"""The scorer: `model.onnx` in ONNX Runtime, set for one small row block at a time on a shared machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.onnx_session import INPUT, OUTPUT, session


class ScorerError(ValueError):
    """The model file cannot be scored: ONNX Runtime refuses it, or its inputs and outputs are not the contract's."""


class Scorer:
    """An ONNX Runtime session with one thread and no spinning (a tree ensemble takes microseconds per row).

    Args:
        path: `model.onnx`; input `inputs` float64 [rows, features], output `score` [rows] or [rows, 1].
        features: how many columns the contract has.

    Raises:
        ScorerError: the file is no model, or has another input, output, type or width.
    """

    def __init__(self, path: Path, features: int) -> None:
        try:
            self._session: Any = session(path)
        except Exception as error:  # ONNX Runtime raises a class of its own per failure, all below Exception
            raise ScorerError(f"{path} cannot be loaded by ONNX Runtime: {error}") from None
        inputs = {i.name: i for i in self._session.get_inputs()}
        if list(inputs) != [INPUT] or OUTPUT not in {o.name for o in self._session.get_outputs()}:
            raise ScorerError(f"{path} must take {INPUT!r} and give {OUTPUT!r}; it takes {', '.join(inputs)}")
        if inputs[INPUT].type != "tensor(double)":
            raise ScorerError(f"{path}: {INPUT!r} must be tensor(double), not {inputs[INPUT].type}")
        width = inputs[INPUT].shape[-1] if inputs[INPUT].shape else None
        if isinstance(width, int) and width != features:
            raise ScorerError(f"{path} takes {width} columns, its contract names {features}")
        self.score(np.full((1, features), np.nan))

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score rows.

        Args:
            matrix: float64 [rows, features] in the contract's order; NaN is null.

        Returns:
            float64 [rows].
        """
        # below its Python wrapper, which checks per call what the constructor has checked once
        (scores,) = self._session._sess.run([OUTPUT], {INPUT: np.ascontiguousarray(matrix, dtype=np.float64)}, None)
        return np.asarray(scores, dtype=np.float64).reshape(len(matrix))
