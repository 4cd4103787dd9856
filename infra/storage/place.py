"""Where something lies: a folder on this machine (a `Path`), or a URL of object storage (a `Location`). Both are joined by `/`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCHEMES = ("s3", "gs", "abfs", "abfss")
"""Of object storage, as `pyarrow.fs` and `obstore` know them."""
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+")


class StorageError(OSError):
    """Storage does not answer, or refuses; the message says which URL, why, and what to set."""


@dataclass(frozen=True, order=True)
class Location:
    """A URL of object storage, without a slash at its end. `s3://bucket/a` / `b` is `s3://bucket/a/b`."""

    url: str

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]


Place = Path | Location


def is_url(text: str) -> bool:
    """Whether a text has a scheme; also where a slash was lost, as it is when a path is made of it (`s3:/bucket`)."""
    return bool(_URL.match(text))


def place_of(text: str) -> Place:
    """What a path or URL names.

    Raises:
        StorageError: it is a URL of something that is no storage of ours, or names no bucket.
    """
    if not is_url(text):
        return Path(text).expanduser().absolute()
    split = urlsplit(text)
    if split.scheme == "file":
        if split.netloc not in ("", "localhost"):
            raise StorageError(f"{text}: a file:// URL has three slashes: file:///folder")
        return Path(unquote(split.path))
    if split.scheme not in SCHEMES:
        raise StorageError(f"{text}: {split.scheme}:// is no storage; it is a folder, or a URL of {', '.join(f'{s}://' for s in SCHEMES)}")
    if not split.netloc:
        raise StorageError(f"{text}: no bucket is named; it is {split.scheme}://bucket/folder")
    return Location(text.rstrip("/"))
