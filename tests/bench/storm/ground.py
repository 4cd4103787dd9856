"""The ground a storm stands on: a state folder on a small file system of its own, so that a full disk fills nobody else's."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE_MB = 1536
_STEP = 1 << 20


@dataclass
class Ground:
    """
    Attributes:
        folder: the state folder.
        own_disk: whether it lies on a file system of its own (it takes the right to mount one); only then can the disk be filled.
    """

    folder: Path
    own_disk: bool

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> int:
        """Take every byte that is left. Returns how many."""
        with open(self._ballast, "ab") as file:
            for step in (64 * _STEP, _STEP, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
            return file.seek(0, os.SEEK_END)

    def is_full(self) -> bool:
        try:
            with open(self.folder / "probe", "wb") as file:
                file.write(bytes(_STEP))
                file.flush()
        except OSError as error:
            return error.errno == errno.ENOSPC
        finally:
            (self.folder / "probe").unlink(missing_ok=True)
        return False

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def ground(parent: Path | None = None) -> Iterator[Ground]:
    """A folder of a storm's own, gone afterwards with its file system.

    Args:
        parent: where it is made; None: the machine's folder for temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix="hr-storm-", dir=parent))  # short: sockets may lie below it
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0700", "headrace-storm", str(folder)]
    try:
        own_disk = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        own_disk = False
    try:
        yield Ground(folder, own_disk)
    finally:
        if own_disk and subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)  # a log file is still open somewhere
        shutil.rmtree(folder, ignore_errors=True)
