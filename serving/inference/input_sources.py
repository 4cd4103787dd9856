"""Where each column of a model's matrix comes from: its contract's inputs, matched with what the feature service gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract
from serving.features.on_demand import OnDemand
from serving.features.reader import OnlineReader
from streaming.schema.feature_view import NUMERIC


class WiringError(ValueError):
    """A contract asks for something its feature service or model files do not give; the message names it."""


@dataclass(frozen=True)
class Sources:
    """Where each column of the matrix comes from."""

    stored_places: NDArray[np.intp]
    stored_columns: NDArray[np.intp]
    request: list[tuple[int, str]]
    on_demand: list[tuple[int, str]]
    only_stored: bool  # every column is a stored feature


def wire(contract: Contract, reader: OnlineReader, on_demand: OnDemand) -> Sources:
    """
    Raises:
        WiringError: an input has no source.
    """
    column = {feature: i for i, feature in enumerate(reader.features)}
    fields = {f.name: f for f in contract.request}
    stored: list[tuple[int, int]] = []
    request: list[tuple[int, str]] = []
    computed: list[tuple[int, str]] = []
    for place, wanted in enumerate(contract.inputs):
        if wanted.kind == "feature":
            if wanted.source not in column:
                raise WiringError(
                    f"input {wanted.name!r} comes from {wanted.source!r}, which feature service {contract.feature_service!r} lacks"
                )
            stored.append((place, column[wanted.source]))
        elif wanted.kind == "on_demand":
            if wanted.source not in on_demand.features:
                raise WiringError(f"input {wanted.name!r} comes from {wanted.source!r}, which no on-demand view of the service gives")
            if on_demand.dtypes[wanted.source] not in NUMERIC:
                raise WiringError(f"input {wanted.name!r} comes from {wanted.source!r}, which is no number")
            computed.append((place, wanted.source))
        else:
            if wanted.source not in fields or fields[wanted.source].dtype == "string":
                raise WiringError(f"input {wanted.name!r} must come from a request field that is a number; {wanted.source!r} is not")
            request.append((place, wanted.source))
    for key in reader.join_keys:
        if key not in fields:
            raise WiringError(f"the feature service reads by {key!r}, which is not among the contract's request fields")
    for field in on_demand.fields:
        if field not in fields:
            raise WiringError(f"an on-demand view reads {field!r}, which is not among the contract's request fields")
    for source in on_demand.sources:
        if source not in column:
            raise WiringError(f"an on-demand view reads {source!r}, which the feature service does not carry: add it there")
    return Sources(
        stored_places=np.array([p for p, _ in stored], dtype=np.intp),
        stored_columns=np.array([c for _, c in stored], dtype=np.intp),
        request=request,
        on_demand=computed,
        only_stored=len(stored) == len(contract.inputs),
    )
