"""A version's matrix: what is stored, what on-demand views give and what the request brings, in the contract's order.

instances ── reader ──► stored [rows, features] ─┐ (stale → null for the model)
     └────── on-demand views ────────────────────┼─► matrix [rows, inputs] ─ null policies ─► what the model gets
     └────── request fields ─────────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract, Policy
from feature_repo.records.prediction import STATUSES
from serving.features.on_demand import OnDemand, OnDemandError
from serving.features.reader import FeatureRows, OnlineReader
from serving.inference.input_sources import wire
from serving.protocol.problem import FieldError, Invalid
from serving.protocol.request import Question

_REQUEST = ord("r")
NAMES = {status.letter: status.name for status in STATUSES}


def _as_number(value: Any) -> float:
    if value is None:
        return np.nan
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)


class Assembler:
    """
    Args:
        contract, reader, on_demand: of the version.

    Attributes:
        sources: where each input comes from.

    Raises:
        WiringError: the contract's inputs cannot all be served from these.
    """

    def __init__(self, contract: Contract, reader: OnlineReader, on_demand: OnDemand) -> None:
        self.sources = wire(contract, reader, on_demand)
        self.on_demand = on_demand
        self._policy = Policy(contract.inputs)
        self._names = contract.names

    def __call__(
        self, question: Question, rows: FeatureRows, computed: dict[str, list[Any]] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.float64]]:
        """The matrix as read (stale values included), each cell's status (a letter of f, s, n, m, r), and what the model gets.

        Args:
            computed: what the on-demand views give; None: they run here.

        Raises:
            Invalid: an on-demand view or a `reject` null policy refuses a row.
        """
        seen, codes = self._assemble(question, rows, computed)
        return seen, codes, self._nulls(seen, codes)

    def _assemble(
        self, question: Question, rows: FeatureRows, computed: dict[str, list[Any]] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        sources, n = self.sources, len(question.instances)
        if sources.only_stored:
            return rows.values.take(sources.stored_columns, axis=1), rows.statuses.take(sources.stored_columns, axis=1)
        matrix = np.empty((n, len(self._names)))
        codes = np.full(matrix.shape, _REQUEST, dtype=np.uint8)
        matrix[:, sources.stored_places] = rows.values[:, sources.stored_columns]
        codes[:, sources.stored_places] = rows.statuses[:, sources.stored_columns]
        for place, field in sources.request:
            column = question.moments.get(field) or [i[field] for i in question.instances]
            matrix[:, place] = [_as_number(value) for value in column]
        if self.on_demand.features:
            found = self._compute(question, rows) if computed is None else computed
            for place, feature in sources.on_demand:
                matrix[:, place] = [np.nan if value is None else value for value in found[feature]]
        return matrix, codes

    def _compute(self, question: Question, rows: FeatureRows) -> dict[str, list[Any]]:
        try:
            return self.on_demand.run(self._asked(question), rows)
        except OnDemandError as error:
            raise _refused(error) from error

    async def computed(self, question: Question, rows: FeatureRows, left_s: float) -> dict[str, list[Any]] | None:
        """What the on-demand views give, where they may not run on the event loop; None: a call computes it, if there is any."""
        if self.sources.only_stored or self.on_demand.at_once(len(question.instances)):
            return None
        try:
            return await self.on_demand.answer(self._asked(question), rows, left_s)
        except OnDemandError as error:
            raise _refused(error) from error

    def _asked(self, question: Question) -> dict[str, Sequence[Any]]:
        return {f: question.moments.get(f) or [i[f] for i in question.instances] for f in self.on_demand.fields}

    def _nulls(self, seen: NDArray[np.float64], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What the model gets (`contract.Policy`), or which rows it refuses."""
        served = self._policy(seen, codes)
        if self._policy.reject.size and (refused := self._policy.refused(served)):
            faults = []
            for row, place in refused:
                status = "null" if codes[row, place] == _REQUEST else NAMES[chr(codes[row, place])]
                faults.append(FieldError(f"is {status}, and this model refuses to score without it", row, self._names[place]))
            more = f" ({len(faults) - 1} more in `errors`)" if len(faults) > 1 else ""
            raise Invalid(f"row {faults[0].row}, input {faults[0].field!r}: {faults[0].message}{more}.", faults)
        return served


def _refused(error: OnDemandError) -> Invalid:
    return Invalid(f"row {error.row}: {error}." if error.row is not None else f"{error}.", [FieldError(str(error), error.row)])
