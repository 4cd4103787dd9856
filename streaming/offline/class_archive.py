"""Java's classes as Spark needs them, loaded and checked once and kept in one file: a JVM that starts with it needs half the CPU.

The file (some 190 MB) lies in the virtual environment beside the jars that it was made of. A JVM that finds it not to fit - other jars,
another Java - starts without it. `streaming.offline.class_training` makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

MAKING = "HEADRACE_CLASS_ARCHIVE"
"""Set in the environment of the process that makes one: where its JVM writes it as it ends."""
_QUIET = "-Xshare:auto -Xlog:cds=off -Xlog:cds+dynamic=off"


def archive(java_home: Path) -> Path:
    """Where the archive for this Java and these jars lies, or would."""
    import pyspark

    java = (java_home / "bin" / "java").resolve()
    what = f"{java} {java.stat().st_mtime_ns} {pyspark.__file__} {pyspark.__version__}"
    return Path(sys.prefix) / "headrace" / f"classes-{hashlib.sha256(what.encode()).hexdigest()[:16]}.jsa"


def options(java_home: Path) -> str:
    """What the JVM is told of it; empty where there is none."""
    if making := os.environ.get(MAKING):
        return f'"-XX:ArchiveClassesAtExit={making}" {_QUIET}'
    with contextlib.suppress(OSError):
        if (found := archive(java_home)).is_file():
            return f'"-XX:SharedArchiveFile={found}" {_QUIET}'
    return ""
