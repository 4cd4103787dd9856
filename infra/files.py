"""Files of ours: replaced in one step, and read so that a broken one is named and costs nothing but itself."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Read = TypeVar("Read")
log = logging.getLogger(__name__)


class FileError(ValueError):
    """A file cannot be read; the message says which and why."""


def read(path: Path) -> bytes:
    """A file's bytes. A pipe or device that lies in its place is not waited for.

    Raises:
        OSError: it is no file, or cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read()


def parse(raw: bytes, kind: type[Read]) -> Read:
    """JSON of a type.

    Raises:
        ValueError: the bytes are none, whatever they are: cut short, no UTF-8, nested without end, of another type.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path, kind: type[Read]) -> Read:
    """A JSON file of a type.

    Raises:
        FileNotFoundError: there is none.
        FileError: it cannot be read: broken, a folder, not ours to read.
    """
    try:
        return parse(read(path), kind)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FileError(f"{path} cannot be read: {error}") from None


def read_lines(path: Path, kind: type[Read]) -> list[Read]:
    """The lines of a JSON lines file. One that is broken is left out and named; one that a kill left unfinished is left out.

    Raises:
        FileError: it is a folder, or not ours to read.
    """
    try:
        lines = read(path).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(line, kind))
        except ValueError as error:
            log.warning("%s, line %d cannot be read and is left out: %s", path, number, error)
    return found


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; when the block has ended, it takes the place of `path` in one step. Where the block fails, it is gone."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Put a file in place of another in one step.

    Args:
        mode: who may read it, as far as the process's umask allows.
    """
    with replacing(path) as partial, open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode), "wb") as file:
        file.write(content)


class HeldError(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def alone(path: Path, waiting: Callable[[], None] | None = None, refusal: Exception | None = None) -> Iterator[None]:
    """Hold a lock file; it is released when the block ends, and when the process does, however that ends.

    Args:
        waiting: told once where there is somebody to wait for.
        refusal: raised where somebody holds it; None: it waits.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if waiting is None and refusal is None else 0)
    except filelock.Timeout:
        if refusal is not None:
            raise refusal from None
        assert waiting is not None
        waiting()
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


def put_aside(path: Path, why: Any, hidden: bool = False) -> Path:
    """Move what is broken out of the way, and say so: `<name>.broken` beside it, with a number where there are others.

    Args:
        hidden: with a dot before it, where a folder is read as a whole.
    """
    name = f"{'.' * hidden}{path.name}.broken"
    number, aside = 0, path.with_name(name)
    while aside.exists():
        number += 1
        aside = path.with_name(f"{name}-{number}")
    path.rename(aside)
    log.warning("%s; it lies in %s now", why, aside)
    return aside
