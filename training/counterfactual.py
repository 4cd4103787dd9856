"""What another version would have said: a model is a function of its inputs, and what went in was logged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import contract
from feature_repo.contract import Contract

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]


class NotComparable(ValueError):
    """The rows lack inputs that the version reads; names them."""


@dataclass(frozen=True)
class Scored:
    """One version, to be run over tables: training sets and archived predictions alike."""

    contract: Contract
    folder: Path

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(self.folder / contract.MODEL), options, providers=["CPUExecutionProvider"])

    def matrix(self, table: pa.Table) -> Floats:
        """The version's inputs `[n, inputs]`, nulls by its own null policies; what was served stale reached the model as null.

        Raises:
            NotComparable: a column is not there.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        absent = sorted(set(self.contract.names) - set(table.column_names))
        if absent:
            some = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
            raise NotComparable(f"version {self.contract.version} reads {some}, which these rows do not have")
        out = np.empty((table.num_rows, len(self.contract.inputs)))
        stale = self._stale(table)
        for n, one in enumerate(self.contract.inputs):
            out[:, n] = pc.fill_null(table[one.name].cast(pa.float64(), safe=False), np.nan).to_numpy()
            if one.name in stale:
                out[stale[one.name], n] = np.nan
            if one.null.action == "default":
                out[np.isnan(out[:, n]), n] = one.null.value
        return out

    def _stale(self, table: pa.Table) -> dict[str, NDArray[np.bool_]]:
        """Rows of each input that was served stale, where the table is of archived predictions of versions with the same inputs."""
        if "statuses" not in table.column_names:
            return {}
        found: dict[str, NDArray[np.bool_]] = {}
        letters = table["statuses"].to_pylist()
        versions = np.array(table["model_version"].to_pylist())
        for version in set(versions.tolist()):
            try:
                names = contract.load(self.folder.parent / str(version)).names
            except contract.ContractError:
                continue
            rows = np.flatnonzero((versions == version) & np.array(["s" in text for text in letters], dtype=bool))
            for i in rows.tolist():
                for name, letter in zip(names, letters[i], strict=False):
                    if letter == "s":
                        found.setdefault(name, np.zeros(len(letters), bool))[i] = True
        return found

    def score(self, table: pa.Table) -> Floats:
        """Probabilities `[n]`.

        Raises:
            NotComparable: a column is not there.
        """
        rows = self.matrix(table)
        if not len(rows):
            return np.zeros(0)
        name = self._session.get_inputs()[0].name
        parts = [self._session.run(None, {name: rows[i : i + 20_000]})[0] for i in range(0, len(rows), 20_000)]
        return np.concatenate([np.asarray(p, dtype=np.float64).reshape(len(p), -1)[:, -1] for p in parts])


def scored(root: Path, model: str, version: int) -> Scored:
    """
    Raises:
        ContractError: the folder does not verify.
    """
    folder = root / model / str(version)
    return Scored(contract.load(folder), folder)
