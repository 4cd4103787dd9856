"""What a replica tells of its models: which answer, which were refused and why, and how to ask them."""

from __future__ import annotations

from typing import Any

from serving.models.repository import Entry

_SHOWN = (
    "model", "version", "project", "feature_service", "definition_hash", "inputs", "request", "label", "label_delay", "deadline_ms",
    "split", "training_set", "metrics", "slices", "gates", "parity", "run_id", "created", "files",
)  # fmt: skip


def summary(entry: Entry, versions: list[int]) -> dict[str, Any]:
    """One model in a line.

    Args:
        versions: the registered ones.
    """
    live = entry.predictor.contract.version if entry.predictor else None
    return {
        "name": entry.name,
        "status": "live" if entry.predictor and not entry.reason else "degraded" if entry.predictor else "refused",
        "live_version": live,
        "versions": versions,
        "reason": entry.reason,
        "traffic": _traffic(entry),
    }


def description(entry: Entry, versions: list[int]) -> dict[str, Any]:
    """One model: what its summary says, and where one is live, its contract and how to ask it."""
    found = summary(entry, versions)
    if entry.predictor is None:
        return found
    schema, contract = entry.predictor.schema, entry.predictor.contract
    kept = {name: getattr(contract, name) for name in _SHOWN}
    return found | {"contract": kept, "request_schema": schema.json_schema(), "example": schema.example()}


def _traffic(entry: Entry) -> dict[str, Any]:
    """Who answers what share, who follows, who stands ready, and who was refused and why."""
    release, canary = entry.release, entry.canary
    share = release.share if release and canary else 0.0
    return {
        "champion": {"version": entry.predictor.contract.version, "share": 1 - share} if entry.predictor else None,
        "canary": {"version": canary.contract.version, "share": share} if canary else None,
        "shadow": entry.shadow.challenger.contract.version if entry.shadow else None,
        "previous": release.previous if release else None,
        "refused": {str(version): reason for version, reason in entry.refused.items()},
    }
