"""The meters' offline store: readings with a value of every type, the awkward ones among them, and flows to be windowed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPO = Path(__file__).parent / "repo"
START = datetime(2022, 5, 1, tzinfo=UTC)
NOW = START + timedelta(hours=5)
METERS = list(range(1, 9))
_LOADS = [7, 100, 2**53 + 1, -(2**62) - 1, 0, None, 2**63 - 1, 41]
_US = pa.timestamp("us", "UTC")


def generate(folder: Path, offline: Path) -> None:
    """Copy the use case to `folder` and write its tables to `offline`."""
    shutil.copytree(REPO, folder, ignore=shutil.ignore_patterns("__pycache__"))
    yaml = folder / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace("HeadraceOfflineStore\n", f"HeadraceOfflineStore\n  root: {offline}\n"))
    _readings(offline / "readings")
    _flows(offline / "flows")
    _examples(offline / "examples")


def _readings(folder: Path) -> None:
    n = len(METERS)
    columns = {
        "meter": pa.array(METERS, pa.int64()),
        "read_at": pa.array([START + timedelta(hours=1, minutes=30 * i, microseconds=17) for i in range(n)], _US),
        "load": pa.array(_LOADS, pa.int64()),
        "phase": pa.array([1, -1, 2**31 - 1, None, 0, 3, -(2**31), 7], pa.int32()),
        "on": pa.array([True, False, None, True, False, True, True, None], pa.bool_()),
        "unit": pa.array(["kWh", "", None, "m³", "7", "\U0001f4a7", "a b", "null"], pa.string()),
        "ratio": pa.array([0.1, float("nan"), None, -0.0, 1e300, 3.0, 5e-324, 2.5], pa.float64()),
        "single": pa.array([0.1, float("nan"), None, -0.0, 1e30, 3.0, 16777217.0, 2.5], pa.float32()),
        "installed": pa.array([START + timedelta(microseconds=999_999 * i) if i != 2 else None for i in range(n)], _US),
        "raw": pa.array([b"\x00\xff", b"", None, b"7", b"a", b"b", b"c", b"d"], pa.binary()),
        "taps": pa.array([[7], [], None, [2**53 + 1, -1], [1, None], [0], [2**62], [3, 3]], pa.list_(pa.int64())),
        "slopes": pa.array([[0.1], [], None, [float("nan"), 1.0], [1.0, None], [0.0], [1e300], [2.5]], pa.list_(pa.float64())),
        "tags": pa.array([["a"], [], None, ["", "é"], ["x", None], ["7"], ["null"], ["b", "b"]], pa.list_(pa.string())),
    }
    _write(folder, columns)


def _flows(folder: Path) -> None:
    random = np.random.default_rng(5)
    n = 600
    litres = np.round(random.gamma(2.0, 0.7, n), 3)
    columns = {
        "meter": pa.array(random.choice(METERS[:-1], n), pa.int64()),
        "measured_at": pa.array([START + timedelta(seconds=int(s)) for s in np.sort(random.integers(0, 4 * 3600, n))], _US),
        "litres": pa.array([None if random.random() < 0.05 else float(v) for v in litres], pa.float64()),
    }
    _write(folder, columns)


def _examples(folder: Path) -> None:
    """One question about each meter at a moment when all is known, and some at others."""
    asked = requests()
    n = len(asked)
    columns = {
        "id": pa.array(range(n), pa.int64()),
        "event_timestamp": pa.array([NOW if i < len(METERS) else NOW - timedelta(minutes=7 * i) for i in range(n)], _US),
        "meter": pa.array([r["meter"] for r in asked], pa.int64()),
        "count": pa.array([r["count"] for r in asked], pa.int64()),
        "step": pa.array([r["step"] for r in asked], pa.int64()),  # wider than declared, as SQL makes it
        "yes": pa.array([r["yes"] for r in asked], pa.bool_()),
        "word": pa.array([r["word"] for r in asked], pa.string()),
        "share": pa.array([r["share"] for r in asked], pa.float64()),
        "near": pa.array([r["near"] for r in asked], pa.float64()),  # likewise
        "when": pa.array([None if r["when"] is None else datetime.fromisoformat(r["when"]).astimezone(UTC) for r in asked], _US),
        "burst": pa.array([i % 2 for i in range(n)], pa.int64()),
        "burst_at": pa.array([NOW + timedelta(hours=1)] * n, _US),
    }
    _write(folder, columns)


def requests() -> list[dict[str, Any]]:
    """What is asked, as JSON has it: the first about each meter in turn."""
    counts = [7, 2**53 + 1, None, -1, 0, 2**63 - 2, 3, 100]
    moments = ["2022-05-01T00:00:00Z", None, "2022-05-01T04:30:00.999999Z", "1969-12-31T23:59:59Z", "2022-05-01T02:00:00+02:00"]
    found = []
    for i in range(24):
        found.append(
            {
                "meter": METERS[i % len(METERS)],
                "count": counts[(i + i // 8) % 8],
                "step": [1, None, -5, 2**31 - 1][i % 4],
                "yes": [True, False, None][i % 3],
                "word": ["7", "", None, "é"][(i // 2) % 4],
                "share": [0.1, 2.0, None, -0.0][(i // 3) % 4],
                "near": [0.1, None, 16777217.0][i % 3],
                "when": moments[i % 5],
            }
        )
    return found


def _write(folder: Path, columns: dict[str, pa.Array]) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "part-0.parquet")
