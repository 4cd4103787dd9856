"""The making of the class archive: Spark is started once for practice, by a process of little priority, while the stream runs.

So the stream starts quickly again when it has been killed, and every command that needs Spark starts quicker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import ROOT
from streaming.offline.class_archive import MAKING, archive

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.settings import Settings

_NEEDS = 2**30
"""Bytes that have to be free where it is kept: it takes a fifth of them."""
_STALE_S = 3600.0


class Training:
    """An archive that is made beside what else goes on, where there is none yet. A machine that cannot hold it does without."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        from infra.java import java_home

        with contextlib.suppress(OSError):
            home = java_home(self._settings)
            target = archive(home)
            target.parent.mkdir(exist_ok=True)
            for left in target.parent.glob("training-*"):  # of one that was killed
                if time.time() - left.stat().st_mtime > _STALE_S:
                    shutil.rmtree(left, ignore_errors=True)
            if target.is_file() or shutil.disk_usage(target.parent).free < _NEEDS:
                return
            self._folder = Path(tempfile.mkdtemp(prefix="training-", dir=target.parent))
            environment = os.environ | {"HEADRACE_STATE": str(self._folder), "JAVA_HOME": str(home), "PYTHONPATH": str(ROOT)}
            self._settings.log_dir.mkdir(parents=True, exist_ok=True)
            with open(self._settings.log_dir / "class-archive.log", "wb") as log:
                argv = ["nice", "-n", "15", sys.executable, "-m", "streaming.offline.class_training", str(target)]
                self._child = subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """End it, done or not, and take away what it has left."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def make(target: Path) -> None:
    """Do once with Spark what the stream and the batch commands do, and keep the classes that this took."""
    from infra.settings import load_settings

    own = load_settings()
    made = own.state / "classes.jsa"
    os.environ[MAKING] = str(made)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _practise(own)
        made.replace(target)
    finally:
        _end_java()
        shutil.rmtree(own.state, ignore_errors=True)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_java() -> None:
    """At once: a JVM that is only left alone would write its archive first."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


def _practise(own: Settings) -> None:
    from pyspark import SparkContext

    from streaming.offline.spark import session

    spark = session(own, "headrace-classes", quick=True)
    there = str(own.state / "rows")
    rows = spark.range(0, 100, 1, 2).selectExpr("id", "id % 7 AS k", "timestamp_micros(id) AS at", "cast(id AS string) AS s")
    rows.write.partitionBy("k").parquet(there)
    read = spark.read.parquet(there)
    read.join(read.groupBy("k").agg({"at": "max", "s": "count"}), "k").orderBy("id").collect()
    read.mapInArrow(_as_they_are, read.schema).toArrow()
    turns = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", "1").option("numPartitions", "1").load()
    written = turns.mapInArrow(_as_they_are, turns.schema).writeStream.format("noop").option("checkpointLocation", str(own.state / "turns"))
    query = written.start()
    while query.isActive and (query.lastProgress is None or query.lastProgress["batchId"] < 2):
        query.awaitTermination(1)
    query.stop()
    spark.stop()
    gateway: Any = SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(300)  # it writes the archive as it ends


def _as_they_are(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return batches


if __name__ == "__main__":
    make(Path(sys.argv[1]))
