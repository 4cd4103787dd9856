"""Integers beyond 2**53 as inputs: a model's numbers are float64, so they are rounded, and it is said which."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_repo.records.contract import Input
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT
from training.data import validation
from training.data.splits import matrix

INPUTS = [
    Input(name, name.replace("__", ":"), "feature", dtype) for name, dtype in (("a__id", "int64"), ("a__n", "int64"), ("a__x", "double"))
]


def table() -> pa.Table:
    spec = UseCase(ROOT / "tests" / "bikes" / "repo").model("turned_away")
    moments = pa.array([1, 2, 3], pa.timestamp("us", "UTC"))
    spine = {spec.spine.timestamp: moments, spec.spine.label_timestamp: moments, spec.spine.label: pa.array([0, 1, 0])}
    others = {name: pa.array([1, 2, 3]) for name in (*spec.spine.id, *spec.slices) if name not in spine}
    inputs = {"a__id": pa.array([2**53 + 1, None, -(2**63)]), "a__n": pa.array([1, None, 2**53]), "a__x": pa.array([1e300, None, 0.5])}
    return pa.table(spine | others | inputs)


def test_an_integer_that_no_float_carries_is_rounded_and_named() -> None:
    spec = UseCase(ROOT / "tests" / "bikes" / "repo").model("turned_away")
    found = [f for f in validation.check_parts(spec, table(), INPUTS) if f.check == "exact"]
    assert [(f.column, f.severity, f.measured) for f in found] == [("a__id", "warning", 2.0)]
    assert "a__id: 2 of its integers lie beyond 2^53" in found[0].text
    made = matrix(table(), INPUTS)
    assert made[0].tolist() == [float(2**53), 1.0, 1e300]
    assert np.isnan(made[1]).all()
    assert validation.profile(table(), INPUTS)["a__id"].maximum == float(2**53)
