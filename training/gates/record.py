"""What the gates found of a version, and where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from infra import files
from infra.settings import Settings


class Checked(msgspec.Struct, frozen=True):
    """One gate: what was looked at, whether it holds, and the numbers in words."""

    name: str
    passed: bool
    text: str


class Gates(msgspec.Struct, frozen=True):
    """What the gates found of a challenger. `forced` ones were passed over by a person."""

    version: int
    champion: int | None
    checks: list[Checked]
    forced: bool = False
    spread: float | None = None
    """Of the challenger's gain in Brier score between held-out days (`sequential.spread`): what a stage of few days cannot see itself."""

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(c.passed for c in self.checks)  # nothing looked at is nothing passed


def gates_path(settings: Settings, model: str, version: int) -> Path:
    return settings.state / "autopilot" / model / f"gates-{version}.json"


def read_gates(settings: Settings, model: str, version: int) -> Gates | None:
    """What the gates found of a version; None where they were not asked yet, or cannot be read: they are asked again then."""
    path = gates_path(settings, model, version)
    try:
        return files.read_json(path, Gates)
    except FileNotFoundError:
        return None
    except files.FileError as error:
        files.put_aside(path, error)
        return None


def write_gates(settings: Settings, model: str, gates: Gates) -> None:
    path = gates_path(settings, model, gates.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, msgspec.json.format(msgspec.json.encode(gates), indent=1))


def summary(gates: Gates) -> dict[str, Any]:
    return {c.name: f"{'passed' if c.passed else 'failed'}: {c.text}" for c in gates.checks}
