"""`headrace bench storm`: a world of its own, a storm, the judgement; nothing is left behind, whatever ends it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from infra.java import java_home
from infra.settings import Settings, load_settings
from infra.supervision.services import stop_all
from streaming.offline.class_archive import archive
from tests.bench.storm.faults import everything
from tests.bench.storm.ground import ground
from tests.bench.storm.parts import Parts, wait_gone
from tests.bench.storm.storm import Plan, weather
from tests.bench.storm.verdict import Verdict, judge
from tests.bench.storm.world import make


def run(minutes: float, told: Callable[[str], None], only: str = "") -> Verdict:
    """Make a world, let a storm pass over it, and judge.

    Args:
        only: words that a fault's name must have one of, comma-separated; "": all faults.
    """
    with ground() as place:
        own = _settings(str(place.folder))
        parts = Parts(own)
        try:
            world = make(own, told)
            told("`headrace up`")
            world.command("up")
            _wait_for_archive(own, told)
            words = only.split(",")
            plan = Plan(minutes, faults=[f for f in everything() if any(w in f.name for w in words)])
            disk = "a file system of its own" if place.own_disk else "no file system of its own: the disk is not filled"
            told(
                f"{minutes:g} minutes of {plan.requests:g} requests/s and {plan.events:g} events/s, {plan.share:.0%} hostile; state on {disk}"
            )
            course = weather(world, place, plan, told)
            verdict = judge(course, told)
            told("`headrace down`")
            world.command("down")
            left = wait_gone(parts.everything(), 10.0)
            verdict.add("processes left after `down`", len(left), note=", ".join(p.name() for p in left))
            return verdict
        finally:
            place.free()
            _end(parts, told)


def _wait_for_archive(own: Settings, told: Callable[[str], None]) -> None:
    """The first stream of an installation has its class archive made: that is not what a storm is about."""
    target, until = archive(java_home(own)), time.monotonic() + 180.0
    if not target.is_file():
        told("Java's class archive, once")
    while not target.is_file() and time.monotonic() < until:
        time.sleep(0.5)


def _settings(state: str) -> Settings:
    os.environ["HEADRACE_STATE"] = state
    for name in ("HEADRACE_REDIS_URL", "HEADRACE_REPO", "HEADRACE_REGISTRY", "HEADRACE_TRACKING"):
        os.environ.pop(name, None)
    load_settings.cache_clear()
    own = load_settings()
    own.offline_root.mkdir(parents=True)
    own.export()
    return own


def _end(parts: Parts, told: Callable[[str], None]) -> None:
    """Whatever is left of what this run started, by pid."""
    from pyspark.sql import SparkSession

    spark = SparkSession.getActiveSession()
    if spark is not None:
        spark.stop()
    with suppress(Exception):
        stop_all(load_settings())
    left = parts.everything()
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    if wait_gone(left, 10.0):
        told("some processes do not end")
