"""What another version would have said: a model is a function of its inputs, and what went in was logged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records import contract, release
from feature_repo.records.contract import Contract
from feature_repo.records.onnx_session import session
from feature_repo.records.prediction import rows

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]


class NotComparable(ValueError):
    """The rows lack inputs that the version reads, or do not say what was stale; the message names what is missing."""


@dataclass(frozen=True)
class Rescorer:
    """One version, to be run over tables: training sets and archived predictions alike."""

    contract: Contract
    folder: Path

    @cached_property
    def _session(self) -> Any:
        return session(self.folder / contract.MODEL)

    def matrix(self, table: pa.Table) -> Floats:
        """The version's inputs `[n, inputs]` as it gets them (`Contract.model_inputs`).

        Raises:
            NotComparable: a column is not there, or a version that answered some of the rows cannot be read.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        absent = sorted(set(self.contract.names) - set(table.column_names))
        if absent:
            some = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
            raise NotComparable(f"version {self.contract.version} reads {some}, which these rows do not have")
        out = np.empty((table.num_rows, len(self.contract.inputs)))
        for n, one in enumerate(self.contract.inputs):
            out[:, n] = pc.fill_null(table[one.name].cast(pa.float64(), safe=False), np.nan).to_numpy()
        return self.contract.model_inputs(out, self._statuses(table))

    def _statuses(self, table: pa.Table) -> NDArray[np.uint8] | None:
        """What each input was served as, where the table is of archived predictions of versions with the same inputs."""
        if "statuses" not in table.column_names:
            return None
        found = np.full((table.num_rows, len(self.contract.inputs)), ord("r"), dtype=np.uint8)
        place = {name: n for n, name in enumerate(self.contract.names)}
        letters, versions = table["statuses"].to_pylist(), np.array(table["model_version"].to_pylist())
        for version in set(versions.tolist()):
            try:
                names = release.verified(self.folder.parent.parent, self.folder.parent.name, version).names
            except contract.ContractError as error:
                raise NotComparable(f"what was stale in the answers of version {version} is not known: {error}") from None
            own = np.flatnonzero(versions == version)
            codes = rows([], [letters[i] or "" for i in own], len(names))[1]
            for n, name in enumerate(names):
                if name in place:
                    found[own, place[name]] = codes[:, n]
        return found

    def score(self, table: pa.Table) -> Floats:
        """Probabilities `[n]`.

        Raises:
            NotComparable: as `matrix`.
        """
        given = self.matrix(table)
        if not len(given):
            return np.zeros(0)
        name = self._session.get_inputs()[0].name
        parts = [self._session.run(None, {name: given[i : i + 20_000]})[0] for i in range(0, len(given), 20_000)]
        return np.concatenate([np.asarray(p, dtype=np.float64).reshape(len(p), -1)[:, -1] for p in parts])


def scored(root: Path, model: str, version: int) -> Rescorer:
    """
    Raises:
        ContractError: the folder does not verify.
    """
    return Rescorer(release.verified(root, model, version), root / model / str(version))
