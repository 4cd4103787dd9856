"""`./headrace bench`: what to run, in a state folder of its own that is gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.cli import console
from infra.settings import Settings, load_settings
from tests.bench.report import Measurement, as_json, plot, show

MODULES = {
    "join": "features.join",
    "windows": "features.windows",
    "heavy": "features.join",
    "backfill": "features.backfill",
    "stream": "features.stream",
    "growth": "features.growth",
    "serving": "http.serving",
    "overload": "http.overload",
    "watch": "drift.watch",
    "triage": "drift.worlds.bench",
    "policies": "drift.policies",
}
"""Where each benchmark is, below `tests.bench`."""
WHAT = (*MODULES, "storm")


@contextmanager
def _own_state() -> Iterator[Settings]:
    """Settings with a state folder, a Redis and ports of the benchmark's own."""
    folder = Path(tempfile.mkdtemp(prefix="hr-bench-"))
    os.environ["HEADRACE_STATE"] = str(folder)
    os.environ.pop("HEADRACE_REDIS_URL", None)
    load_settings.cache_clear()
    own = load_settings()
    own.offline_root.mkdir(parents=True)
    own.export()
    try:
        yield own
    finally:
        from infra.supervision.services import stop_all

        spark = _running_spark()
        if spark is not None:
            spark.stop()
        stop_all(own)
        shutil.rmtree(folder, ignore_errors=True)


def _running_spark() -> Any:
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession()


def run(what: str, scale: float, rounds: int, seconds: float, report: Path | None) -> None:
    """Run one benchmark, print its table, write JSON and plot beside each other."""
    from infra.cli import own_settings

    own_settings()
    began = time.monotonic()
    with _own_state() as own, console.status("") as status:

        def told(text: str) -> None:
            status.update(f"{what}: {text} ({time.monotonic() - began:.0f} s)")

        measurements = _measure(what, own, scale, rounds, seconds, told)
    show(measurements, console)
    if report is not None:
        import msgspec

        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(measurements)), indent=1))
        plot(measurements, report.with_suffix(".svg"))
        console.print(f"[dim]report written to {report}, plot beside it[/dim]")


def storm(minutes: float, only: str, report: Path | None) -> bool:
    """Let a storm pass over the platform, print the verdict, write it as JSON. Returns whether every bar held."""
    import msgspec

    from infra.cli import own_settings
    from tests.bench.report import machine
    from tests.bench.storm.bench import run as pass_over

    own_settings()
    began = time.monotonic()

    def told(text: str) -> None:  # also where nobody sees a spinner
        console.print(f"{time.monotonic() - began:6.0f} s  {text}", markup=False, soft_wrap=True)

    verdict = pass_over(minutes, told, only)
    verdict.show(console)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": machine(), "minutes": minutes} | verdict.as_json()
        report.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
        console.print(f"[dim]report written to {report}[/dim]")
    for broken in verdict.broken:
        console.print(f"broken: {broken}", style="red", markup=False, soft_wrap=True)
    return verdict.held


def _measure(what: str, own: Settings, scale: float, rounds: int, seconds: float, told: Callable[[str], None]) -> list[Measurement]:
    from importlib import import_module

    module = import_module(f"tests.bench.{MODULES[what]}")
    if what == "heavy":
        return list(module.heavy(own, scale, told))
    if what == "stream":
        return list(module.run(own, scale, seconds, told))
    return list(module.run(own, scale, rounds, told))
