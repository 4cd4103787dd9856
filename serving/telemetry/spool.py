"""Answers that Redis has not confirmed yet, in files: a replica that is killed loses none of them, the next one sends them.

A write goes to the kernel's page cache and waits for no disk; it outlives the process, though not the machine. Each file is locked while its
replica lives; one that nobody holds was left by a replica that died. A file that somebody deletes or moves away would go on taking entries
that nobody finds: `mend` makes it anew.
"""

from __future__ import annotations

import fcntl
import logging
import os
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SEGMENT = 4 * 1024 * 1024
"""Bytes after which a new file is begun; one whose entries are all confirmed is deleted."""
log = logging.getLogger(__name__)


@dataclass
class _Segment:
    path: Path
    file: int
    size: int = 0
    waiting: int = 0

    def named(self) -> bool:
        """Whether the file is found by its path."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        except OSError:
            return False


class Spool:
    """Entries in the order in which they came, until they are confirmed in that order.

    Args:
        folder: of this machine's replicas; made where it is not there.

    Attributes:
        unwritten: entries that only the process remembers: the disk did not take them.
        trouble: why it takes none now, in one line; empty: it does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unwritten, self.trouble = 0, ""
        self._segments: deque[_Segment] = deque()

    def put(self, entry: bytes) -> None:
        """Keep an entry (which has no line break). Never fails: where the disk takes nothing, that is counted."""
        last = self._last()
        last.waiting += 1
        if last.file < 0:
            self.unwritten += 1
            return
        line = entry + b"\n"
        try:
            if os.write(last.file, line) < len(line):
                raise OSError("the disk is full")
            last.size += len(line)
            self.trouble = ""
        except OSError as error:
            self.unwritten += 1
            self._tell(error)
            with suppress(OSError):
                os.ftruncate(last.file, last.size)  # half a line would spoil the next

    def _last(self) -> _Segment:
        """Where the next entry belongs; a segment without a file where none can be made."""
        last = self._segments[-1] if self._segments else None
        if last is not None and last.file >= 0 and last.size < SEGMENT:
            return last
        try:
            made = self._begin()
        except OSError as error:
            self._tell(error)
            if last is not None:
                return last
            made = _Segment(self.folder, -1)
        self._segments.append(made)
        return made

    def _tell(self, error: OSError) -> None:
        why = error.strerror or error
        self.trouble = f"answers are not kept in {self.folder} until Redis has them ({why}): a replica that is killed loses them"

    def mend(self) -> None:
        """Make files anew that were deleted or moved away, with what they hold. Never fails: what cannot be done is `trouble`."""
        for segment in self._segments:
            if segment.file >= 0 and not segment.named():
                try:
                    self._again(segment)
                except OSError as error:
                    self._tell(error)
                    return

    def _again(self, lost: _Segment) -> None:
        kept = os.pread(lost.file, lost.size, 0).splitlines(keepends=True)
        content = b"".join(kept[-lost.waiting :] if lost.waiting else [])
        made = self._begin()
        try:
            if os.write(made.file, content) < len(content):
                raise OSError("the disk is full")
        except OSError:
            self._drop(made)
            raise
        os.close(lost.file)
        log.warning("%s was deleted or moved away: %s has its %d entries now", lost.path, made.path, lost.waiting)
        lost.path, lost.file, lost.size = made.path, made.file, len(content)
        self.trouble = ""

    def confirm(self, entries: int) -> None:
        """Forget so many of the oldest entries."""
        while self._segments:
            first = self._segments[0]
            some = min(entries, first.waiting)
            first.waiting -= some
            entries -= some
            if first.waiting:
                return
            if len(self._segments) == 1 and first.file >= 0:
                if first.size:
                    with suppress(OSError):
                        os.ftruncate(first.file, 0)
                        first.size = 0
                return
            self._drop(self._segments.popleft())

    def close(self) -> None:
        """End; what is not confirmed stays for the next replica."""
        while self._segments:
            segment = self._segments.popleft()
            if segment.waiting and segment.file >= 0:
                os.close(segment.file)
            else:
                self._drop(segment)

    def _begin(self) -> _Segment:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        hidden = path.with_suffix(".new")
        file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)  # before it has its name: who looks for orphans never sees it without its owner
        hidden.rename(path)
        return _Segment(path, file)

    def _drop(self, segment: _Segment) -> None:
        if segment.file >= 0:
            with suppress(OSError):
                segment.path.unlink(missing_ok=True)
            os.close(segment.file)

    @contextmanager
    def orphan(self) -> Iterator[list[bytes] | None]:
        """The entries of one file that a dead replica left, oldest first; None where there is none. It is deleted if the block succeeds."""
        for path in sorted(self.folder.glob("*.jsonl"), key=_age):
            try:
                file = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with open(file, "rb", closefd=False) as lines:
                    kept = [line[:-1] for line in lines if line.endswith(b"\n")]
            except OSError:  # its replica lives
                os.close(file)
                continue
            try:
                yield kept
                path.unlink(missing_ok=True)
            finally:
                os.close(file)
            return
        yield None


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
