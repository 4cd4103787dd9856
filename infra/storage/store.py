"""`Storage`: the files below one place. Each is written once, and is complete or not there.

Only `create` decides between writers. On a disk it is a hard link, which fails where the name is taken; on object storage it is a
conditional put (`If-None-Match: *`), which Arrow does not know, so `obstore` (the extra `cloud`) does it.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from infra.storage.place import Location, Place, StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_SET = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; AWS_ENDPOINT_URL where it is not Amazon's",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfss": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

PARTIAL_S = 86_400
"""An incomplete file that is older has no writer any more, seconds."""


@dataclass(frozen=True)
class Stored:
    """A file: its name below the root, its bytes, and when it was written (seconds since the epoch, by the storage's clock)."""

    name: str
    size: int
    written_s: float


class Storage:
    """The files below a place, by their names relative to it (`a/b.json`).

    Args:
        root: a folder, which need not exist yet, or a URL of object storage.

    Raises (all methods):
        StorageError: it does not answer, refuses, or (where a file is needed) has none of that name (`FileNotFoundError` then).
    """

    def __init__(self, root: Place) -> None:
        self.root = root

    @property
    def local(self) -> Path | None:
        """The folder, where it is one on this machine."""
        return self.root if isinstance(self.root, Path) else None

    def arrow(self) -> tuple[FileSystem, str]:
        """Arrow's file system, and the root's path in it: for `pyarrow.dataset`."""
        if isinstance(self.root, Path):
            from pyarrow.fs import LocalFileSystem

            return LocalFileSystem(), str(self.root)
        with self._said(""):
            return _arrow(str(self.root))

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to be read, with `seek`."""
        with self._said(name, reading=True):
            if isinstance(self.root, Path):
                with (self.root / name).open("rb") as file:
                    yield file
                return
            system, path = self.arrow()
            with system.open_input_file(f"{path}/{name}") as opened:
                yield cast(BinaryIO, opened)

    def create(self, name: str, content: bytes) -> bool:
        """Make a file, unless there is one of that name: then nothing is done, and it is False. Of many who try at once, one gets True."""
        with self._said(name):
            if isinstance(self.root, Path):
                partial = self._beside(name)
                try:
                    with partial.open("xb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                    return _linked(partial, self.root / name)
                finally:
                    partial.unlink(missing_ok=True)
            from obstore.exceptions import AlreadyExistsError

            try:
                _objects(str(self.root)).put(name, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def upload(self, made: Path, name: str) -> None:
        """Put a complete file of this machine here; it is gone there. `name` must say its content: one that is there already is the same,
        and counts as written now, so that nobody takes it for one that nothing needs.
        """
        with self._said(name):
            if isinstance(self.root, Path):
                partial, final = self._beside(name), self.root / name
                _moved(made, partial)
                try:
                    if not _linked(partial, final):
                        os.utime(final)
                finally:
                    partial.unlink(missing_ok=True)
                return
            with made.open("rb") as file:
                _objects(str(self.root)).put(name, file)
            made.unlink()

    def list(self, below: str = "") -> list[Stored]:
        """The files below a folder (`a/`; empty: all), by name; none where there is no such folder.

        What is being written is left out. (What a writer that was killed has left on a disk is listed when it is a day old.)
        """
        with self._said(below):
            if isinstance(self.root, Path):
                return sorted(_walk(self.root, below.strip("/")), key=lambda f: f.name)
            from pyarrow.fs import FileSelector, FileType

            system, path = self.arrow()
            chosen = f"{path}/{below.strip('/')}".rstrip("/")
            found = system.get_file_info(FileSelector(chosen, recursive=True, allow_not_found=True))
            files = [f for f in found if f.type == FileType.File]
            return sorted((Stored(f.path[len(path) + 1 :], f.size, f.mtime.timestamp()) for f in files), key=lambda f: f.name)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none."""
        from pyarrow.fs import FileType

        with self._said(name):
            system, path = self.arrow()
            info = system.get_file_info(f"{path}/{name}")
            return info.size if info.type == FileType.File else None

    def delete(self, name: str) -> None:
        """Remove a file; that there is none is well. A folder that it leaves empty goes, too."""
        with self._said(name):
            if isinstance(self.root, Path):
                path = self.root / name
                path.unlink(missing_ok=True)
                for folder in path.parents:
                    if folder == self.root or not folder.is_relative_to(self.root) or not _removed(folder):
                        return
                return
            from obstore.exceptions import NotFoundError

            try:
                _objects(str(self.root)).delete(name)
            except (NotFoundError, FileNotFoundError):
                return

    def _beside(self, name: str) -> Path:
        """Where a file of a disk is written to before it has its name."""
        assert isinstance(self.root, Path)
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")

    @contextmanager
    def _said(self, name: str, reading: bool = False) -> Iterator[None]:
        """Turn what file systems raise into a sentence; that a file to be read is not there stays a FileNotFoundError."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            if reading:
                raise FileNotFoundError(f"{self.root}/{name}: there is no such file") from None
            raise self._sentence(name, error) from error
        except ImportError as error:
            raise StorageError(f"{self.root}: object storage needs the extra `cloud` (pip install 'headrace[cloud]'): {error}") from None
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("obstore", "pyarrow")):
                raise
            raise self._sentence(name, error) from error

    def _sentence(self, name: str, error: Exception) -> StorageError:
        hint = f" (set {_SET[self.root.scheme]})" if isinstance(self.root, Location) else ""
        why = getattr(error, "strerror", None) or " ".join(str(error).partition("Debug source")[0].split())
        return StorageError(f"{f'{self.root}/{name}'.rstrip('/')}: {why[:500]}{hint}")


def _linked(partial: Path, final: Path) -> bool:
    """Give a complete file its name, for good once this returns; False where the name is taken."""
    try:
        os.link(partial, final)
    except FileExistsError:
        return False
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _moved(made: Path, partial: Path) -> None:
    """A file of this machine, beside where it is to be, and on the disk for good."""
    try:
        made.rename(partial)
    except OSError:  # another disk
        shutil.copyfile(made, partial)
        made.unlink()
    with partial.open("rb") as file:
        os.fsync(file.fileno())


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _walk(root: Path, below: str) -> Iterator[Stored]:
    for folder, _, names in os.walk(root / below):
        for name in names:
            path = Path(folder, name)
            try:
                info = path.stat()
            except FileNotFoundError:  # gone since
                continue
            if name.startswith(".") and name.endswith(".new") and time.time() - info.st_mtime < PARTIAL_S:
                continue
            yield Stored(path.relative_to(root).as_posix(), info.st_size, info.st_mtime)


@lru_cache(maxsize=32)
def _arrow(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem, S3FileSystem

    scheme, _, path = url.partition("://")
    if scheme == "s3":
        asked: dict[str, Any] = {"background_writes": False}
        if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            asked["region"] = region
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            asked["scheme"], _, asked["endpoint_override"] = endpoint.rstrip("/").partition("://")
        return S3FileSystem(**asked), path
    system, inside = FileSystem.from_uri(url)
    return system, inside.rstrip("/")


@lru_cache(maxsize=32)
def _objects(url: str) -> Any:
    from obstore.store import from_url

    if not url.startswith("s3://"):
        return from_url(url)
    asked: dict[str, Any] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint:
        asked["endpoint"] = endpoint
    client: Any = {"allow_http": endpoint.startswith("http://"), "timeout": "60s"}
    retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
    return from_url(url, client_options=client, retry_config=retry, **asked)
