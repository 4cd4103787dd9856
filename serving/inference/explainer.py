"""Contributions: why one prediction came out as it did, by LightGBM's own SHAP values, off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol.answer import Contribution

BOOSTER = "lightgbm.txt"
TOP = 5


class Explainer:
    """TreeSHAP contributions of each row's strongest inputs, in the model's raw margin (log-odds for a binary objective).

    Args:
        path: the booster, as text.
        names: the contract's inputs, in order.

    Notes:
        One thread of its own, so explanations queue behind each other and never in front of a prediction. `warm` lets it load LightGBM and
        the booster once the replica answers, so that neither the start nor the first explanation waits for that.

    References:
        Lundberg et al., *Consistent individualized feature attribution for tree ensembles* (2018); LightGBM `pred_contrib`.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path = path
        self._names = names
        self._booster: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")

    def warm(self) -> None:
        """Begin to load, in the explainer's own thread."""
        self._thread.submit(self._load)

    async def explain(self, matrix: NDArray[np.float64]) -> list[list[Contribution]]:
        """The `TOP` strongest contributions per row, strongest first.

        Args:
            matrix: float64 [rows, features] as it was scored.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._contributions, matrix)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> Any:
        if self._booster is None:
            import lightgbm

            self._booster = lightgbm.Booster(model_file=str(self._path))
        return self._booster

    def _contributions(self, matrix: NDArray[np.float64]) -> list[list[Contribution]]:
        shares = np.asarray(self._load().predict(matrix, pred_contrib=True, num_threads=1))[:, :-1]  # the last column is the base value
        strongest = np.argsort(-np.abs(shares), axis=1, kind="stable")[:, :TOP]
        return [
            [
                Contribution(self._names[i], None if np.isnan(matrix[row, i]) else float(matrix[row, i]), float(shares[row, i]))
                for i in places
            ]
            for row, places in enumerate(strongest)
        ]
