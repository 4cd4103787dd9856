"""Two made-up weeks of a bike-share scheme, the same for the same seed.

On purpose: rides share their minute (ties), are reported only when they end (late knowledge), lack a value or a key here and there;
docks fall silent for hours (a short ttl bites); requests end without an outcome (no label).
"""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.spec.use_case import UseCase

REPO = Path(__file__).parent / "repo"
START = datetime(2021, 3, 1)
STATIONS = np.array([7, 41, 108, 109, 2_000_000_011, 9_007_199_254_740_993])  # the last one does not survive a double
CLASSES = np.array(["member", "casual"])
MINUTE = 60


def generate(folder: Path, seed: int = 7, days: int = 14, start: datetime = START) -> UseCase:
    """Copy the use case to `folder`, write its raw files beside it and open it.

    Args:
        folder: is created; must be empty or absent.
        seed: of the generator.
        days: from `start` (UTC) on; the model's split needs 14.
        start: a midnight; the model's split moves with it.

    Returns:
        The use case, ready for `ingest`: about 950 rides, 780 dock reports and 290 requests a day.
    """
    shutil.copytree(REPO, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    _move_split(folder / "models", start)
    raw = folder / "raw"
    raw.mkdir()
    random = np.random.default_rng(seed)
    minutes = days * 24 * 60
    # how sought after each station is, by the hour: a slow random walk with a daily swing
    walk = np.cumsum(random.normal(0, 0.35, (len(STATIONS), days * 24)), axis=1)
    swing = np.sin(2 * np.pi * (np.arange(days * 24) % 24 - 9) / 24)
    rush = 1 / (1 + np.exp(-(0.6 * (walk - walk.mean(axis=1, keepdims=True)) + swing)))
    _rides(raw / "rides.csv", random, rush, minutes, start)
    free = _docks(raw / "docks.parquet", random, rush, minutes, start)
    _requests(raw / "requests.json", random, rush, free, minutes, start)
    return UseCase(folder)


def _move_split(models: Path, start: datetime) -> None:
    for spec in models.glob("*.yaml"):
        days = re.compile(rf"{START:%Y-%m}-\d\d")
        spec.write_text(days.sub(lambda day: f"{start + (datetime.fromisoformat(day[0]) - START):%Y-%m-%d}", spec.read_text()))


def _stamp(start: datetime, minute: int | np.integer, second: int | np.integer = 0) -> str:
    return str(np.datetime64(start) + np.timedelta64(int(minute) * MINUTE + int(second), "s")) + "Z"


def _rides(path: Path, random: np.random.Generator, rush: np.ndarray, minutes: int, start: datetime) -> None:
    lines = ["ride;station;rider_class;began;ended;kilometres"]
    for minute in range(minutes):
        for station in np.flatnonzero(random.random(len(STATIONS)) < 0.02 + 0.11 * rush[:, minute // 60]):
            for _ in range(int(random.integers(1, 3))):
                length = random.gamma(2.0, 1.5)
                kilometres = "" if random.random() < 0.03 else f"{length:.3f}"
                rider = "" if random.random() < 0.02 else random.choice(CLASSES, p=[0.7, 0.3])
                took = int(60 + length * 240)
                lines.append(f"{len(lines)};{STATIONS[station]};{rider};{_stamp(start, minute)};{_stamp(start, minute, took)};{kilometres}")
    path.write_text("\n".join(lines) + "\n")


def _docks(path: Path, random: np.random.Generator, rush: np.ndarray, minutes: int, start: datetime) -> np.ndarray:
    """Write the docks' reports, one in ten minutes or so; the number of free bikes, `[stations, minutes / 10]`."""
    tens = minutes // 10
    free = np.clip(np.round(16 * (1 - rush[:, np.arange(tens) // 6]) + random.normal(0, 1.5, (len(STATIONS), tens))), 0, 20).astype(int)
    silent = np.repeat(random.random((len(STATIONS), -(-tens // 18))) < 0.1, 18, axis=1)[:, :tens]
    station, ten = np.nonzero(~silent)
    order = np.argsort(ten, kind="stable")
    station, ten = station[order], ten[order]
    seen = np.datetime64(start, "us") + (ten * 600 * 1_000_000 + random.integers(0, 120_000_000, len(ten))).astype("timedelta64[us]")
    charge = np.round(random.uniform(0.2, 1.0, len(ten)), 3)
    table = pa.table(
        {
            "station": pa.array(STATIONS[station]),
            "seen": pa.array(seen, pa.timestamp("us", tz="UTC")),
            "free_bikes": pa.array(free[station, ten], pa.int64()),
            "charge": pa.array(np.where(random.random(len(ten)) < 0.2, np.nan, charge), from_pandas=True),
        }
    )
    pq.write_table(table, path)
    return free


def _requests(path: Path, random: np.random.Generator, rush: np.ndarray, free: np.ndarray, minutes: int, start: datetime) -> None:
    lines: list[str] = []
    for minute in np.sort(random.choice(minutes, size=minutes // 5, replace=False)):
        station = int(random.integers(len(STATIONS)))
        party = int(random.integers(1, 5))
        short = 0.55 * (party - free[station, minute // 10] / 2.5) + 3.0 * (rush[station, minute // 60] - 0.5)
        turned_away = bool(random.random() < 1 / (1 + np.exp(-short)))
        lines.append(
            json.dumps(
                {
                    "request": len(lines) + 1,
                    "asked": _stamp(start, minute, random.integers(0, 60)),
                    "station": int(STATIONS[station]),
                    "rider_class": str(random.choice(CLASSES)),
                    "party": party,
                    "turned_away": None if random.random() < 0.05 else turned_away,
                    "settled": _stamp(start, minute + int(random.integers(1, 30))),
                }
            )
        )
    path.write_text("\n".join(lines) + "\n")
