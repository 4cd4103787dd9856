"""Folders and secrets that no other user of the machine can read, own or put in our place."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

UMASK = 0o077
"""Of every process of ours: what it writes is its user's alone."""


class NotOursError(RuntimeError):
    """A path is not safely ours: another user's, a link, no folder or file. Says which."""


def folder(path: Path) -> Path:
    """Make a folder that is this user's alone, or see that it is.

    Raises:
        NotOursError: something else lies there: a link (whoever made it may point it elsewhere), a file, another user's folder.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    said = path.lstat()
    if not stat.S_ISDIR(said.st_mode) or said.st_uid != os.geteuid():
        raise NotOursError(f"{path} is no folder of this user's own ({_what(said)}): somebody may have put it there; have it removed")
    if stat.S_IMODE(said.st_mode) & 0o077:  # of a version before, or of a looser umask
        path.chmod(0o700)
    return path


def secret(path: Path) -> str:
    """A random secret in a file that only its owner can read, made where there is none.

    Raises:
        NotOursError: the file is a link, another user's, or empty.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        with contextlib.suppress(FileExistsError):  # somebody else was first: theirs counts
            os.link(partial, path)
    finally:
        partial.unlink()
    return _read(path)


def _read(path: Path) -> str:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotOursError(f"{path} cannot be read as a secret ({error.strerror}): remove it, and a new one is made") from None
    with open(number) as file:
        said = os.fstat(number)
        if not stat.S_ISREG(said.st_mode) or said.st_uid != os.geteuid():
            raise NotOursError(f"{path} is no file of this user's own ({_what(said)}): somebody may have put it there; have it removed")
        if stat.S_IMODE(said.st_mode) & 0o077:
            os.fchmod(number, 0o600)
        text = file.read().strip()
    if not text:
        raise NotOursError(f"{path} is empty: remove it, and a new secret is made")
    return text


def _what(said: os.stat_result) -> str:
    kind = "a link" if stat.S_ISLNK(said.st_mode) else "a folder" if stat.S_ISDIR(said.st_mode) else "no folder"
    return f"{kind}, of user {said.st_uid}"
