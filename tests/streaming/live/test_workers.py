"""Spark's Python workers after their daemon was killed: forgotten, and there again for the next query."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from streaming.live.workers import forget_dead, warm

pytestmark = pytest.mark.integration


def _daemons() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "pyspark.daemon" in process.cmdline():
                found.append(process)
    return found


def test_a_query_after_the_daemon_was_killed_does_not_meet_its_dead_workers(spark: SparkSession) -> None:
    def as_they_are(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return batches

    def count() -> int:
        return len(spark.range(0, 4, 1, 2).mapInArrow(as_they_are, "id long").collect())

    assert count() == 4
    assert forget_dead(spark) == 0, "they live"
    killed = _daemons()
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, 10)
    assert forget_dead(spark) > 0
    assert forget_dead(spark) == 0, "once"
    assert count() == 4
    warm(spark)
    assert count() == 4
