"""Gates: the bounds a candidate must keep before it is registered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from feature_repo.records.contract import Parity
from feature_repo.spec.model import Gate, ModelSpec
from training.evaluation.fairness import DISPARITIES

PARITY = 1e-9
"""Largest difference between ONNX and LightGBM that any model may have."""


class GateError(ValueError):
    """A candidate failed a gate; names each one, what was measured and what was asked."""


def _check(gate: Gate, measured: float | None, where: str) -> dict[str, Any]:
    known = measured is not None and math.isfinite(measured)
    passed = known and (gate.min is None or measured >= gate.min) and (gate.max is None or measured <= gate.max)  # type: ignore[operator]
    return {
        "metric": gate.metric,
        "on": where,
        "slice": gate.slice,
        "min": gate.min,
        "max": gate.max,
        "measured": measured if known else None,
        "passed": passed,
    }


def check_bounds(
    spec: ModelSpec,
    metrics: Mapping[str, Mapping[str, float]],
    slices: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]],
    parity: Parity,
    fairness: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> list[dict[str, Any]]:
    """Every gate of the spec and the parity gate. A metric that was not measured fails its gate.

    Args:
        metrics: split -> metric -> value.
        slices: split -> slice column -> value -> metric -> value.
        fairness: split -> slice column -> disparity -> value.

    Returns:
        One dict per bound checked (`metric`, `on`, `slice`, `min`, `max`, `measured`, `passed`); a gate on a slice has one per value of it,
        but a disparity (`training.evaluation.fairness`) is one between all of them.
    """
    results = [_check(Gate(metric="parity", max=PARITY), parity.max_abs_difference, f"{parity.rows} rows")]
    for gate in spec.gates:
        if gate.slice is None:
            results.append(_check(gate, metrics.get(gate.on, {}).get(gate.metric), gate.on))
            continue
        if gate.metric in DISPARITIES:
            found = (fairness or {}).get(gate.on, {}).get(gate.slice, {}).get(gate.metric)
            results.append(_check(gate, found, f"{gate.on} between values of {gate.slice}"))
            continue
        values = slices.get(gate.on, {}).get(gate.slice, {})
        results += [_check(gate, m.get(gate.metric), f"{gate.on} {gate.slice}={value}") for value, m in values.items()]
        if not values:
            results.append(_check(gate, None, f"{gate.on} slice {gate.slice}, which was not measured"))
    return results


def require(spec: ModelSpec, results: list[dict[str, Any]]) -> None:
    """Raise GateError unless every gate passed."""
    failed = [r for r in results if not r["passed"]]
    if failed:
        raise GateError(f"model {spec.name!r} is not registered: " + "; ".join(map(_sentence, failed)))


def _sentence(result: dict[str, Any]) -> str:
    bounds = [f"{word} {result[key]:g}" for key, word in (("min", "at least"), ("max", "at most")) if result[key] is not None]
    measured = "not measured" if result["measured"] is None else f"{result['measured']:.6g}"
    return f"{result['metric']} on {result['on']} is {measured}, asked {' and '.join(bounds)}"
