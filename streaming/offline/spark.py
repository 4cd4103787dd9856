"""The Spark session: one per process, set up so that every timestamp is UTC microseconds and nothing leaves the state folder."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from infra.settings import ROOT
from streaming.offline import class_archive

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from infra.settings import Settings

_SLOTS, _SPARE_SLOTS = 4, 3
_LOG4J = """\
status = off
rootLogger.level = error
# the gateway's level is the one Spark announces on standard error when it differs from the root's
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %p %c{1}: %m%n
"""


def session(settings: Settings, name: str = "headrace", quick: bool = False) -> SparkSession:
    """The running Spark session, or a new one after the settings. Callers share it; whoever ends the process calls `stop()`.

    Args:
        settings: master, driver memory, shuffle partitions; scratch space goes to `<state>/spark`.
        name: application name, as Spark's own tools show it.
        quick: for a stream, which is waited for when it starts again: Java compiles in a hurry (half the CPU until the first query, less
            speed in long computations), and Python workers are forked with everything loaded (`streaming.live.worker`).

    Returns:
        A session in time zone UTC that writes Parquet timestamps in microseconds and exchanges pandas data through Arrow.

    Raises:
        RuntimeError: no Java ≥ 17 was found (`headrace doctor` says what to do), or the JVM did not start.
    """
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    scratch = settings.state / "spark"
    for folder in ("local", "tmp"):
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    _environment(settings)
    # a stream's turns never leave their slots for long, and other queries need some too, however few cores there are
    slots = max(_SLOTS, settings.tasks_of_stream + _SPARE_SLOTS)
    few = quick and settings.spark_master == "local[*]" and (os.cpu_count() or 1) < slots
    master = f"local[{slots}]" if few else settings.spark_master
    builder = SparkSession.builder.master(master).appName(name)
    for key, value in _options(settings, scratch, quick).items():
        builder = builder.config(key, value)
    # a Ctrl-C in the middle of a call, or a JVM that is gone, is told by whoever called; Py4J tells it besides, with a traceback
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_not_of_py4j)
    interrupt = signal.getsignal(signal.SIGINT)
    with _standard_error_to(settings.log_dir / "spark.log"):
        made = builder.getOrCreate()
    if threading.current_thread() is threading.main_thread():
        # Spark's own handler cancels the jobs first, and a Ctrl-C then looks like a failed job
        signal.signal(signal.SIGINT, interrupt)
    return made


def _not_of_py4j(record: logging.LogRecord) -> bool:
    """Whether a record is kept: Py4J logs its errors as the root's own."""
    return f"{os.sep}py4j{os.sep}" not in record.pathname


@contextlib.contextmanager
def _standard_error_to(path: Path) -> Iterator[None]:
    """While the JVM starts: it, and the Python workers below it, keep what is then the standard error for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(log, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(log)


def _environment(settings: Settings) -> None:
    """What the JVM's launcher reads from the environment: Java, and the Python that the workers run."""
    from infra.java import java_home

    os.environ["JAVA_HOME"] = str(java_home(settings))
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if settings.spark_master.startswith("local"):
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"


def _options(settings: Settings, scratch: Path, quick: bool) -> dict[str, str]:
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J)
    java = f'-Dlog4j2.configurationFile={log4j.as_uri()} "-Djava.io.tmpdir={scratch / "tmp"}" -Duser.timezone=UTC -XX:+UseParallelGC'
    if quick:
        java += " -XX:TieredStopAtLevel=1"
    java += f" {class_archive.options(Path(os.environ['JAVA_HOME']))}"
    path = os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
    options = {
        "spark.driver.memory": settings.spark_memory,
        "spark.driver.extraJavaOptions": java,
        "spark.executor.memory": settings.spark_executor_memory,
        "spark.executorEnv.PYTHONPATH": path,
        "spark.executorEnv.TZ": "UTC",
        "spark.local.dir": str(scratch / "local"),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.session.timeZone": "UTC",
        # a table is a folder per day, small files all: listing them is no job for a cluster, and many fit into one task
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",
        "spark.sql.files.openCostInBytes": "65536",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if quick:
        options |= {
            "spark.python.daemon.module": "streaming.live.worker",
            "spark.executorEnv.JE_ARROW_MALLOC_CONF": "background_thread:false",
            "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        }
    if settings.spark_packages:
        options["spark.jars.packages"] = settings.spark_packages
    if settings.spark_master.startswith("local"):
        options |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    return options
