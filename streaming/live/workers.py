"""Python workers of Spark that were killed, and what Spark still remembers of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession


def forget_dead(spark: SparkSession) -> int:
    """Let Spark forget the workers of daemons that are dead; how many daemons these were.

    A dead daemon leaves its idle workers in Spark's list, and each of them makes one more query fail with "Stream closed".
    The list is Spark's own (4.x): where it looks otherwise, nothing is forgotten, and the queries fail as often as it takes.
    """
    jvm: Any = spark._jvm
    context: Any = spark._jsc
    try:
        kinds, dead = _field(jvm, "org.apache.spark.SparkEnv", "pythonWorkers", context.sc().env()).valuesIterator(), 0
        while kinds.hasNext():
            factory = kinds.next()
            daemon = _field(jvm, "org.apache.spark.api.python.PythonWorkerFactory", "daemon", factory)
            if daemon is not None and not daemon.isAlive():
                factory.stop()  # the next worker that is asked for gets a new daemon
                dead += 1
        return dead
    except Py4JError:
        return 0


def warm(spark: SparkSession) -> None:
    """Have a Python worker started; a job that fails is no loss."""
    with contextlib.suppress(Exception):
        spark.range(0, 1, 1, 1).mapInArrow(_as_they_are, "id long").collect()


def _as_they_are(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return batches


def _field(jvm: Any, kind: str, name: str, owner: Any) -> Any:
    """A private field of a Java object; nothing else of its class is looked at, which may name classes that are not there."""
    field = jvm.java.lang.Class.forName(kind).getDeclaredField(name)
    field.setAccessible(True)
    return field.get(owner)
