"""What a benchmark says: medians of rounds, ratios to peers, as JSON, a table and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


@dataclass
class Measurement:
    """
    Attributes:
        value: ours, the median of the rounds.
        peers: theirs, in the same unit.
        more: greater is better (a rate), so that a ratio above 1 always means that ours is the better one.
    """

    name: str
    unit: str
    value: float
    peers: dict[str, float] = field(default_factory=dict)
    more: bool = False
    note: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """How many times better ours is than each peer."""
        pairs = {name: (self.value, other) if self.more else (other, self.value) for name, other in self.peers.items()}
        return {name: a / b for name, (a, b) in pairs.items() if b}


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cpus": os.cpu_count(), "memory_gib": memory, "cpu": model, "python": platform.python_version(), "load": os.getloadavg()[0]}


def as_json(measurements: list[Measurement]) -> dict[str, Any]:
    rows = [
        {"name": m.name, "unit": m.unit, "value": m.value, "peers": m.peers, "ratios": m.ratios} | ({"note": m.note} if m.note else {})
        for m in measurements
    ]
    return {"machine": machine(), "measurements": rows}


def show(measurements: list[Measurement], console: Console) -> None:
    table = Table("measured", "unit", "ours", "peers", "ours is better by", "", box=None)
    for m in measurements:
        peers = "\n".join(f"{name} {value:,.3g}" for name, value in m.peers.items())
        ratios = "\n".join(f"{ratio:.2f} x" for ratio in m.ratios.values())
        table.add_row(m.name, m.unit, f"{m.value:,.4g}", peers, ratios, m.note)
    console.print(table)


def plot(measurements: list[Measurement], path: Path) -> None:
    """A bar per peer and ours, per measurement that has peers."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    some = [m for m in measurements if m.peers]
    if not some:
        return
    figure, axes = plt.subplots(len(some), 1, figsize=(8, 1.2 + 1.1 * sum(1 + len(m.peers) for m in some) / 2), squeeze=False)
    for axis, m in zip(axes[:, 0], some, strict=True):
        bars = {"ours": m.value, **m.peers}
        drawn = axis.barh(list(bars)[::-1], list(bars.values())[::-1], color=["#9aa5b1"] * len(m.peers) + ["#0b7285"])
        axis.bar_label(drawn, labels=[f"{v:,.3g}" for v in list(bars.values())[::-1]], padding=3)
        axis.set_title(f"{m.name} ({m.unit})", loc="left", fontsize=10)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def rounds(number: int, runs: Mapping[str, Callable[[], float]], told: Callable[[str], None]) -> dict[str, float]:
    """Run each once per round, one after the other, and take the median of what each returned."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(number):
        for name, run in runs.items():
            told(f"round {i + 1} of {number}: {name}")
            found[name].append(run())
    return {name: median(values) for name, values in found.items()}
